"""The pictures of a source folder: which there are, and under which label."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import NamedTuple

from tfx.dsl.io import fileio

_PASSED_OVER = {"thumbs.db", "desktop.ini"}


class DataError(ValueError):
    """Data that can't be used; the message says where and what would be right."""


class ImageFile(NamedTuple):
    """A file that should be a picture: its path below the source folder, with `/`, and its label."""

    path: str
    label: str


def list_images(source: str) -> Iterator[ImageFile]:
    """List the files of a folder with one subfolder per class, in a fixed order.

    Nested folders belong to their class. Hidden files and the like of `Thumbs.db` are passed over.

    Args:
      source: a folder, on any filesystem that TFX reads.

    Yields:
      Each file that should be a picture.

    Raises:
      DataError: the folder is missing, is a file, or lies directly above pictures.
    """
    if not fileio.exists(source):
        raise DataError(f"{source}: no such folder; expected a folder with one subfolder of pictures per class")
    if not fileio.isdir(source):
        raise DataError(f"{source}: is a file; expected a folder with one subfolder of pictures per class")
    labels = sorted(name.rstrip("/") for name in fileio.listdir(source))
    for label in labels:
        top = os.path.join(source, label)
        if _is_hidden(label) or not fileio.isdir(top):
            continue
        files = []
        for folder, _, names in fileio.walk(top):
            below = os.path.relpath(folder, source).replace(os.sep, "/")
            if any(_is_hidden(part) for part in below.split("/")):
                continue
            files += [f"{below}/{name}" for name in names if not _is_hidden(name)]
        for path in sorted(files):
            yield ImageFile(path, label)


def check(source: str) -> int:
    """Look for pictures of at least two classes, without opening any.

    Args:
      source: a folder, on any filesystem that TFX reads.

    Returns:
      The number of files.

    Raises:
      DataError: there are none, or only those of one class.
    """
    count, labels = 0, set()
    for file in list_images(source):
        count += 1
        labels.add(file.label)
    if not labels:
        raise DataError(f"{source}: no pictures found; expected one subfolder per class with JPEG or PNG files in it")
    if len(labels) == 1:
        raise DataError(f"{source}: only one class, {labels.pop()}; a classifier needs at least two subfolders of pictures")
    return count


def fingerprint(source: str) -> str:
    """Return a hash of the paths, sizes and modification times of the files, without opening any.

    Args:
      source: a folder, on any filesystem that TFX reads.
    """
    digest = hashlib.sha256()
    for file in list_images(source):
        stat = fileio.stat(os.path.join(source, file.path))
        line = f"{file.path}\0{stat.length}\0{stat.mtime_nsec}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _PASSED_OVER
