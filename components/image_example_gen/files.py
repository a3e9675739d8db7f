"""Files and folders of this machine, and those of any filesystem that TFX reads, which is imported only for them.

Whatever goes wrong with one is an OSError, or a ValueError for a name that can be none.
"""

from __future__ import annotations

import contextlib
import fnmatch
import logging
import os
import stat
from collections.abc import Iterator
from typing import Any, NamedTuple

_FILE = "file://"
_log = logging.getLogger("finetune.components.image_example_gen")
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


def scan(folder: str) -> list[os.DirEntry[str]]:
    """Return what is in a folder of this machine, sorted by name: of what kind each is, is known without asking for it."""
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def below(folder: str) -> list[tuple[str, Stat]] | None:
    """Return the files below a folder on an object store, whose listing tells their sizes and times with their names.

    Args:
      folder: a location, not on this machine.

    Returns:
      Their paths below the folder, sorted, and what is known of them; None where nothing lists folders in this way.
    """
    from apache_beam.io import filesystem, filesystems

    try:
        if filesystems.FileSystems.get_filesystem(folder).has_dirs():
            return None
        pattern = "".join(f"[{letter}]" if letter in "*?[" else letter for letter in folder)
        (match,) = filesystems.FileSystems.match([f"{pattern}/**"])
    except ValueError:  # Beam does not know it
        return None
    except filesystem.BeamIOError as error:
        _log.warning("%s: not listed at one go, but file by file, which takes its time: %s", folder, error)
        return None
    found = ((one.path[len(folder) + 1 :], one) for one in match.metadata_list)
    return sorted(
        (path, Stat(one.size_in_bytes, round(one.last_updated_in_seconds * 1e9), is_folder=False))
        for path, one in found
        if not path.endswith("/") and path  # stands for a folder
    )


def names(folder: str) -> list[str]:
    """Return the sorted names in a folder."""
    if is_local(folder):
        return sorted(os.listdir(folder))
    with _as_os_errors() as fileio:
        return sorted(name.rstrip("/") for name in fileio.listdir(folder))


def is_as_listed(file: Any, uri: str, size: int, modified: int) -> bool:
    """Return whether an open file is what was listed, as far as that costs nothing: on this machine alone.

    Args:
      file: as `opened` returns it.
      uri: where it is.
      size: bytes, when it was listed.
      modified: nanoseconds since 1970, then.
    """
    if not is_local(uri):
        return True
    found = os.fstat(file.fileno())
    return (found.st_size, found.st_mtime_ns) == (size, modified)


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
