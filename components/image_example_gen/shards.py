"""Sorts prepared pictures into splits and shards: copies and conflicts are found, and each shard is written at one go."""

from __future__ import annotations

import collections
import itertools
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import apache_beam as beam
import tensorflow as tf
from tfx.components.example_gen import write_split

from components.image_example_gen import publishing, rejects, spill, splits
from components.image_example_gen.preparation import REJECTS
from components.image_example_gen.rejects import Reject
from components.image_example_gen.spill import Prepared
from modules import contents

DUPLICATES, WRITTEN = "duplicates", "written"
PARTS, PLACES = "parts", "places"
"""What is known of a shard: its pictures, as they were put aside, and the `splits.Place` of each by content hash."""

_LEAST, _LEAST_FROM = 16, 1_000
"""Shards of that many pictures: each is a task of its own for a cluster, whatever they weigh."""


def number(volume: int, pictures: int, megabytes: float) -> int:
    """Return how many shards there are, which follows from the data alone and not from who works on it.

    Args:
      volume: bytes of all pictures.
      pictures: how many there are, about.
      megabytes: about what a shard of all splits together has, in 10^6 bytes.
    """
    return max(_LEAST if pictures >= _LEAST_FROM else 1, math.ceil(volume / (megabytes * 1e6)))


class Duplicate(NamedTuple):
    """A picture that was left out, and the one with the same pixels that was kept."""

    path: str
    copy_of: str


class Written(NamedTuple):
    """A shard of a split that is whole, and has not got its name yet: its records, and what they hold."""

    split: str
    shard: int
    records: str
    contents: str


class Verdict(NamedTuple):
    """What becomes of pictures: each kept one with its place, the copies, and the conflicts."""

    kept: list[tuple[splits.Place, Prepared]]
    duplicates: list[Duplicate]
    conflicts: list[Reject]


def judge(pictures: Iterable[Prepared], places: Mapping[str, splits.Place], deduplicate: bool) -> Verdict:
    """Find copies and conflicts, and give each picture its place. One picture under two labels is a conflict.

    Args:
      pictures: with all copies of each.
      places: of the pictures under one label, by content hash.
      deduplicate: keep one of the copies.

    Returns:
      What becomes of them, sorted by hash: a random order, the same in every run.
    """
    verdict = Verdict([], [], [])
    by_content = itertools.groupby(sorted(pictures), key=lambda picture: picture.content_hash)
    for content_hash, group in by_content:
        copies = list(group)
        first_of = {picture.label: picture for picture in reversed(copies)}
        if len(first_of) > 1:
            verdict.conflicts.extend(_conflict(picture, first_of) for picture in copies)
            continue
        kept = copies[:1] if deduplicate else copies
        verdict.kept.extend((places[content_hash], picture) for picture in kept)
        verdict.duplicates.extend(Duplicate(picture.path, copies[0].path) for picture in copies[len(kept) :])
    return verdict


class WriteShard(beam.DoFn):
    """Writes one shard of every split, from all pictures whose hash leads there; what it keeps of them is in memory at once.

    Yields ((split, label), number of pictures); copies go to the output `duplicates`, conflicts to `rejects`, what is to be
    published to `written`.

    Args:
      aside: folder for what has no name yet.
      deduplicate: keep one of the copies.
    """

    def __init__(self, aside: str, deduplicate: bool):
        super().__init__()
        self._aside = aside
        self._deduplicate = deduplicate

    def process(self, shard: tuple[int, Mapping[str, Iterable[Any]]]) -> Iterator[Any]:
        """Write the examples of the pictures that are kept."""
        number, parts = shard[0], list(shard[1][PARTS])
        places = dict(collections.ChainMap(*shard[1][PLACES]))
        verdict = judge(itertools.chain.from_iterable(parts), places, self._deduplicate)
        by_split: dict[str, list[tuple[splits.Place, Prepared]]] = {}
        for place, picture in verdict.kept:
            by_split.setdefault(place.split, []).append((place, picture))
        records = spill.read(parts, {(picture.aside, picture.offset) for _, picture in verdict.kept})
        for split, kept in by_split.items():
            yield beam.pvalue.TaggedOutput(WRITTEN, self._write(split, number, kept, records))
        yield from (beam.pvalue.TaggedOutput(DUPLICATES, duplicate) for duplicate in verdict.duplicates)
        yield from (beam.pvalue.TaggedOutput(REJECTS, conflict) for conflict in verdict.conflicts)
        yield from collections.Counter((place.split, picture.label) for place, picture in verdict.kept).items()

    def _write(
        self, split: str, number: int, kept: list[tuple[splits.Place, Prepared]], records: dict[tuple[str, int], bytes]
    ) -> Written:
        written = Written(split, number, publishing.new(self._aside), publishing.new(self._aside))
        # TFX takes no TFRecords but gzipped ones. Encoded pictures don't shrink, so they are stored: level 6 costs more
        # time than decoding them.
        options = tf.io.TFRecordOptions("GZIP", compression_level=0)
        with tf.io.TFRecordWriter(written.records, options) as writer:
            for _, picture in kept:
                writer.write(records.pop((picture.aside, picture.offset)))
        rows = (contents.Row(one.id, one.label, one.length, one.path, place.group) for place, one in kept)
        contents.write(written.contents, rows)
        return written


def publish(written: Written, folders: Mapping[str, str], count: int) -> None:
    """Give a shard its name, and what it holds with it.

    Args:
      written: the attempt at it that has succeeded.
      folders: where each split's shards are.
      count: of shards.
    """
    name = f"{write_split.DEFAULT_TF_RECORD_FILE_NAME}-{written.shard:05d}-of-{count:05d}.gz"
    final = os.path.join(folders[written.split], name)
    publishing.publish(written.contents, contents.beside(final))
    publishing.publish(written.records, final)


def _conflict(picture: Prepared, first_of: dict[str, Prepared]) -> Reject:
    others = ", ".join(f"{other.path} ({label})" for label, other in sorted(first_of.items()) if label != picture.label)
    message = f"the same picture has the label {picture.label} here and another one: {others}"
    if len({one.own_hash for one in first_of.values()}) > 1:
        message += "; they are transparent and differ, but not on image.background: set another"
    return Reject(picture.path, rejects.CONFLICT, message)
