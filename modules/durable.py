"""Files and folders that are there whole or not at all, whatever ends the process or the machine that writes them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import socket
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

_UNFINISHED = ".unfinished"
_SECONDS_TO_FINISH = 3600.0
_CANT_FLUSH = {errno.EINVAL, errno.ENOTSUP}
_BOOT = Path("/proc/sys/kernel/random/boot_id")


def machine() -> str:
    """Return a name for what processes share that see each other's locks, this kernel and host name: 12 hex digits."""
    booted = _BOOT.read_text(encoding="ascii").strip() if _BOOT.exists() else ""
    return hashlib.sha256(f"{booted} {socket.gethostname()}".encode()).hexdigest()[:12]


def replace(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file, in the place of one that may be there.

    It is written aside and on the disk before it gets its name, and its name is on the disk when this returns: also after a
    power cut either file is found whole. Processes that write the same one do not disturb each other; the last one's stays.

    Args:
      path: of the file, in a folder that is there.
      write: writes the content to a file that is open for binary writing.

    Raises:
      OSError: it can't be written. What was there stays, and nothing is left beside it, as with all that `write` raises.
    """
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}{_UNFINISHED}")
    try:
        with aside.open("xb") as opened:
            write(opened)
            opened.flush()
            os.fsync(opened.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    flush(path.parent)


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
    make_folder(final.parent)
    flush(unfinished)
    try:
        unfinished.rename(final)
    except OSError as error:
        if error.errno not in {errno.EEXIST, errno.ENOTEMPTY}:
            raise
        return False
    flush(final.parent)
    return True


def make_folder(path: Path) -> None:
    """Make a folder, and those above it that are missing, so that a power cut takes none of them.

    Args:
      path: of the folder; that it is there already is no error.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        flush(folder.parent)


def flush(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk.

    Args:
      path: of the file or folder. File systems that can't flush a folder are believed to need no such thing.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _CANT_FLUSH:
            raise
    finally:
        os.close(handle)


def sweep(folder: Path) -> None:
    """Delete what `replace` could not finish in a folder since its process was killed, once nobody can be at it any more.

    Args:
      folder: which need not be there.
    """
    for left in folder.glob(f"*{_UNFINISHED}"):
        # Others may sweep at the same time.
        with contextlib.suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > _SECONDS_TO_FINISH:
                left.unlink()
