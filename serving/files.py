"""Files and folders that are there whole or not at all, on file systems that machines may share."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modules import durable

_LOCK = ".lock"


def is_local(path: str) -> bool:
    """Whether a path is on a file system, where a rename is atomic; not on an object store."""
    return "://" not in path


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Keep other processes of this machine that change a folder out until this is done.

    The lock ends with the process, however that ends. Other machines may not see it.

    Yields:
      Whether it is held: not every volume has locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w", encoding="utf-8") as lock:
        held = True
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            held = False
        yield held


def now(folder: Path) -> float:
    """Return the time of a folder's file system, in seconds since 1970: machines that share it have clocks of their own."""
    lock = folder / _LOCK
    lock.touch()
    return lock.stat().st_mtime


@contextlib.contextmanager
def aside(folder: Path) -> Iterator[Path]:
    """Yield a name that nobody else uses, for what is renamed when it is whole; where that fails, nothing is left of it."""
    unfinished = folder / f"{durable.machine()}-{uuid.uuid4().hex}"
    try:
        yield unfinished
    except BaseException:
        with contextlib.suppress(OSError):
            delete(unfinished)
        raise


def is_own(unfinished: Path) -> bool:
    """Whether a process of this machine gave something its name (`aside`)."""
    return unfinished.name.rpartition("-")[0] == durable.machine()


def delete(path: Path) -> None:
    """Delete a file, or a folder with all that is in it; one that is not there is no error."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def write(path: str, text: str, staging: Path | None = None) -> None:
    """Write a small file aside, flush and rename it.

    Args:
      path: of the file.
      text: its content.
      staging: a folder on the same file system, for what is not whole yet; None takes the file's own.
    """
    with aside(staging or Path(path).parent) as unfinished:
        with unfinished.open("w", encoding="utf-8") as opened:
            opened.write(text)
            opened.flush()
            os.fsync(opened.fileno())
        unfinished.replace(path)
    durable.flush(Path(path).parent)


def read(path: str) -> str | None:
    """Return a small file's text; None if there is none."""
    try:
        with open(path, encoding="utf-8") as opened:
            return opened.read()
    except FileNotFoundError:
        return None


def list_files(folder: str) -> list[str]:
    """Return the paths of all files below a folder, relative to it, in order.

    Args:
      folder: wherever TensorFlow reads.
    """
    found = [os.path.join(path, name) for path, _, names in _walk(folder) for name in names]
    return sorted(os.path.relpath(path, folder) if is_local(folder) else path[len(folder) :].lstrip("/") for path in found)


def digests(folder: str) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder, by its path in it.

    Args:
      folder: wherever TensorFlow reads.
    """
    found = {}
    for name in list_files(folder):
        digest = hashlib.sha256()
        with _open(os.path.join(folder, name)) as opened:
            while block := opened.read(2**22):
                digest.update(block)
        found[name] = digest.hexdigest()
    return found


def copy(source: str, target: str) -> dict[str, str]:
    """Copy all files below a folder.

    Args:
      source: the folder, wherever TensorFlow reads.
      target: a new one, on a file system.

    Returns:
      The SHA-256 of what was written, by its path in the folder.
    """
    found = {}
    for name in list_files(source):
        path, digest = os.path.join(target, name), hashlib.sha256()
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with _open(os.path.join(source, name)) as opened, open(path, "wb") as written:
            while block := opened.read(2**22):
                digest.update(block)
                written.write(block)
        found[name] = digest.hexdigest()
    return found


def flush_all(folder: Path) -> None:
    """Wait until every file below a folder, and every folder, is on the disk."""
    for path in [*folder.rglob("*"), folder]:
        durable.flush(path)


def remove(folder: Path, staging: Path) -> None:
    """Let a folder vanish at once, then free its space; one that somebody else has removed is gone as well.

    Args:
      folder: on the same file system as `staging`.
      staging: takes it, until it is deleted.
    """
    with contextlib.suppress(FileNotFoundError), aside(staging) as trash:
        folder.rename(trash)
        durable.flush(folder.parent)
        shutil.rmtree(trash)


def _walk(folder: str) -> Any:
    if is_local(folder):
        return os.walk(folder)
    import tensorflow as tf

    return tf.io.gfile.walk(folder)


def _open(path: str) -> Any:
    if is_local(path):
        return open(path, "rb")
    import tensorflow as tf

    return tf.io.gfile.GFile(path, "rb")
