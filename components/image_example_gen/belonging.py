"""What ingestion found to belong together, as the `rejects` artifact keeps it: near-copies, and what moved for its like."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from components.image_example_gen import rejects
from components.image_example_gen.rejects import counted, printable
from components.image_example_gen.splits import Move
from modules import features

NEAR_COPIES_FILE = "near_copies.jsonl"
MOVES_FILE = "moves.jsonl"
CUT_FILE = "cut.jsonl"
FILES = (NEAR_COPIES_FILE, MOVES_FILE, CUT_FILE)

_NAMED = 5


class NearCopy(NamedTuple):
    """Two pictures that look like one photograph, with the splits that they are in at the end."""

    path: str
    split: str
    label: str
    other: str
    other_split: str
    other_label: str


class Summary(NamedTuple):
    """What belongs together.

    Attributes:
      near_copies: number of pairs that look like one photograph.
      across: of those, pairs in different splits.
      disputed: of those, pairs under different labels.
      first_across: the first of them.
      first_disputed: likewise.
      moved: number of pictures that are not in the split that they have by themselves.
      first_moves: the first of each group and kind, with the number of pictures of which it is one.
      cut: splits that nothing was put into, and that were cut from train.
      path: the file that names all near-copies.
    """

    near_copies: int = 0
    across: int = 0
    disputed: int = 0
    first_across: tuple[NearCopy, ...] = ()
    first_disputed: tuple[NearCopy, ...] = ()
    moved: int = 0
    first_moves: tuple[tuple[Move, int], ...] = ()
    cut: tuple[str, ...] = ()
    path: str = ""

    def sentences(self) -> Iterator[str]:
        """Say what splits were cut from train and what moved, a line each."""
        if self.cut:
            cut = " and ".join(self.cut)
            yield f"nothing was put into {cut}, which is cut from {features.TRAIN} by the shares of data.splits"
        if self.moved:
            yield self.describe_moves()

    def describe_across(self) -> str:
        """Return a line on near-copies in different splits."""
        named = [
            f"{printable(one.path)} ({one.split}) and {printable(one.other)} ({one.other_split})"
            for one in self.first_across
        ]
        return (
            f"{_pairs(self.across)} in different splits, which flatters what is measured: {self._listed(named, self.across)}"
        )

    def describe_disputed(self) -> str:
        """Return a line on near-copies under different labels."""
        named = [
            f"{printable(one.path)} ({one.label}) and {printable(one.other)} ({one.other_label})"
            for one in self.first_disputed
        ]
        return f"{_pairs(self.disputed)} under different labels: {self._listed(named, self.disputed)}"

    def describe_moves(self) -> str:
        """Return a line on the pictures that moved."""
        named = []
        for move, count in self.first_moves:
            what = f"group {move.group!r} ({counted(count, 'picture')})" if move.group else printable(move.path)
            named.append(f"{what} from {move.before} to {move.after}, as {printable(move.joined_to)} is")
        more = "; …" if self.moved > sum(count for _, count in self.first_moves) else ""
        verb = "is" if self.moved == 1 else "are"
        return f"{counted(self.moved, 'picture')} {verb} in the split of what belongs to them: {'; '.join(named)}{more}"

    def _listed(self, named: list[str], count: int) -> str:
        return f"{'; '.join(named)}{'; …' if count > len(named) else ''}; all named in {self.path}"


def read_summary(folder: str) -> Summary:
    """Read what a `rejects` artifact says of it.

    Args:
      folder: its URI.
    """
    path = rejects.named(folder, NEAR_COPIES_FILE)
    count, across, disputed = 0, 0, 0
    first_across: list[NearCopy] = []
    first_disputed: list[NearCopy] = []
    for line in rejects.lines(path):
        pair = NearCopy(**line)
        count += 1
        if pair.split != pair.other_split:
            across += 1
            first_across += [pair] if across <= _NAMED else []
        if pair.label != pair.other_label:
            disputed += 1
            first_disputed += [pair] if disputed <= _NAMED else []
    moved = 0
    kinds: dict[tuple[str, str], tuple[Move, int]] = {}
    for line in rejects.lines(os.path.join(folder, MOVES_FILE)):
        move = Move(**line)
        moved += 1
        kind = (move.group or move.path, move.before)
        if kind in kinds or len(kinds) < _NAMED:
            first, known = kinds.get(kind, (move, 0))
            kinds[kind] = first, known + 1
    cut = tuple(line["split"] for line in rejects.lines(os.path.join(folder, CUT_FILE)))
    return Summary(
        count, across, disputed, tuple(first_across), tuple(first_disputed), moved, tuple(kinds.values()), cut, path
    )


def lines(near_copies: Iterable[NearCopy], moves: Iterable[Move], cut: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Return what the artifact keeps: the file, and one line of JSON for it.

    Args:
      near_copies: all pairs.
      moves: all pictures that moved.
      cut: splits that were cut from train.
    """
    for pair in near_copies:
        yield NEAR_COPIES_FILE, json.dumps(pair._asdict(), ensure_ascii=False)
    for move in moves:
        yield MOVES_FILE, json.dumps(move._asdict(), ensure_ascii=False)
    for split in cut:
        yield CUT_FILE, json.dumps({"split": split})


def _pairs(count: int) -> str:
    look, are = ("looks", "is") if count == 1 else ("look", "are")
    return f"{counted(count, 'pair')} of pictures {look} like one photograph and {are}"
