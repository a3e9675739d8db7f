"""Writing that neither a kill, a full disk nor a power cut leaves half done: aside, flushed, then renamed."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def publish_folder(unfinished: Path, final: Path) -> bool:
    """Give a folder that is written to the end its name.

    Args:
      unfinished: on the same file system, with files that are flushed (`flush`).
      final: its name from now on; the folder above it is made.

    Returns:
      Whether it has got it; not if another has the name, which stays as it is.

    Raises:
      OSError: it can't get it.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    flush(unfinished)
    try:
        unfinished.rename(final)
    except OSError as error:
        if error.errno not in {errno.EEXIST, errno.ENOTEMPTY}:
            raise
        return False
    flush(final.parent)
    return True


def flush(path: Path) -> None:
    """Have a file or folder on the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
