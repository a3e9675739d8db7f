"""Which revision of this project's code this is."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

VARIABLE = "FINETUNE_REVISION"
"""Environment variable that an image sets."""


def revision() -> str | None:
    """Return the revision of this project's code: what its image says, or what git does; None if neither does."""
    if given := os.environ.get(VARIABLE):
        return given
    try:
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 a fixed command
    except (OSError, subprocess.CalledProcessError):
        return None
