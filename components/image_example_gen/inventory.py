"""The inventory of a source: what was listed, written down once, for all workers to read exactly that.

It is a Parquet file a listing, named after its fingerprint, beside the artifacts of ImageExampleGen. It never changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet
from tfx.dsl.io import fileio

from components.image_example_gen import files
from components.image_example_gen.rejects import Reject
from components.image_example_gen.sources import ClassFolder, Entry, ImageFile, RecordFile
from components.image_example_gen.spans import DataError

_KINDS = (ImageFile, RecordFile, ClassFolder, Reject)
_KIND = "kind"
_NUMBERS = {"span", "size", "modified"}
# Names are bytes, as those of files need not be UTF-8.
_COLUMNS = {
    name: pa.int64() if name in _NUMBERS else pa.binary()
    for name in dict.fromkeys(itertools.chain.from_iterable(kind._fields for kind in _KINDS))
}
_SCHEMA = pa.schema({_KIND: pa.int8(), **_COLUMNS})
_ROWS_AT_ONCE = 2048
_MOST_ROWS = 10_000
"""Of a unit, whose pictures may have no bytes at all."""
_RECORD_BYTES = 1_000
_KEPT_SECONDS = 7 * 24 * 3600


class Survey(NamedTuple):
    """What is known of a source before a file is opened: a hash of all paths, sizes and times, and how much there is."""

    fingerprint: str
    bytes: int
    pictures: int
    """Files that may be some; in files of records one for each kilobyte, as nobody has counted those yet."""


class Unit(NamedTuple):
    """Rows of an inventory that one worker takes at a time."""

    first: int
    rows: int


def place(examples: str, fingerprint: str) -> str:
    """Return where the inventory with a fingerprint lies.

    Args:
      examples: URI of the artifact that is made from it, `…/ImageExampleGen/examples/7`.
      fingerprint: of the survey.
    """
    return os.path.join(os.path.dirname(os.path.dirname(examples.rstrip("/"))), "inventory", f"{fingerprint}.parquet")


def write(entries: Iterable[Entry], examples: str) -> Survey:
    """Write an inventory down, aside first, and remove those beside it that are a week older, which no run needs any more.

    Args:
      entries: what was listed; a part of it is in memory at a time.
      examples: as for `place`.
    """
    digest, size, pictures = hashlib.sha256(), 0, 0
    with tempfile.TemporaryDirectory(prefix="finetune-") as scratch:
        local = os.path.join(scratch, "inventory")
        remaining = iter(entries)
        with pa.parquet.ParquetWriter(local, _SCHEMA, compression="zstd") as writer:
            while batch := list(itertools.islice(remaining, _ROWS_AT_ONCE)):
                for entry in batch:
                    digest.update(repr((type(entry).__name__, *entry)).encode())
                    size += getattr(entry, "size", 0)
                    pictures += isinstance(entry, ImageFile)
                    pictures += entry.size // _RECORD_BYTES if isinstance(entry, RecordFile) else 0
                writer.write_batch(_to_rows(batch))
        survey = Survey(digest.hexdigest(), size, pictures)
        final = place(examples, survey.fingerprint)
        fileio.makedirs(os.path.dirname(final))
        aside = os.path.join(os.path.dirname(final), f"{uuid.uuid4().hex}.aside")
        fileio.copy(local, aside)
        # In the place of one that is there, so that it is as young as the run that needs it.
        fileio.rename(aside, final, overwrite=True)
    with contextlib.suppress(*files.ERRORS):
        _remove_older(final)
    return survey


@contextlib.contextmanager
def opened(path: str) -> Iterator[Inventory]:
    """Open an inventory; one on another machine is copied to this one.

    Args:
      path: where it lies.

    Raises:
      DataError: it is not there.
    """
    with contextlib.ExitStack() as stack:
        source: Any = path
        try:
            if not files.is_local(path):
                source = stack.enter_context(tempfile.TemporaryFile())
                with files.opened(path) as file:
                    shutil.copyfileobj(file, source, 1 << 24)
            found = stack.enter_context(pa.parquet.ParquetFile(source))
        except FileNotFoundError:
            raise DataError(f"{path}: what was listed of the source is gone; run again, which lists it anew") from None
        yield Inventory(found)


class Inventory:
    """What was listed of a source.

    Args:
      file: as `write` wrote it.
    """

    def __init__(self, file: pa.parquet.ParquetFile):
        self._file = file

    def units(self, portion: int) -> Iterator[Unit]:
        """Divide the rows among workers.

        Args:
          portion: about as many bytes of pictures each takes at a time.
        """
        first = size = row = 0
        for batch in self._file.iter_batches(_ROWS_AT_ONCE, columns=["size"]):
            for of_file in batch.column(0).to_pylist():
                row += 1
                size += of_file or 0
                if size >= portion or row - first == _MOST_ROWS:
                    yield Unit(first, row - first)
                    first, size = row, 0
        if row > first:
            yield Unit(first, row - first)

    def read(self, unit: Unit) -> list[Entry]:
        """Return the entries of a unit, in the order in which they were listed."""
        first = unit.first // _ROWS_AT_ONCE  # each group of rows but the last has as many
        last = (unit.first + unit.rows - 1) // _ROWS_AT_ONCE
        table = self._file.read_row_groups(list(range(first, last + 1)))
        return _from_rows(table.slice(unit.first - first * _ROWS_AT_ONCE, unit.rows))

    def splits(self) -> set[str]:
        """Return the splits that a file was put into, whether or not it is a picture that can be used."""
        found: set[str] = set()
        for batch in self._file.iter_batches(_ROWS_AT_ONCE, columns=["split"]):
            found.update(_decoded(split) for split in batch.column(0).unique().to_pylist() if split)
        return found

    def class_labels(self) -> set[str]:
        """Return the labels that a tree has a folder for."""
        labels: set[str] = set()
        for batch in self._file.iter_batches(_ROWS_AT_ONCE, columns=[_KIND, "label"]):
            table = pa.Table.from_batches([batch]).filter(pa.compute.field(_KIND) == _KINDS.index(ClassFolder))
            labels.update(map(_decoded, table["label"].to_pylist()))
        return labels


def _to_rows(entries: list[Entry]) -> pa.RecordBatch:
    columns: dict[str, list[Any]] = {_KIND: [_KINDS.index(type(entry)) for entry in entries]}
    for name in _COLUMNS:
        values = (getattr(entry, name, None) for entry in entries)
        columns[name] = [_encoded(value) if isinstance(value, str) else value for value in values]
    return pa.RecordBatch.from_pydict(columns, _SCHEMA)


def _from_rows(table: pa.Table) -> list[Entry]:
    columns = {name: table[name].to_pylist() for name in _COLUMNS}
    for name in _COLUMNS.keys() - _NUMBERS:
        columns[name] = [value if value is None else _decoded(value) for value in columns[name]]
    entries: list[Entry] = []
    for row, number in enumerate(table[_KIND].to_pylist()):
        kind: Any = _KINDS[number]
        entries.append(kind(*(columns[name][row] for name in kind._fields)))
    return entries


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _decoded(text: bytes) -> str:
    return text.decode(errors="surrogatepass")


def _remove_older(newest: str) -> None:
    folder, now = os.path.dirname(newest), files.look_up(newest).modified  # by the clock of the file system
    for name in files.names(folder):
        path = os.path.join(folder, name)
        if now - files.look_up(path).modified > _KEPT_SECONDS * 1e9:
            fileio.remove(path)
