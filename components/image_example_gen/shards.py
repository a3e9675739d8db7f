"""Sorts prepared pictures into splits and shards: copies and conflicts are found, and each shard is written at one go."""

from __future__ import annotations

import collections
import itertools
import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import tensorflow as tf
from tfx.components.example_gen import write_split

from components.image_example_gen import rejects, spill
from components.image_example_gen.preparation import REJECTS
from components.image_example_gen.rejects import Reject
from components.image_example_gen.spill import Prepared
from modules import contents, features

DUPLICATES = "duplicates"

_STRICTEST_FIRST = (features.TEST, features.EVAL, features.TRAIN)


class Duplicate(NamedTuple):
    """A picture that was left out, and the one with the same pixels that was kept."""

    path: str
    copy_of: str


class Verdict(NamedTuple):
    """What becomes of pictures: each kept one with its split, the copies, and the conflicts."""

    kept: list[tuple[str, Prepared]]
    duplicates: list[Duplicate]
    conflicts: list[Reject]


def split_of(content_hash: str, splits: dict[str, int]) -> str:
    """Return the split of a picture, which follows from its content alone.

    Args:
      content_hash: in hexadecimal, as uniform as SHA-256 is.
      splits: hash buckets of each split, e.g. `{"train": 8, "eval": 1, "test": 1}`.
    """
    bucket = int(content_hash, 16) % sum(splits.values())
    for split, end in zip(splits, itertools.accumulate(splits.values()), strict=True):
        if bucket < end:
            return split
    raise AssertionError("the buckets add up")


def judge(pictures: Iterable[Prepared], splits: dict[str, int], deduplicate: bool) -> Verdict:
    """Find copies and conflicts, and give each picture its split.

    Copies of one picture share a split: where they were put into several, the one that leaks least, test before eval before
    train. One picture under two labels is a conflict.

    Args:
      pictures: with all copies of each.
      splits: hash buckets of each split.
      deduplicate: keep one of the copies.

    Returns:
      What becomes of them, sorted by hash: a random order, the same in every run.
    """
    verdict = Verdict([], [], [])
    by_content = itertools.groupby(sorted(pictures), key=lambda picture: picture.content_hash)
    for content_hash, group in by_content:
        copies = list(group)
        given = {picture.split for picture in copies}
        split = next((name for name in _STRICTEST_FIRST if name in given), None) or split_of(content_hash, splits)
        first_of = {picture.label: picture for picture in reversed(copies)}
        if len(first_of) > 1:
            verdict.conflicts.extend(_conflict(picture, first_of) for picture in copies)
            continue
        kept = copies[:1] if deduplicate else copies
        verdict.kept.extend((split, picture) for picture in kept)
        verdict.duplicates.extend(Duplicate(picture.path, copies[0].path) for picture in copies[len(kept) :])
    return verdict


class WriteShard(beam.DoFn):
    """Writes one shard of every split, from all pictures whose hash leads there; what it keeps of them is in memory at once.

    Yields ((split, label), number of pictures); copies go to the output `duplicates`, conflicts to `rejects`.

    Args:
      folders: where each split's shards are written.
      splits: hash buckets of each split.
      shards: how many there are.
      deduplicate: keep one of the copies.
    """

    def __init__(self, folders: dict[str, str], splits: dict[str, int], shards: int, deduplicate: bool):
        super().__init__()
        self._folders = folders
        self._splits = splits
        self._shards = shards
        self._deduplicate = deduplicate

    def process(self, shard: tuple[int, Iterable[list[Prepared]]]) -> Iterator[Any]:
        """Write the examples of the pictures that are kept."""
        number, parts = shard[0], list(shard[1])
        verdict = judge(itertools.chain.from_iterable(parts), self._splits, self._deduplicate)
        yield from (beam.pvalue.TaggedOutput(DUPLICATES, duplicate) for duplicate in verdict.duplicates)
        yield from (beam.pvalue.TaggedOutput(REJECTS, conflict) for conflict in verdict.conflicts)
        by_split: dict[str, list[Prepared]] = {}
        for split, picture in verdict.kept:
            by_split.setdefault(split, []).append(picture)
        records = spill.read(parts, {(picture.aside, picture.offset) for _, picture in verdict.kept})
        for split, pictures in by_split.items():
            self._write(split, number, pictures, records)
        yield from collections.Counter((split, picture.label) for split, picture in verdict.kept).items()

    def _write(self, split: str, number: int, pictures: list[Prepared], records: dict[tuple[str, int], bytes]) -> None:
        name = f"{write_split.DEFAULT_TF_RECORD_FILE_NAME}-{number:05d}-of-{self._shards:05d}.gz"
        path = os.path.join(self._folders[split], name)
        # TFX takes no TFRecords but gzipped ones. Encoded pictures don't shrink, so they are stored: level 6 costs more
        # time than decoding them.
        options = tf.io.TFRecordOptions("GZIP", compression_level=0)
        with tf.io.TFRecordWriter(path, options) as writer:
            for picture in pictures:
                writer.write(records.pop((picture.aside, picture.offset)))
        ids, labels, lengths = zip(*((one.id, one.label, one.length) for one in pictures), strict=True)
        contents.write(path, ids, labels, lengths)


def _conflict(picture: Prepared, first_of: dict[str, Prepared]) -> Reject:
    others = ", ".join(f"{other.path} ({label})" for label, other in sorted(first_of.items()) if label != picture.label)
    message = f"the same picture has the label {picture.label} here and another one: {others}"
    if len({one.own_hash for one in first_of.values()}) > 1:
        message += "; they are transparent and differ, but not on image.background: set another"
    return Reject(picture.path, rejects.CONFLICT, message)
