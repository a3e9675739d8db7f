"""What is in a split: written down beside its records when they are made, so that nobody has to read them to know it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet
from tfx.dsl.io import fileio

_FOLDER = "contents"
_ID, _LABEL, _BYTES = "id", "label", "bytes"


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


def write(path: str, ids: Sequence[str], labels: Sequence[str], record_bytes: Sequence[int]) -> None:
    """Write down what a file of records holds, on any file system that TFX knows.

    Args:
      path: in a folder that is there; at the end as `beside` has it.
      ids: of the pictures, in the order of the records.
      labels: likewise.
      record_bytes: length of each record.
    """
    columns = {
        _ID: pa.array(ids, pa.string()),
        _LABEL: pa.array(labels, pa.string()),
        _BYTES: pa.array(record_bytes, pa.int64()),
    }
    content = pa.BufferOutputStream()
    pa.parquet.write_table(pa.table(columns), content)
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
    tables = []
    for file in record_files:
        with fileio.open(beside(file), "rb") as opened:
            tables.append(pa.parquet.read_table(pa.BufferReader(opened.read())))
    table = pa.concat_tables(tables)
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


def _distinct(ids: np.ndarray) -> np.ndarray:
    """Ids in which the second and later copies of a picture have one of their own."""
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    for place in np.flatnonzero(ordered[1:] == ordered[:-1]) + 1:
        first = np.searchsorted(ordered, ordered[place])
        ids[order[place]] = hashlib.sha256(b"%s %d" % (ordered[place], place - first)).hexdigest()[:32].encode()
    return ids
