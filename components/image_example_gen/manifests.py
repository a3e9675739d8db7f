"""Manifests: CSV with a header, or JSON lines, with `path`, `label` and perhaps `split`; paths start at the manifest.

They are read strictly: a row is a line, as long as the header, and whatever else a line may mean is never guessed.
"""

from __future__ import annotations

import codecs
import collections
import csv
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from components.image_example_gen import files as stored
from components.image_example_gen import listing, naming, rejects
from components.image_example_gen.rejects import Reject
from components.image_example_gen.spans import DataError
from modules import features

_ROWS_AT_ONCE = 512
_COLUMNS = ("path", "label", "split")
_WIDE_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
_EXPECTED = "expected path,label or path,label,split, in lower case, with commas and no blanks between them"


class Row(NamedTuple):
    """A picture's path as written, its label, its split, empty if its content decides, and its group, empty if none."""

    path: str
    label: str
    split: str
    group: str = ""


class _RowError(ValueError):
    """A line that is no row.

    Args:
      message: why.
      code: of the reject.
      path: of the picture, where the line has one.
    """

    def __init__(self, message: str, code: str = rejects.BAD_ROW, path: str = ""):
        super().__init__(message)
        self.code, self.path = code, path


def is_manifest(name: str) -> bool:
    """Return whether a file is taken for a manifest, by its name."""
    return name.lower().endswith((".csv", ".jsonl", ".ndjson"))


def files(uri: str, group: str | None = None, one_a_label: bool = False) -> Iterator[tuple[Row, listing.FoundFile | Reject]]:
    """Look up the files that a manifest names.

    Args:
      uri: of the manifest.
      group: the column that says which pictures belong together; None if none does.
      one_a_label: pass over rows with a label of which a file was found in earlier ones, but for the next few.

    Yields:
      Each row with its file, or with why that can't be taken. For a row that can't be read the row itself is empty.

    Raises:
      DataError: the file is not a manifest: not UTF-8, without the columns that it needs, or with other line ends.
    """
    root = os.path.dirname(uri)
    seen: set[str] = set()
    rows = (row for row in read(uri, group) if isinstance(row, Reject) or row.label not in seen)
    while batch := list(itertools.islice(rows, _ROWS_AT_ONCE)):
        good: list[tuple[Row, str]] = []
        for row in batch:
            if isinstance(row, Reject):
                yield Row("", "", ""), row
                continue
            try:
                path = _below(root, row.path)
                is_outside = "://" in path or listing.leads_outside(root, path := os.path.normpath(path))
            except stored.ERRORS as error:
                yield row, Reject(row.path, rejects.UNREADABLE, f"can't be read: {listing.reason_of(error)}")
                continue
            if is_outside:
                yield row, Reject(row.path, rejects.OUTSIDE_ROOT, f"leads outside the folder of {os.path.basename(uri)}")
            else:
                good.append((row, path))
        for (row, _), found in zip(good, listing.stat_files(root, [path for _, path in good]), strict=True):
            if one_a_label and isinstance(found, listing.FoundFile):
                seen.add(row.label)
            yield row, found


def read(uri: str, group: str | None = None) -> Iterator[Row | Reject]:
    """Read a manifest, a row at a time.

    Args:
      uri: of the manifest.
      group: as for `files`.

    Yields:
      Each row, or which line can't be understood and why. The last of them may say that the rest can't be read.

    Raises:
      DataError: as for `files`.
    """
    name = os.path.basename(uri)
    values = _csv_values if name.lower().endswith(".csv") else _json_values
    number = 0
    try:
        with stored.opened(uri) as opened:
            for number, value in values(uri, _lines(uri, opened), group):
                yield _to_row(value, f"{name}:{number}", group)
    except OSError as error:
        why = f"can't be read behind line {number}, and nobody knows what it names: {listing.reason_of(error)}"
        yield Reject(name, rejects.CONTAINER, why)


def _below(root: str, path: str) -> str:
    """A path relative to the root, where it is an absolute one below it."""
    path = stored.plain(path)
    for above in (root, os.path.abspath(root), os.path.realpath(root)) if stored.is_local(root) else (root,):
        if path.startswith(above.rstrip("/") + "/"):
            return path[len(above.rstrip("/")) + 1 :]
    return path


def _lines(uri: str, opened: Iterable[bytes]) -> Iterator[tuple[int, str]]:
    """The numbered lines, without their ends, which are all alike, and without a byte order mark."""
    end = None
    for number, line in enumerate(opened, start=1):
        if number == 1 and (line.startswith(_WIDE_MARKS) or b"\0" in line[:2]):
            raise DataError(f"{uri}: is UTF-16 or UTF-32, not UTF-8; save it as UTF-8, e.g. as CSV UTF-8")
        body, feed = line.removesuffix(b"\n"), line.endswith(b"\n")
        own = (b"\r\n" if body.endswith(b"\r") else b"\n") if feed else end
        body = body.removesuffix(b"\r") if own == b"\r\n" else body
        end = end or own
        if b"\r" in body or own != end:
            raise DataError(
                f"{uri}: line {number} has another line end than those before it, or that of old Macs, a carriage return"
                " alone: rows would run into one another; save it as CSV UTF-8, or with dos2unix -c mac"
            )
        try:
            text = body.decode()
        except UnicodeDecodeError:
            raise DataError(f"{uri}: line {number} is not UTF-8; save it as UTF-8") from None
        yield number, text.removeprefix("\ufeff") if number == 1 else text


def _csv_values(uri: str, lines: Iterator[tuple[int, str]], group: str | None) -> Iterator[tuple[int, Any]]:
    try:
        columns = _fields(next(lines, (1, ""))[1])
    except _RowError as error:
        raise DataError(f"{uri}: the header {error}; {_EXPECTED}") from None
    header = ",".join(columns)
    if missing := {"path", "label"} - set(columns):
        raise DataError(f"{uri}: no column {' and no column '.join(sorted(missing))} in the header {header!r}; {_EXPECTED}")
    if group is not None and group not in columns:
        raise DataError(f"{uri}: no column {group} in the header {header!r}, which data.group names")
    if twice := [name for name, count in collections.Counter(columns).items() if count > 1 and name in {*_COLUMNS, group}]:
        raise DataError(f"{uri}: the column {' and the column '.join(twice)} is there more than once; keep the right one")
    if near := _nearly_ours(columns):
        raise DataError(f"{uri}: the column {near!r} is written otherwise; {_EXPECTED}")
    for number, line in lines:
        if not line:
            continue
        try:
            fields = _fields(line)
            if len(fields) != len(columns):
                raise _RowError(f"has {len(fields)} fields, and the header has {len(columns)}")
        except _RowError as error:
            yield number, error
        else:
            yield number, dict(zip(columns, fields, strict=True))


def _nearly_ours(columns: Iterable[str]) -> str | None:
    """The first name that is one of ours but for case, blanks, quotes, invisible characters or a plural."""
    ours = (name for name in columns if name not in _COLUMNS)
    return next((name for name in ours if naming.visible(name).strip("\"'").removesuffix("s") in _COLUMNS), None)


def _fields(line: str) -> list[str]:
    """The fields of a line."""
    try:
        (fields,) = csv.reader([line], strict=True)
    except csv.Error as error:
        if str(error) == "unexpected end of data":
            raise _RowError("opens a quote that is not closed in this line; a field can't run over lines") from None
        raise _RowError(f"is not CSV: {error}") from None
    except ValueError:  # an empty line has no row
        return []
    return fields


def _json_values(uri: str, lines: Iterator[tuple[int, str]], group: str | None) -> Iterator[tuple[int, Any]]:
    del uri, group
    for number, line in lines:
        if line.strip():
            try:
                value = json.loads(line, object_pairs_hook=_once)
                if isinstance(value, dict) and (near := _nearly_ours(value)):
                    raise _RowError(f"the key {near!r} is written otherwise; expected {', '.join(_COLUMNS)}, in lower case")
                yield number, value
            except _RowError as error:
                yield number, error
            except (ValueError, RecursionError) as error:
                yield number, _RowError(f"is not JSON: {error}")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys are there once."""
    values = dict(pairs)
    if len(values) < len(pairs):
        raise _RowError("has a key more than once")
    return values


def _to_row(value: Any, where: str, group: str | None) -> Row | Reject:
    try:
        if isinstance(value, _RowError):
            raise value
        return _row(value, where, group)
    except _RowError as error:
        return Reject(error.path or where, error.code, str(error))


def _row(value: Any, where: str, group: str | None) -> Row:
    if not isinstance(value, dict):
        raise _RowError('expected {"path": …, "label": …}')
    path, label, split = (value.get(key) for key in _COLUMNS)
    if not isinstance(path, str) or not path.strip():
        raise _RowError("has no path")
    if group is not None and group not in value:
        raise _RowError(f"has no key {group!r} in {where}, which data.group names; null is a picture in no group", path=path)
    member = value[group] if group is not None else None
    try:
        f"{path}{label}{member}".encode()
    except UnicodeEncodeError as error:
        # JSON can write it: "\ud800".
        raise _RowError(f"its path, label or group is no Unicode text: {error.object[error.start]!r}") from None
    if "\0" in path:
        raise _RowError(f"its path {path!r} holds a NUL byte, which none can")
    if label is None or not str(label).strip():
        raise _RowError(f"has no label in {where}", rejects.NO_LABEL, path)
    if not _is_name(label):
        allowed = f"expected text or a whole number{_whole(label)}"
        raise _RowError(f"the label in {where} is {json.dumps(label)[:60]}; {allowed}", rejects.BAD_LABEL, path)
    if member is not None and not _is_name(member):
        allowed = f"expected text, a whole number{_whole(member)} or null"
        raise _RowError(f"{group} in {where} is {json.dumps(member)[:60]}; {allowed}", path=path)
    known = naming.split_named(split) if isinstance(split, str) else None
    if not (split is None or split == "" or known):
        allowed = f"{', '.join(features.SPLITS)} or nothing"
        raise _RowError(f"split {json.dumps(split)[:60]} in {where}; expected {allowed}", path=path)
    return Row(path, str(label), known or "", naming.clean_group("" if member is None else str(member)))


def _is_name(value: Any) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def _whole(label: Any) -> str:
    """What was meant by a number such as 1.0, as pandas writes it where one of a column is missing."""
    return f", e.g. {label:.0f}" if isinstance(label, float) and label.is_integer() else ""
