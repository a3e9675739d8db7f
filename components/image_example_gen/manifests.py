"""Manifests: CSV with a header, or JSON lines, with `path`, `label` and perhaps `split`; paths start at the manifest."""

from __future__ import annotations

import csv
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tfx.dsl.io import fileio

from components.image_example_gen import listing, naming, rejects
from components.image_example_gen.rejects import Reject
from components.image_example_gen.spans import DataError
from modules import features

_ROWS_AT_ONCE = 512


class Row(NamedTuple):
    """A picture's path as written, its label, and its split, empty if its content decides."""

    path: str
    label: str
    split: str


def is_manifest(name: str) -> bool:
    """Return whether a file is taken for a manifest, by its name."""
    return name.lower().endswith((".csv", ".jsonl", ".ndjson"))


def files(uri: str) -> Iterator[tuple[Row, listing.FoundFile | Reject]]:
    """Look up the files that a manifest names.

    Args:
      uri: of the manifest.

    Yields:
      Each row with its file, or with why that can't be taken. For a row that can't be read the row itself is empty.

    Raises:
      DataError: the file is not a manifest: not UTF-8, or without the columns that it needs.
    """
    root = os.path.dirname(uri)
    rows = read(uri)
    while batch := list(itertools.islice(rows, _ROWS_AT_ONCE)):
        good = []
        for row in batch:
            if isinstance(row, Reject):
                yield Row("", "", ""), row
            elif naming.leads_outside(root, row.path):
                yield row, Reject(row.path, rejects.OUTSIDE_ROOT, f"leads outside the folder of {os.path.basename(uri)}")
            else:
                good.append(row)
        yield from zip(good, listing.stat_files(root, [os.path.normpath(row.path) for row in good]), strict=True)


def read(uri: str) -> Iterator[Row | Reject]:
    """Read a manifest, a row at a time.

    Args:
      uri: of the manifest.

    Yields:
      Each row, or which line can't be understood and why.

    Raises:
      DataError: as for `files`.
    """
    name = os.path.basename(uri)
    try:
        with fileio.open(uri, "r") as opened:
            values = _csv_values(uri, opened) if name.lower().endswith(".csv") else _json_values(opened)
            for line, value in values:
                yield _to_row(value, f"{name}:{line}")
    except UnicodeDecodeError:
        raise DataError(f"{uri}: is not UTF-8; save it as UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{uri}: not CSV: {error}") from None


def _csv_values(uri: str, lines: Iterable[str]) -> Iterator[tuple[int, object]]:
    reader = csv.DictReader(_without_mark(lines))
    columns = reader.fieldnames or []
    if missing := {"path", "label"} - set(columns):
        raise DataError(
            f"{uri}: no column {' and no column '.join(sorted(missing))} in the header"
            f" {','.join(columns)!r}; expected path,label or path,label,split"
        )
    for value in reader:
        yield reader.line_num, value


def _json_values(lines: Iterable[str]) -> Iterator[tuple[int, object]]:
    for number, line in enumerate(_without_mark(lines), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                yield number, error


def _to_row(value: object, where: str) -> Row | Reject:
    if not isinstance(value, dict):
        why = f"not JSON: {value}" if isinstance(value, json.JSONDecodeError) else 'expected {"path": …, "label": …}'
        return Reject(where, rejects.BAD_ROW, why)
    path, label, split = (value.get(key) for key in ("path", "label", "split"))
    if not isinstance(path, str) or not path.strip():
        return Reject(where, rejects.BAD_ROW, "has no path")
    try:
        f"{path}{label}".encode()
    except UnicodeEncodeError as error:
        # JSON can write it: "\ud800".
        return Reject(where, rejects.BAD_ROW, f"its path or label is no Unicode text: {error.object[error.start]!r}")
    if label is None or isinstance(label, (dict, list, float)) or not str(label).strip():
        return Reject(path, rejects.NO_LABEL, f"has no label in {where}")
    if split not in {None, "", *features.SPLITS}:
        return Reject(path, rejects.BAD_ROW, f"split {split!r} in {where}; expected {', '.join(features.SPLITS)} or nothing")
    return Row(path, str(label), split or "")


def _without_mark(lines: Iterable[str]) -> Iterator[str]:
    """Drop the byte order mark that spreadsheets write."""
    for number, line in enumerate(lines):
        yield line if number else line.removeprefix("\ufeff")
