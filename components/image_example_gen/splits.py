"""Which split each picture is in: what belongs together is on one side, and nothing else moves as data grow."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import scipy.sparse.csgraph

from modules import features

PICTURES = pa.schema([(name, pa.string()) for name in ("content_hash", "label", "group", "split", "path")])
"""What splits follow from, a row a picture; `group` and `split` are empty where nobody named one."""

_STRICTEST_FIRST = (features.TEST, features.EVAL, features.TRAIN)
_UNDECIDED = len(_STRICTEST_FIRST)


class Move(NamedTuple):
    """A picture that is not in the split that it has by itself, and one that it belongs to, which is in its own."""

    path: str
    group: str
    before: str
    after: str
    joined_to: str


class Place(NamedTuple):
    """Where a picture belongs: its split, and the content hash that stands for all that shares one with it."""

    split: str
    group: str


class Assignment(NamedTuple):
    """Which split each picture is in, and why."""

    splits: np.ndarray
    """Of each picture, `[pictures]`."""
    firsts: np.ndarray
    """The first place of all that share a split with it, int64 `[pictures]`."""
    moves: list[Move]
    """Those that moved, in their order."""
    cut: tuple[str, ...]
    """Splits that were cut from train."""


def split_of(key: str, splits: Mapping[str, int]) -> str:
    """Return the split of a picture by itself, which follows from its content, or its group, alone.

    Args:
      key: in hexadecimal, as uniform as SHA-256 is.
      splits: hash buckets of each split, e.g. `{"train": 8, "eval": 1, "test": 1}`.
    """
    bucket = int(key, 16) % sum(splits.values())
    for split, end in zip(splits, itertools.accumulate(splits.values()), strict=True):
        if bucket < end:
            return split
    raise AssertionError("the buckets add up")


def assign(pictures: pa.Table, joined: np.ndarray, splits: Mapping[str, int], put_into: Collection[str] = ()) -> Assignment:
    """Give each picture its split.

    What is joined shares one: copies, the pictures of a group, those that are joined besides, and whatever these join in
    turn. It is the strictest that any of them has by itself, test before eval before train; where some were put into a split
    by hand, of those alone. Where all were, and some into train, splits that got none are cut from it.

    Args:
      pictures: all of them but those under two labels, as `PICTURES` has it.
      joined: places of pictures that are to share a split, int64 `[pairs, 2]`.
      splits: hash buckets of each split.
      put_into: splits that something was put into by hand, whether or not a picture of it is among these.
    """
    if not pictures.num_rows:
        return Assignment(np.empty(0, str), np.empty(0, np.int64), [], ())
    contents, groups, given_names = (_coded(pictures, name) for name in ("content_hash", "group", "split"))
    cut = _cut({*given_names.values, *put_into}, splits)
    given = np.array([bool(name) for name in given_names.values])[given_names.codes]
    own = _by_themselves(contents, groups, given_names, splits, cut)
    component = _components(contents, groups, joined)
    strictest = np.full(component.max() + 1, _UNDECIDED)
    np.minimum.at(strictest, component[given], own[given])
    undecided = strictest[component] == _UNDECIDED
    np.minimum.at(strictest, component[undecided], own[undecided])
    final = strictest[component]
    stays = np.flatnonzero(own == final)[::-1]
    example = np.zeros(len(strictest), np.int64)
    example[component[stays]] = stays
    names = np.array(_STRICTEST_FIRST)
    moves = []
    for place in np.flatnonzero(own != final):
        path, group, other = (
            pictures[column][at].as_py()
            for column, at in (("path", place), ("group", place), ("path", example[component[place]]))
        )
        moves.append(Move(path, group, str(names[own[place]]), str(names[final[place]]), other))
    _, first, inverse = np.unique(component, return_index=True, return_inverse=True)
    return Assignment(names[final], first[inverse], moves, cut)


class _Coded(NamedTuple):
    """A column: which of its distinct values each row has, and these."""

    codes: np.ndarray
    values: list[str]


def _coded(pictures: pa.Table, name: str) -> _Coded:
    column = pictures[name].combine_chunks().dictionary_encode()
    return _Coded(column.indices.to_numpy(zero_copy_only=False).astype(np.int64), column.dictionary.to_pylist())


def _cut(given: Collection[str], splits: Mapping[str, int]) -> tuple[str, ...]:
    """The splits that nothing was put into where everything was put into one, and something into train."""
    if "" in given or features.TRAIN not in given:
        return ()
    return tuple(split for split in splits if split not in given)


def _by_themselves(
    contents: _Coded, groups: _Coded, given: _Coded, splits: Mapping[str, int], cut: Sequence[str]
) -> np.ndarray:
    """The place of the split that each picture has by itself in `_STRICTEST_FIRST`."""
    in_a_group = np.array([bool(name) for name in groups.values])[groups.codes]
    keys: dict[bool, tuple[_Coded, Callable[[str], str]]] = {
        True: (groups, lambda name: hashlib.sha256(name.encode()).hexdigest()),
        False: (contents, lambda content_hash: content_hash),
    }
    own = np.empty(len(contents.codes), np.int64)
    for code, name in enumerate(given.values):
        may_be = {name, *cut} if name == features.TRAIN else {name} if name else splits.keys()
        among = {split: share for split, share in splits.items() if split in may_be}
        for grouped, (column, key_of) in keys.items():
            rows = np.flatnonzero((given.codes == code) & (in_a_group == grouped))
            distinct, inverse = np.unique(column.codes[rows], return_inverse=True)
            found = [_STRICTEST_FIRST.index(split_of(key_of(column.values[value]), among)) for value in distinct]
            own[rows] = np.array(found, np.int64)[inverse]
    return own


def _components(contents: _Coded, groups: _Coded, joined: np.ndarray) -> np.ndarray:
    """The number of what each picture belongs to: copies, groups, and those that are joined besides."""
    pictures = len(contents.codes)
    grouped = np.flatnonzero(np.array([bool(name) for name in groups.values])[groups.codes])
    first_content, first_group = pictures, pictures + len(contents.values)
    edges = (
        (np.arange(pictures), first_content + contents.codes),
        (grouped, first_group + groups.codes[grouped]),
        (joined[:, 0], joined[:, 1]),
    )
    ones, others = (np.concatenate(ends) for ends in zip(*edges, strict=True))
    size = first_group + len(groups.values)
    graph = scipy.sparse.coo_array((np.ones(len(ones), np.int8), (ones, others)), (size, size))
    _, component = scipy.sparse.csgraph.connected_components(graph, directed=False)
    return component[:pictures]
