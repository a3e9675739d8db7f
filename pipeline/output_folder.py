"""Whether an output folder can be used, told before anything is done there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

METADATA_FILE = "metadata.db"
_MADE_BY_RUNS = (".", "pipeline_root", "pipeline_root/*", "serving", "work", "work/*", "logs", METADATA_FILE)
_LONGEST = 503 - len(METADATA_FILE) - 1
"""Bytes of its path: SQLite opens files of 511 at most, and writes `-journal` behind the name."""
_ROOM = 2**20


class FolderError(RuntimeError):
    """An output folder that can't be used; the message is one line, and says what to do."""


def check(folder: Path) -> None:
    """Check that a run could write into a folder.

    Args:
      folder: absolute; it is there.

    Raises:
      FolderError: its path is too long, a part of it can't be written, or the disk is full.
    """
    if (length := len(os.fsencode(folder))) > _LONGEST:
        raise FolderError(f"{folder}: a path of {length} bytes; at most {_LONGEST} are possible, name a shorter one")
    for path in (path for pattern in _MADE_BY_RUNS for path in _matches(folder, pattern)):
        if not os.access(path, os.W_OK):
            raise FolderError(f"{path}: user {os.getuid()} can't write it; change its owner or mode, or name another folder")
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(_ROOM))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise FolderError(f"{folder}: {error.strerror}; make room there, or name another folder") from None


def _matches(folder: Path, pattern: str) -> list[Path]:
    return [folder] if pattern == "." else sorted(folder.glob(pattern))
