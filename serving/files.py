"""Files that are there whole or not at all, on local disks and, as far as they allow it, on object stores."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf


def is_local(path: str) -> bool:
    """Whether a path is on a file system of this machine, where a rename is atomic; not on an object store."""
    return "://" not in path


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep others that change a folder out until this is done; the lock ends with the process, however that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write(path: str, text: str) -> None:
    """Write a small file: on a local disk beside it, flushed and renamed; an object store's own writes are whole."""
    if not is_local(path):
        with tf.io.gfile.GFile(path, "w") as opened:
            opened.write(text)
        return
    beside = Path(f"{path}.{os.getpid()}.tmp")
    with beside.open("w", encoding="utf-8") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())
    beside.replace(path)
    flush(Path(path).parent)


def read(path: str) -> str | None:
    """Return a small file's text; None if there is none."""
    if not tf.io.gfile.exists(path):
        return None
    with tf.io.gfile.GFile(path, "r") as opened:
        return opened.read()


def list_files(folder: str) -> list[str]:
    """Return the paths of all files below a folder, relative to it, in order."""
    found = [os.path.join(path, name) for path, _, names in tf.io.gfile.walk(folder) for name in names]
    return sorted(os.path.relpath(path, folder) if is_local(folder) else path[len(folder) :].lstrip("/") for path in found)


def digests(folder: str) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder, by its path in it."""
    found = {}
    for name in list_files(folder):
        digest = hashlib.sha256()
        with tf.io.gfile.GFile(os.path.join(folder, name), "rb") as opened:
            while block := opened.read(2**22):
                digest.update(block)
        found[name] = digest.hexdigest()
    return found


def copy(source: str, target: str, last: str) -> None:
    """Copy all files below a folder.

    Args:
      source: the folder.
      target: a new one.
      last: name of the file that is copied after all others.
    """
    for name in sorted(list_files(source), key=lambda name: (name == last, name)):
        path = os.path.join(target, name)
        tf.io.gfile.makedirs(os.path.dirname(path))
        tf.io.gfile.copy(os.path.join(source, name), path)


def flush_all(folder: Path) -> None:
    """Wait until every file below a folder, and every folder, is on the disk."""
    for path in [*folder.rglob("*"), folder]:
        flush(path)


def flush(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(folder: Path, trash: Path) -> None:
    """Let a folder vanish at once, then free its space.

    Args:
      folder: on the same file system as `trash`.
      trash: a name that is free.
    """
    trash.parent.mkdir(exist_ok=True)
    folder.rename(trash)
    flush(folder.parent)
    shutil.rmtree(trash)
