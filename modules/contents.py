"""What is in a split: written down beside its records when they are made, so that nobody has to read them to know it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet
from tfx.dsl.io import fileio

_FOLDER = "contents"
_ID, _LABEL, _BYTES, _PATH, _GROUP = "id", "label", "bytes", "path", "group"
_SCHEMA = pa.schema({_ID: pa.string(), _LABEL: pa.string(), _BYTES: pa.int64(), _PATH: pa.string(), _GROUP: pa.string()})


class Row(NamedTuple):
    """A picture in a file of records."""

    id: str
    label: str
    bytes: int
    """Length of its record."""
    path: str
    """Below the source."""
    group: str
    """The content hash that stands for all that shares a split with it."""


class Origins(NamedTuple):
    """Where the pictures of a split come from: path below the source and group, as `Row` has them, in the files' order."""

    paths: list[str]
    groups: list[str]


class Contents(NamedTuple):
    """What is in a split, in the order of its files."""

    ids: np.ndarray
    """Of each picture, from its encoded form alone, `S32` `[pictures]`; copies of one picture have different ones."""
    label_ids: np.ndarray
    """int64 `[pictures]`."""
    record_bytes: np.ndarray
    """Length of each picture's record, int64 `[pictures]`."""
    num_classes: int
    """Size of the label vocabulary."""

    @property
    def total(self) -> int:
        """All pictures."""
        return len(self.ids)

    @property
    def counts(self) -> tuple[int, ...]:
        """Pictures of each label id."""
        return tuple(np.bincount(self.label_ids, minlength=self.num_classes).tolist())

    @property
    def digest(self) -> str:
        """SHA-256 of its pictures and their labels, whatever their order."""
        order = np.argsort(self.ids)
        return hashlib.sha256(self.ids[order].tobytes() + self.label_ids[order].tobytes()).hexdigest()

    def part(self, places: np.ndarray) -> Contents:
        """Return what is known of some pictures.

        Args:
          places: of them, int64.
        """
        return self._replace(ids=self.ids[places], label_ids=self.label_ids[places], record_bytes=self.record_bytes[places])


def id_of(encoded: bytes) -> str:
    """Return the id of a picture: 32 hexadecimal digits of its SHA-256.

    Args:
      encoded: the picture as its record holds it.
    """
    return hashlib.sha256(encoded).hexdigest()[:32]


def beside(record_file: str) -> str:
    """Return where it stands what a file of records holds.

    Args:
      record_file: where the records are, `…/Split-train/…`; theirs is `…/contents/Split-train/….parquet`.
    """
    split, name = os.path.split(record_file)
    root, split_name = os.path.split(split)
    return os.path.join(root, _FOLDER, split_name, f"{name}.parquet")


def write(path: str, rows: Iterable[Row]) -> None:
    """Write down what a file of records holds, on any file system that TFX knows.

    Args:
      path: in a folder that is there; at the end as `beside` has it.
      rows: of the pictures, in the order of the records.
    """
    columns = zip(*rows, strict=True)
    content = pa.BufferOutputStream()
    pa.parquet.write_table(pa.table([*columns], _SCHEMA), content)
    with fileio.open(path, "wb") as opened:
        opened.write(content.getvalue().to_pybytes())


def read(record_files: Sequence[str], labels: Sequence[str]) -> Contents:
    """Return what files of records hold, without a look at the records.

    Args:
      record_files: one after the other.
      labels: the vocabulary; a label's id is its place there.

    Raises:
      ValueError: a label is not in the vocabulary.
    """
    table = _read(record_files, [_ID, _LABEL, _BYTES])
    label_ids = pa.compute.index_in(table[_LABEL], pa.array(labels, pa.string()))
    if label_ids.null_count:
        unknown = table[_LABEL].filter(pa.compute.is_null(label_ids)).unique().to_pylist()
        raise ValueError(f"labels {', '.join(sorted(unknown)[:5])} are not in the vocabulary")
    return Contents(
        _distinct(table[_ID].to_numpy().astype("S32")),
        label_ids.to_numpy().astype(np.int64),
        table[_BYTES].to_numpy(),
        len(labels),
    )


def origins(record_files: Sequence[str]) -> Origins:
    """Return where the pictures in files of records come from, without a look at the records.

    Args:
      record_files: one after the other.
    """
    table = _read(record_files, [_PATH, _GROUP])
    return Origins(table[_PATH].to_pylist(), table[_GROUP].to_pylist())


def labelled_paths(record_files: Sequence[str]) -> list[tuple[str, str]]:
    """Return label and path below the source of the pictures in files of records, without a look at the records.

    Args:
      record_files: one after the other.
    """
    table = _read(record_files, [_LABEL, _PATH])
    return list(zip(table[_LABEL].to_pylist(), table[_PATH].to_pylist(), strict=True))


def _read(record_files: Sequence[str], columns: list[str]) -> pa.Table:
    tables = []
    for file in record_files:
        with fileio.open(beside(file), "rb") as opened:
            tables.append(pa.parquet.read_table(pa.BufferReader(opened.read()), columns=columns))
    return pa.concat_tables(tables)


def _distinct(ids: np.ndarray) -> np.ndarray:
    """Ids in which the second and later copies of a picture have one of their own."""
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    for place in np.flatnonzero(ordered[1:] == ordered[:-1]) + 1:
        first = np.searchsorted(ordered, ordered[place])
        ids[order[place]] = hashlib.sha256(b"%s %d" % (ordered[place], place - first)).hexdigest()[:32].encode()
    return ids
