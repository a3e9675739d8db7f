"""The pictures of a source: which files there are, and under which label and split they were put.

A source is a folder with one subfolder per class, the same below splits such as `train/` and `test/`, a manifest
(CSV or JSON lines), or TFRecords of tf.Examples.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from components.image_example_gen import files, listing, manifests, naming, rejects
from components.image_example_gen.rejects import Reject
from components.image_example_gen.spans import DataError, Location
from modules import features, headers

_TFRECORDS = ".tfrec"
_EXPECTED = (
    "expected a folder with one subfolder of pictures per class, a manifest (.csv, .jsonl) or TFRecords (*.tfrecord*,"
    " *.tfrec); archives have to be unpacked"
)


class ImageFile(NamedTuple):
    """A file that should be a picture.

    Attributes:
      path: below the source, with `/`.
      uri: where to read it.
      label: name of its class; empty for a file in no class's folder, which is no picture by its name.
      split: that it was put in; empty if its content decides.
      group: what it belongs to by the manifest; empty if to nothing.
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
    group: str = ""


class RecordFile(NamedTuple):
    """A file of TFRecords with a tf.Example for each picture; attributes as those of `ImageFile`."""

    path: str
    uri: str
    span: int
    size: int
    modified: int


class ClassFolder(NamedTuple):
    """A folder of a tree that stands for a label, whether or not there are pictures in it; its path below the source."""

    path: str
    label: str


Entry = ImageFile | RecordFile | ClassFolder | Reject
"""What a source may hold."""


def list_files(location: Location, group_name: str | None = None, hasty: bool = False) -> Iterator[Entry]:
    """List what a source holds, in a fixed order, without opening a picture.

    Args:
      location: of the source, on any filesystem that TFX reads.
      group_name: column of a manifest that says what belongs together; None if none does.
      hasty: one file of each folder, or about one of each label of a manifest, is enough.

    Yields:
      Each file that should be a picture or hold some, each that can't be taken, and each folder of a class.

    Raises:
      DataError: there is no such source, or its layout can't be understood.
    """
    uri, name = location.uri, os.path.basename(location.uri)
    # What is there by its very name is no pattern.
    if files.is_folder(uri):
        if group_name is not None:
            raise DataError(
                f"{uri}: data.group = {group_name} names a column, and a folder has none; a pattern over the paths has"
                " (?P<group>…) in it"
            )
        found: Iterator[Entry] = _list_tree(location, hasty)
    elif _TFRECORDS in name:
        found = _list_records(location)
    elif not files.exists(uri):
        raise DataError(f"{uri}: no such file or folder; {_EXPECTED}")
    elif manifests.is_manifest(name):
        found = _list_manifest(location, group_name, hasty)
    else:
        raise DataError(f"{uri}: is a file; {_EXPECTED}")
    for entry in found:
        yield entry._replace(path=f"{location.name}/{entry.path}") if location.name else entry


def check(locations: Iterable[Location], group_name: str | None = None) -> None:
    """Look for pictures of at least two classes, no further than needed, without opening any.

    Args:
      locations: of the source.
      group_name: as for `list_files`.

    Raises:
      DataError: there are none, or only those of one class.
    """
    places = list(locations)
    for hasty in (True, False):  # in a hurry, little is looked at where much has to be
        labels: set[str] = set()
        rejected: Reject | None = None
        for place in places:
            for entry in list_files(place, group_name, hasty):
                if isinstance(entry, RecordFile):
                    return
                if isinstance(entry, Reject):
                    rejected = rejected or entry
                elif isinstance(entry, ImageFile) and entry.label:
                    labels.add(entry.label)
                if len(labels) > 1:
                    return
    uri = places[-1].uri if places else "data.source"
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
        raise DataError(
            f"{source}: only one class, {label}; a classifier needs pictures of at least two{_lower(source, label)}"
        )


def _lower(source: str, label: str) -> str:
    """A hint where the one class is a folder with more folders in it."""
    folder = os.path.join(source, label)
    try:
        below = [name for name in files.names(folder) if not listing.is_hidden(name)] if files.is_folder(folder) else []
        folders = [name for name in below[:1000] if files.is_folder(os.path.join(folder, name))]
    except files.ERRORS:
        return ""
    return f"; if {', '.join(folders[:3])} are the classes, name {folder}" if len(folders) > 1 else ""


def holds(uri: str, path: str) -> bool:
    """Return whether a path on this machine lies in a source, whose files would then be read with it.

    Args:
      uri: of the source, on this machine.
      path: which need not be there yet.
    """
    return files.is_folder(uri) and not listing.leads_outside(
        uri, os.path.relpath(os.path.realpath(path), os.path.realpath(uri))
    )


def _list_tree(location: Location, hasty: bool) -> Iterator[ImageFile | ClassFolder | Reject]:
    try:
        top = listing.top(location.uri, hasty)
    except files.ERRORS as error:
        raise DataError(f"{location.uri}: can't be listed: {listing.reason_of(error)}") from None
    splits = _split_folders(location.uri, top)
    levels = 2 if splits else 1
    below: dict[str, set[naming.Meaning]] = {}
    classes: set[str] = set()
    for found in listing.walk(location.uri, top, levels, hasty):
        if isinstance(found, Reject):
            yield found
            continue
        parts = found.path.split("/")
        if isinstance(found, listing.Folder):
            if len(parts) == levels and (label := _label_or_none(parts[-1])):
                classes.add(label)
                yield ClassFolder(found.path, label)
            continue
        uri = os.path.join(location.uri, found.path)
        if listing.is_container(parts[-1]):
            yield Reject(found.path, rejects.CONTAINER, listing.IN_A_CONTAINER)
        elif len(parts) > levels:
            if len(parts) > levels + 1 and (meaning := naming.meaning_of(parts[levels])):
                _refuse_splits_below(location.uri, parts, levels, meaning, below)
            yield _image_file(found, uri, parts[levels - 1], splits.get(parts[0], ""), location)
        elif headers.claims_to_be_a_picture(parts[-1]):
            yield Reject(found.path, rejects.NO_LABEL, rejects.IN_NO_CLASS)
        else:
            yield ImageFile(found.path, uri, "", "", location.span, found.size, found.modified)
    meanings = [meaning for name in classes if (meaning := naming.meaning_of(name))]
    if splits and len(meanings) == len(classes) and naming.are_splits(meanings):
        folders = " and ".join(sorted(splits))
        raise DataError(f"{location.uri}: {folders} hold {_named(classes)}, which are splits once more: move the classes up")


def _label_or_none(name: str) -> str | None:
    try:
        return naming.clean_label(name)
    except ValueError:  # its files are rejected by name
        return None


def _refuse_splits_below(
    uri: str, parts: list[str], levels: int, meaning: naming.Meaning, below: dict[str, set[naming.Meaning]]
) -> None:
    """Refuse a class with folders that look like splits, which would be mixed; `below` keeps what was seen of each."""
    seen = below.setdefault("/".join(parts[:levels]), set())
    if meaning in seen:
        return
    seen.add(meaning)
    if naming.are_splits(seen):
        folder = os.path.join(uri, *parts[:levels])
        raise DataError(
            f"{folder}: holds folders that look like splits, {parts[levels]} among them; splits belong above the classes:"
            f" {', '.join(f'{name}/{parts[levels - 1]}' for name in features.SPLITS)}"
        )


def _split_folders(uri: str, top: Iterable[listing.FoundFile | listing.Folder | Reject]) -> dict[str, str]:
    """Which split each folder of a tree is; nothing where they are classes."""
    # What of the top can't be read, and is a container, is a folder too.
    folders = {
        found.path
        for found in top
        if isinstance(found, listing.Folder) or (isinstance(found, Reject) and found.code == rejects.CONTAINER)
    }
    try:
        return naming.split_folders(folders)
    except ValueError as error:
        raise DataError(f"{uri}: holds the folders {_named(folders)}, of which {error}") from None


def _named(names: Collection[str]) -> str:
    shown = sorted(map(rejects.printable, names))
    return ", ".join(shown[:10]) + (f" and {len(shown) - 10} more" if len(shown) > 10 else "")


def _list_manifest(location: Location, group_name: str | None, hasty: bool) -> Iterator[ImageFile | Reject]:
    root = os.path.dirname(location.uri)
    for row, found in manifests.files(location.uri, group_name, one_a_label=hasty):
        if isinstance(found, Reject):
            yield found
        else:
            yield _image_file(found, os.path.join(root, found.path), row.label, row.split, location, row.group)


def _list_records(location: Location) -> Iterator[RecordFile | Reject]:
    try:
        uris = files.matches(location.uri)
    except files.ERRORS as error:
        raise DataError(f"{location.uri}: can't be listed: {listing.reason_of(error)}") from None
    if not uris:
        raise DataError(f"{location.uri}: no such file; {_EXPECTED}")
    root = os.path.dirname(location.uri)
    while root and not files.is_folder(root):  # a pattern itself
        root = os.path.dirname(root)
    for found in listing.stat_files(root, [uri[len(root) :].lstrip("/") for uri in uris]):
        if isinstance(found, Reject):
            yield found._replace(code=rejects.CONTAINER) if found.code == rejects.UNREADABLE else found
        else:
            uri = os.path.join(root, found.path)
            yield RecordFile(found.path, uri, location.span, found.size, found.modified)


def _image_file(
    found: listing.FoundFile, uri: str, label: str, split: str, location: Location, group: str = ""
) -> ImageFile | Reject:
    try:
        label = naming.clean_label(label)
    except ValueError as error:
        return Reject(found.path, rejects.BAD_LABEL, str(error))
    return ImageFile(found.path, uri, label, split, location.span, found.size, found.modified, group)
