"""The files below a folder, on any filesystem that TFX reads, with what their names and links say against them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from concurrent import futures
from typing import NamedTuple

import tensorflow as tf
from tfx.dsl.io import fileio

from components.image_example_gen import naming, rejects
from components.image_example_gen.rejects import Reject

_STATS_AT_ONCE = 512
_STAT_THREADS = 16
UNREADABLE_ERRORS = (OSError, tf.errors.OpError, UnicodeError)


class FoundFile(NamedTuple):
    """A file: its path below the root, with `/`, its length in bytes and its modification time in nanoseconds."""

    path: str
    size: int
    modified: int


def walk(root: str) -> Iterator[FoundFile | Reject]:
    """List the files below a folder, sorted in each, one folder at a time in memory.

    Hidden files and folders and the like of `Thumbs.db` are passed over.

    Args:
      root: the folder.

    Yields:
      Each file, or why it can't be taken: its name is not UTF-8, it leads outside the root, it can't be read.
    """
    with futures.ThreadPoolExecutor(_STAT_THREADS) as pool:
        yield from _walk(root, "", pool)


def stat_files(root: str, paths: Iterable[str]) -> Iterator[FoundFile | Reject]:
    """Look up files by their paths below a root, many at once, in order.

    Args:
      root: a folder.
      paths: below it, with `/`.

    Yields:
      Each file, or why it can't be taken.
    """
    with futures.ThreadPoolExecutor(_STAT_THREADS) as pool:
        for found in _stat_all(root, paths, pool):
            if isinstance(found, str):
                yield Reject(found, rejects.UNREADABLE, "is a folder")
            else:
                yield found


def names_of(folder: str) -> list[str]:
    """Return the sorted names in a folder.

    Args:
      folder: the folder.

    Raises:
      UNREADABLE_ERRORS: one of them; it can't be listed.
    """
    try:
        return sorted(name.rstrip("/") for name in fileio.listdir(folder))
    except UnicodeDecodeError:
        # TensorFlow gives up on a whole folder for one name that is not UTF-8; only local ones can hold such names.
        return sorted(os.listdir(folder))


def _walk(root: str, below: str, pool: futures.Executor) -> Iterator[FoundFile | Reject]:
    try:
        names = names_of(os.path.join(root, below) if below else root)
    except UNREADABLE_ERRORS as error:
        yield Reject(below, rejects.UNREADABLE, f"the folder can't be listed: {naming.reason_of(error)}")
        return
    paths = [f"{below}/{name}" if below else name for name in names if not naming.is_hidden(name)]
    for found in _stat_all(root, paths, pool):
        if not isinstance(found, str):
            yield found
        elif naming.is_local(root) and os.path.islink(os.path.join(root, found)):
            yield Reject(found, rejects.LINKED_FOLDER, "links to a folder, whose files are taken where they lie")
        else:
            yield from _walk(root, found, pool)


def _stat_all(root: str, paths: Iterable[str], pool: futures.Executor) -> Iterator[FoundFile | Reject | str]:
    """Look paths up, many at once; a folder comes back as its path."""
    if naming.is_local(root):  # a look-up takes microseconds there, less than handing it to a thread
        yield from (_stat(root, path) for path in paths)
        return
    remaining = iter(paths)
    while batch := list(itertools.islice(remaining, _STATS_AT_ONCE)):
        yield from pool.map(_stat, itertools.repeat(root), batch)


def _stat(root: str, path: str) -> FoundFile | Reject | str:
    full = os.path.join(root, path)
    try:
        path.encode()
    except UnicodeEncodeError:
        return Reject(naming.printable(path), rejects.BAD_NAME, "the name is not UTF-8; rename it")
    if naming.is_local(root) and os.path.islink(full) and naming.leads_outside(root, path):
        return Reject(path, rejects.OUTSIDE_ROOT, "links to a place outside the source")
    try:
        stat = fileio.stat(full)
    except UNREADABLE_ERRORS as error:
        return Reject(path, rejects.UNREADABLE, f"can't be read: {naming.reason_of(error)}")
    return path if stat.is_directory else FoundFile(path, stat.length, stat.mtime_nsec)
