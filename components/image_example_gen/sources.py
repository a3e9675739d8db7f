"""The pictures of a source: which files there are, and under which label and split they were put.

A source is a folder with one subfolder per class, the same below `train/`, `eval/` and `test/`, a manifest
(CSV or JSON lines), or TFRecords of tf.Examples.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from tfx.dsl.io import fileio

from components.image_example_gen import listing, manifests, naming, rejects
from components.image_example_gen.rejects import Reject
from components.image_example_gen.spans import DataError, Location
from modules import features

_VALIDATION_NAMES = {"val", "valid", "validation", "dev"}
_EXPECTED = (
    "expected a folder with one subfolder of pictures per class, a manifest (.csv, .jsonl) or TFRecords (*.tfrecord*)"
)


class ImageFile(NamedTuple):
    """A file that should be a picture.

    Attributes:
      path: below the source, with `/`.
      uri: where to read it.
      label: name of its class.
      split: that it was put in; empty if its content decides.
      span: number of its span, 0 without spans.
      size: bytes.
      modified: nanoseconds since 1970.
    """

    path: str
    uri: str
    label: str
    split: str
    span: int
    size: int
    modified: int


class RecordFile(NamedTuple):
    """A file of TFRecords with a tf.Example for each picture; attributes as those of `ImageFile`."""

    path: str
    uri: str
    span: int
    size: int
    modified: int


class Survey(NamedTuple):
    """What is known of a source before a file is opened: a hash of all paths, sizes and times, and the volume in bytes."""

    fingerprint: str
    bytes: int


def list_files(location: Location) -> Iterator[ImageFile | RecordFile | Reject]:
    """List what a source holds, in a fixed order, without opening a picture.

    Args:
      location: of the source, on any filesystem that TFX reads.

    Yields:
      Each file that should be a picture or hold some, and each that can't be taken.

    Raises:
      DataError: there is no such source, or its layout can't be understood.
    """
    uri, name = location.uri, os.path.basename(location.uri)
    if ".tfrecord" in name:
        found: Iterator[ImageFile | RecordFile | Reject] = _list_records(location)
    elif not fileio.exists(uri):
        raise DataError(f"{uri}: no such file or folder; {_EXPECTED}")
    elif manifests.is_manifest(name):
        found = _list_manifest(location)
    elif not fileio.isdir(uri):
        raise DataError(f"{uri}: is a file; {_EXPECTED}")
    else:
        found = _list_tree(location)
    for entry in found:
        yield entry._replace(path=f"{location.name}/{entry.path}") if location.name else entry


def check(locations: Iterable[Location]) -> None:
    """Look for pictures of at least two classes, no further than needed, without opening any.

    Args:
      locations: of the source.

    Raises:
      DataError: there are none, or only those of one class.
    """
    labels: set[str] = set()
    last: Location | None = None
    rejected: Reject | None = None
    for last in locations:
        for entry in list_files(last):
            if isinstance(entry, RecordFile):
                return
            if isinstance(entry, Reject):
                rejected = rejected or entry
                continue
            labels.add(entry.label)
            if len(labels) > 1:
                return
    uri = last.uri if last else "data.source"
    check_classes(uri, labels)
    why = f" ({rejected.path}: {rejected.message})" if rejected else ""
    raise DataError(f"{uri}: no pictures found{why}; {_EXPECTED}")


def check_classes(source: str, labels: Collection[str]) -> None:
    """Refuse a single class.

    Args:
      source: where the pictures are from.
      labels: those that were found.

    Raises:
      DataError: there is just one.
    """
    if len(labels) == 1:
        (label,) = labels
        raise DataError(f"{source}: only one class, {label}; a classifier needs pictures of at least two")


def survey(locations: Iterable[Location]) -> Survey:
    """Tell one state of a source from another.

    Args:
      locations: of the source.
    """
    digest, size = hashlib.sha256(), 0
    for location in locations:
        for entry in list_files(location):
            digest.update(repr(tuple(entry)).encode())
            size += getattr(entry, "size", 0)
    return Survey(digest.hexdigest(), size)


def clean_label(label: str) -> str:
    """Return a label as it is used: composed Unicode, so that one name is one class on every filesystem.

    Args:
      label: as found.

    Raises:
      ValueError: there is none, or it holds what a vocabulary file can't.
    """
    label = unicodedata.normalize("NFC", label).strip()
    if not label:
        raise ValueError("has no label")
    if any(unicodedata.category(character) in {"Cc", "Zl", "Zp"} for character in label):
        raise ValueError(f"the label {label!r} holds a line break or a control character")
    return label


def _list_tree(location: Location) -> Iterator[ImageFile | Reject]:
    levels = 2 if _has_split_folders(location.uri) else 1
    for found in listing.walk(location.uri):
        if isinstance(found, Reject):
            yield found
            continue
        parts = found.path.split("/")
        if len(parts) <= levels:
            yield Reject(found.path, rejects.NO_LABEL, "lies in no class's folder")
        else:
            uri = os.path.join(location.uri, found.path)
            yield _image_file(found, uri, parts[levels - 1], parts[0] if levels == 2 else "", location)


def _has_split_folders(uri: str) -> bool:
    """Whether a tree has train, eval and test above its classes."""
    try:
        names = [name for name in listing.names_of(uri) if not naming.is_hidden(name)]
    except listing.UNREADABLE_ERRORS as error:
        raise DataError(f"{uri}: can't be listed: {naming.reason_of(error)}") from None
    if not {*names} & {*features.SPLITS}:
        return False
    folders = {name for name in names if fileio.isdir(os.path.join(uri, name))}
    if features.TRAIN not in folders or not folders <= {*features.SPLITS, *_VALIDATION_NAMES}:
        return False
    if folders == set(features.SPLITS):
        return True
    raise DataError(
        f"{uri}: holds the folders {', '.join(sorted(folders))}; a tree with splits above its classes needs exactly"
        f" {', '.join(features.SPLITS)} (rename a folder of validation data to eval), any other tree one subfolder per class"
    )


def _list_manifest(location: Location) -> Iterator[ImageFile | Reject]:
    root = os.path.dirname(location.uri)
    for row, found in manifests.files(location.uri):
        if isinstance(found, Reject):
            yield found
        else:
            yield _image_file(found, os.path.join(root, found.path), row.label, row.split, location)


def _list_records(location: Location) -> Iterator[RecordFile | Reject]:
    root = os.path.dirname(location.uri)
    uris = sorted(fileio.glob(location.uri))
    if not uris:
        raise DataError(f"{location.uri}: no such file; {_EXPECTED}")
    for found in listing.stat_files(root, [os.path.basename(uri) for uri in uris]):
        if isinstance(found, Reject):
            yield found
        else:
            uri = os.path.join(root, found.path)
            yield RecordFile(found.path, uri, location.span, found.size, found.modified)


def _image_file(found: listing.FoundFile, uri: str, label: str, split: str, location: Location) -> ImageFile | Reject:
    try:
        label = clean_label(label)
    except ValueError as error:
        return Reject(found.path, rejects.BAD_LABEL, str(error))
    return ImageFile(found.path, uri, label, split, location.span, found.size, found.modified)
