"""Files and folders of this machine, and those of any filesystem that TFX reads, which is imported only for them.

Whatever goes wrong with one is an OSError, or a ValueError for a name that can be none.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import stat
from collections.abc import Iterator
from typing import Any, NamedTuple

_FILE = "file://"
ERRORS = (OSError, ValueError)
"""What is raised here."""


class Stat(NamedTuple):
    """Length in bytes, modification time in nanoseconds since 1970, and whether it is a folder."""

    size: int
    modified: int
    is_folder: bool


def is_local(uri: str) -> bool:
    """Return whether a location has no scheme such as `gs://`: only such locations have links."""
    return "://" not in uri


def plain(uri: str) -> str:
    """Return a location without `file://`, which is what this machine's own files are without it."""
    return uri.removeprefix(_FILE)


def exists(uri: str) -> bool:
    """Return whether something is there by this very name."""
    if is_local(uri):
        return os.path.exists(uri)
    with _as_os_errors() as fileio:
        return fileio.exists(uri)


def is_folder(uri: str) -> bool:
    """Return whether a folder is there by this very name."""
    if is_local(uri):
        return os.path.isdir(uri)
    with _as_os_errors() as fileio:
        return fileio.isdir(uri)


def look_up(uri: str) -> Stat:
    """Return what is known of a file or a folder."""
    if is_local(uri):
        found = os.stat(uri)
        return Stat(found.st_size, found.st_mtime_ns, stat.S_ISDIR(found.st_mode))
    with _as_os_errors() as fileio:
        there = fileio.stat(uri)
        return Stat(there.length, there.mtime_nsec, there.is_directory)


def names(folder: str) -> list[str]:
    """Return the sorted names in a folder."""
    if is_local(folder):
        return sorted(os.listdir(folder))
    with _as_os_errors() as fileio:
        return sorted(name.rstrip("/") for name in fileio.listdir(folder))


def matches(pattern: str) -> list[str]:
    """Return what a pattern with `*`, `?` or `[…]` stands for, sorted; whatever is there by its very name is no pattern.

    Args:
      pattern: a location.
    """
    if exists(pattern):
        return [pattern]
    folder, name = os.path.split(pattern)
    if is_folder(folder or "."):
        return [os.path.join(folder, found) for found in names(folder or ".") if fnmatch.fnmatchcase(found, name)]
    folders = matches(folder) if folder not in {"", pattern} and any(mark in folder for mark in "*?[") else []
    return [found for one in folders if is_folder(one) for found in matches(os.path.join(one, name))]


@contextlib.contextmanager
def opened(uri: str) -> Iterator[Any]:
    """Open a file for reading bytes."""
    if is_local(uri):
        with open(uri, "rb") as file:
            yield file
    else:
        with _as_os_errors() as fileio, fileio.open(uri, "rb") as file:
            yield file


@contextlib.contextmanager
def _as_os_errors() -> Iterator[Any]:
    import tensorflow as tf
    from tfx.dsl.io import fileio

    try:
        yield fileio
    except tf.errors.NotFoundError as error:
        raise FileNotFoundError(2, "No such file or directory") from error
    except tf.errors.OpError as error:
        raise OSError(5, " ".join(error.message.split())) from error
