"""Looks at all pictures at once, at a few hundred bytes each: what looks alike, and which split each belongs to."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute

from components.image_example_gen import belonging, near_copies, preparation, signatures, spill, splits

LINES = "lines"


class Traits(NamedTuple):
    """What is known of the pictures in one file of `spill`, in its order.

    Attributes:
      table: `splits.PICTURES`, serialised.
      aside: the file.
    """

    table: bytes
    aside: str


def traits_of(parts: Sequence[spill.Part]) -> Iterator[Traits]:
    """Return what is known of pictures that were put aside together; nothing of none.

    Args:
      parts: of one file, in its order.
    """
    pictures = [picture for _, part in parts for picture in part]
    if pictures:
        columns = [pa.array([getattr(one, name) for one in pictures], pa.string()) for name in splits.PICTURES.names]
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, splits.PICTURES) as writer:
            writer.write_table(pa.table(columns, splits.PICTURES))
        yield Traits(sink.getvalue().to_pybytes(), pictures[0].aside)


class AssignSplits(beam.DoFn):
    """Turns the traits of all pictures into (shard, `splits.Place` by content hash).

    The output `lines` takes what there is to tell, as `belonging` has it.

    Args:
      shares: hash buckets of each split.
      shards: how many there are.
      near_copies_share_a_split: whether what looks like one photograph belongs together.
      put_into: splits that a file was put into by hand, whether or not it can be used.
      deduplicate: keep one of the copies.
    """

    def __init__(
        self,
        shares: Mapping[str, int],
        shards: int,
        near_copies_share_a_split: bool,
        put_into: Collection[str],
        deduplicate: bool,
    ):
        super().__init__()
        self._shares = dict(shares)
        self._shards = shards
        self._joins = near_copies_share_a_split
        self._put_into = frozenset(put_into)
        self._deduplicate = deduplicate

    def process(self, everything: tuple[Any, Iterable[Traits]]) -> Iterator[Any]:
        """Yield the places of each shard's pictures, and what there is to tell."""
        found = list(everything[1])
        table, put_into = _together(found)
        hashes = table["content_hash"].to_numpy()
        contents = np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1]])[: len(hashes)])
        pairs = contents[
            near_copies.pairs(_signatures(found, table["row"].to_numpy()[contents]), hashes[contents].astype(bytes))
        ]
        assignment = splits.assign(table, pairs if self._joins else pairs[:0], self._shares, self._put_into | put_into)
        by_shard: dict[int, dict[str, splits.Place]] = {}
        names, groups = assignment.splits[contents].tolist(), hashes[assignment.firsts[contents]].tolist()
        for content_hash, *place in zip(hashes[contents].tolist(), names, groups, strict=True):
            by_shard.setdefault(preparation.shard_of(content_hash, self._shards), {})[content_hash] = splits.Place(*place)
        yield from by_shard.items()
        found_near = (_near_copy(table, assignment.splits, pair) for pair in pairs.tolist())
        moves = assignment.moves
        if moves and self._deduplicate:  # of the copies that are kept
            kept = set(table["path"].take(pa.array(contents)).to_pylist())
            moves = [move for move in moves if move.path in kept]
        for line in belonging.lines(found_near, moves, assignment.cut):
            yield beam.pvalue.TaggedOutput(LINES, line)


def _near_copy(table: pa.Table, found: np.ndarray, pair: Sequence[int]) -> belonging.NearCopy:
    one, other = ((table["path"][row].as_py(), str(found[row]), table["label"][row].as_py()) for row in pair)
    return belonging.NearCopy(*one, *other)


def _together(found: Iterable[Traits]) -> tuple[pa.Table, set[str]]:
    """The pictures under one label, in an order that does not depend on who prepared what, and the splits of all.

    The column `row` says where each was.
    """
    table = pa.concat_tables(pa.ipc.open_stream(one.table).read_all() for one in found)
    table = table.append_column("row", pa.array(np.arange(table.num_rows)))
    put_into = set(table["split"].unique().to_pylist()) - {""}
    labels = table.group_by("content_hash").aggregate([("label", "count_distinct")])
    disputed = labels.filter(pa.compute.greater(labels["label_count_distinct"], 1))["content_hash"]
    table = table.filter(pa.compute.invert(pa.compute.is_in(table["content_hash"], disputed)))
    return table.sort_by([("content_hash", "ascending"), ("path", "ascending")]), put_into


def _signatures(found: Iterable[Traits], rows: np.ndarray) -> np.ndarray:
    """The signatures of some rows, in their order, on disk: of a million pictures they are a gigabyte."""
    if not len(rows):
        return np.empty(0, signatures.SIGNATURE)
    with tempfile.TemporaryFile() as file:
        # A disk that is full is told now, and not by a signal when it is written.
        os.posix_fallocate(file.fileno(), 0, signatures.SIGNATURE.itemsize * len(rows))
        kept = np.memmap(file, signatures.SIGNATURE, "w+", shape=rows.shape)
    order = np.argsort(rows)
    start = 0
    for one in found:
        own = spill.read_signatures(one.aside)
        first, last = np.searchsorted(rows, [start, start + len(own)], sorter=order)
        places = order[first:last]
        kept[places] = own[rows[places] - start]
        start += len(own)
    return kept
