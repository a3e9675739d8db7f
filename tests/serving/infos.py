"""What versions say of themselves in tests that care little about it."""

import os
from typing import Any

from serving import files, model_info


def write_info(folder: str, number: int, **said: Any) -> None:
    """Let a version that is being written say what it is, and which files it has."""
    info = {
        "version": number,
        "published": "",
        "name": "digits",
        "labels": [],
        "image": {},
        "metrics": {},
        "git_revision": None,
        "config_fingerprint": "",
        "data_fingerprint": "",
        "lineage": {},
        "versions": {},
        "warmup": [],
        "model_digest": model_info.digest(folder),
        "files": files.digests(folder),
    }
    written = model_info.ModelInfo.model_validate(info | said)
    files.write(os.path.join(folder, model_info.FILE), written.model_dump_json())
