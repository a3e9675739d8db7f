"""Examples put aside on disk, shard by shard, so that a shard is read in a few long ranges.

Reading a shard costs an open, a seek and a read for each file that has a part of it. A worker therefore takes as many
pictures at a time as make these parts long, and no more than fit into its memory.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from concurrent import futures
from typing import NamedTuple

import numpy as np
from tfx.dsl.io import fileio

from components.image_example_gen import files, parallel, publishing, signatures

_RANGE = 256 * 1024
_LEAST, _MOST = 16_000_000, 128_000_000
_PORTIONS = 16
_BUFFER = 160_000_000
_READERS = 4
_SIGNATURES = ".signatures"


class Prepared(NamedTuple):
    """A picture whose example lies on disk, `length` bytes from `offset` in the file `aside`."""

    content_hash: str
    own_hash: str
    path: str
    label: str
    split: str
    group: str = ""
    """What it belongs to; empty if to nothing."""
    id: str = ""
    """As `modules.contents` has it."""
    aside: str = ""
    offset: int = 0
    length: int = 0


Part = tuple[int, list[Prepared]]
"""A shard, and pictures of it whose examples lie one behind the other in one file."""


def portion_bytes(volume: int, shards: int) -> int:
    """Return how many bytes of pictures a worker takes at a time.

    That makes ranges of 256 kB up to 500 shards, and of less above, for the sake of memory. Few pictures are divided among
    workers all the same: there are so few ranges of them that their length does not matter.

    Args:
      volume: bytes of all pictures.
      shards: how many there are.
    """
    return max(1, min(max(_RANGE * shards, _LEAST), _MOST, math.ceil(volume / _PORTIONS)))


def buffer_bytes(portion: int) -> int:
    """Return how many bytes of examples may wait in memory: more than a portion has, as they are longer than pictures.

    Args:
      portion: bytes of pictures that a worker takes at a time.
    """
    return min(2 * portion, _BUFFER)


class Spill:
    """Puts examples aside, in files of its own that are written once: those of one shard together, in the order they came.

    Args:
      folder: which all workers share.
      most: bytes of examples that wait in memory.
    """

    def __init__(self, folder: str, most: int):
        self._folder = folder
        self._most = most
        self._waiting: dict[int, list[tuple[Prepared, bytes, bytes]]] = {}
        self._bytes = 0

    def add(self, shard: int, prepared: Prepared, record: bytes, signature: bytes) -> list[Part]:
        """Take an example; return what lies on disk now and did not before, of one file.

        Args:
          shard: that it belongs to.
          prepared: what is known of it.
          record: its serialised form.
          signature: of what it looks like, serialised.
        """
        self._waiting.setdefault(shard, []).append((prepared, record, signature))
        self._bytes += len(record)
        return self.flush() if self._bytes >= self._most else []

    def flush(self) -> list[Part]:
        """Write what waits into one file; return it when the file is closed, as others may read it at once."""
        if not self._waiting:
            return []
        path, offset = publishing.new(self._folder), 0
        parts: list[Part] = []
        looks: list[bytes] = []
        with fileio.open(path, "wb") as file:
            for shard, waiting in sorted(self._waiting.items()):
                file.write(b"".join(record for _, record, _ in waiting))
                placed = []
                for prepared, record, signature in waiting:
                    placed.append(prepared._replace(aside=path, offset=offset, length=len(record)))
                    offset += len(record)
                    looks.append(signature)
                parts.append((shard, placed))
        with fileio.open(path + _SIGNATURES, "wb") as file:
            file.write(b"".join(looks))
        self._waiting, self._bytes = {}, 0
        return parts


def read_signatures(aside: str) -> np.ndarray:
    """Read the signatures of the pictures in a file, in its order: `[pictures]`, as `signatures.SIGNATURE` has it.

    Args:
      aside: the file with their examples.
    """
    with files.opened(aside + _SIGNATURES) as file:
        return np.frombuffer(file.read(), signatures.SIGNATURE)


def read(parts: Iterable[list[Prepared]], wanted: Collection[tuple[str, int]]) -> dict[tuple[str, int], bytes]:
    """Read examples back, a range for each part, a few at once.

    Args:
      parts: of one shard.
      wanted: (aside, offset) of those that are kept in memory.

    Returns:
      Their serialised forms, by (aside, offset).
    """
    records: dict[tuple[str, int], bytes] = {}
    with futures.ThreadPoolExecutor(_READERS) as pool:
        for found in parallel.in_order(pool, lambda part: _read_range(part, wanted), parts, _READERS):
            records |= found
    return records


def _read_range(part: list[Prepared], wanted: Collection[tuple[str, int]]) -> dict[tuple[str, int], bytes]:
    first, last = part[0], part[-1]
    length = last.offset + last.length - first.offset
    with files.opened(first.aside) as file:
        file.seek(first.offset)
        content = memoryview(file.read(length))
    if len(content) < length:
        raise OSError(f"{first.aside}: ends before byte {first.offset + length}, up to which examples were put aside there")
    starts = ((one, one.offset - first.offset) for one in part if (one.aside, one.offset) in wanted)
    return {(one.aside, one.offset): bytes(content[start : start + one.length]) for one, start in starts}
