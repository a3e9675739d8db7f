"""Finds near copies among many pictures: one photograph resized, cropped a little, or saved again.

A crop of a picture has about the perceptual hash of one of a few windows of it. So the hash of each picture and of its
windows, with the bits flipped that are least sure, is looked up among the hashes of all pictures, half a hash at a time:
halves of near copies are nearly always equal, and those of others rarely. Who is met is confirmed by `overlays`.

The work grows with the number of pictures, not its square, whatever they show: where many share half a hash, each meets
those next to it in brightness.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent import futures

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph

from components.image_example_gen import overlays, parallel, signatures
from components.image_example_gen.signatures import BITS, HASH_SIDE, WHOLE
from modules import machine

CROP = 0.05
"""The share of height and width that a crop may lack."""

_KEPT = 1 - CROP
_PLACES = ((0.0, _KEPT), (CROP / 2, _KEPT), (CROP, _KEPT), (0.0, 1.0))
_WINDOWS = np.array(sorted((*r, *c) for r, c in itertools.product(_PLACES, _PLACES))[::-1], np.float32)
# Half a hash: 24 bits, every other one in the order of frequencies. The first coefficient is the mean, and no bit of use.
_FREQUENCIES = np.add.outer(np.arange(HASH_SIDE) ** 2, np.arange(HASH_SIDE) ** 2).reshape(-1)
_ORDER = np.argsort(_FREQUENCIES, kind="stable")[1:]
_HALVES = (_ORDER[0::2], _ORDER[1::2])
# The least sure bits of half a hash, each tried both ways: all but one in a thousand copies are met.
_UNSURE = 3
_FLIPS = np.array([*itertools.product((0, 1), repeat=_UNSURE)], np.uint32)
# Coefficients of a copy differ from the nearest window's by up to a sixth of their length, and by what rounding makes.
_NEAR, _ROUNDING = 0.2, 1.0
# And their means by a few grey levels.
_BRIGHTNESS = 8.0
_NEIGHBOURS = 16
_CONFIRMED = 16
_PICTURES_AT_ONCE = 1024
_PAIRS_AT_ONCE = 512
_MET_AT_ONCE = 2**16


def pairs(found: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Find near copies: as many pairs as it takes to connect all copies of a picture, and no more.

    Args:
      found: signatures `[pictures]`, in memory or memory-mapped.
      ids: of the pictures, `[pictures]`, of a type that sorts, such as `S32`; equal ones only for equal pictures. The result
        follows from pictures and ids, and not from their order.

    Returns:
      Places in `found` of two pictures each, int64 `[pairs, 2]`, the one with the smaller id first, sorted by ids. Whoever
      is connected by pairs is a near copy of another in the same group, if not of all.
    """
    order = np.argsort(ids, kind="stable")
    pictures = len(order)
    if pictures < 2:
        return np.empty((0, 2), np.int64)
    known = _coefficients(found, order)
    alike = _side_by_side(found, order, known)
    first = np.unique(_groups(alike, pictures), return_index=True)[1]
    met = [first[two] for two in _looked_up(found, order[first], known[first])]
    together = _forest(np.concatenate([alike, *met]), pictures)
    return order[together]


class _Half:
    """All pictures by half of their hashes, and by their brightness where that is equal."""

    def __init__(self, known: np.ndarray, bits: np.ndarray):
        self._bits = bits
        keys = _keys(signatures.sureness(known)[:, bits])
        places = _placed(keys, known[:, 0])
        self._pictures = np.argsort(places, kind="stable")
        self._places = places[self._pictures]
        self._keys, self._starts = np.unique(keys[self._pictures], return_index=True)
        self._ends = np.append(self._starts[1:], len(known))

    def met(self, sure: np.ndarray, means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return who is met by windows `[windows, BITS]` of these means, each meeting a few at most: (window, picture)."""
        sure = sure[:, self._bits]
        unsure = np.argpartition(np.abs(sure), _UNSURE, axis=1)[:, :_UNSURE]
        flips = (np.uint32(1) << unsure.astype(np.uint32)) @ _FLIPS.T
        asked = (_keys(sure)[:, None] ^ flips).reshape(-1)
        at = np.minimum(np.searchsorted(self._keys, asked), len(self._keys) - 1)
        hits = np.flatnonzero(self._keys[at] == asked)
        start, end = self._starts[at[hits]], self._ends[at[hits]]
        many = np.flatnonzero(end - start > _NEIGHBOURS)
        level = np.searchsorted(self._places, _placed(asked[hits[many]], means[hits[many] // len(_FLIPS)]))
        start[many] = np.clip(level - _NEIGHBOURS // 2, start[many], end[many] - _NEIGHBOURS)
        end[many] = start[many] + _NEIGHBOURS
        lengths = end - start
        steps = np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)
        return np.repeat(hits // len(_FLIPS), lengths), self._pictures[np.repeat(start, lengths) + steps]


def _coefficients(found: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return those of whole pictures, float32 `[pictures, BITS]`."""
    matrix = signatures.projection(np.array([WHOLE]))
    parts = [signatures.coefficients(found["luma"][part], matrix)[:, 0] for part in _parts(order, _PICTURES_AT_ONCE)]
    return np.concatenate(parts)


def _side_by_side(found: np.ndarray, order: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the near copies among neighbours, where pictures are sorted by half a hash, then by brightness and so on.

    However many copies of a picture there are, they are one to the search that follows.
    """
    shapes = found["width"][order] / found["height"][order]
    colours = np.concatenate([found["chroma"][part].mean((1, 2)) for part in _parts(order, _PICTURES_AT_ONCE)])
    sure = signatures.sureness(known)
    alike = np.empty((0, 2), np.int64)
    for half in _HALVES:
        keys = _keys(sure[:, half])
        line = np.lexsort((colours[:, 1], colours[:, 0], shapes, known[:, 0], keys))
        two = np.stack([line[:-1], line[1:]], 1)
        groups = _groups(alike, len(order))
        two = two[(keys[two[:, 0]] == keys[two[:, 1]]) & (groups[two[:, 0]] != groups[two[:, 1]])]
        two = two[_near(known[two[:, 0]], known[two[:, 1]])]
        for part in _parts(two, _PAIRS_AT_ONCE):
            one, other = found[order[part]].T
            windows = np.tile(np.array(WHOLE, np.float32), (len(part), 1))
            alike = np.concatenate([alike, part[overlays.same(one, other, windows)]])
    return _forest(alike, len(order))


def _looked_up(found: np.ndarray, order: np.ndarray, known: np.ndarray) -> Iterator[np.ndarray]:
    """Confirm whom windows of pictures meet, a part of the pictures on each core."""
    halves = [_Half(known, bits) for bits in _HALVES]
    matrix, sloping = signatures.projection(_WINDOWS), _slopes()

    def look_up(start: int) -> np.ndarray:
        here = found[order[start : start + _PICTURES_AT_ONCE]]
        windows = signatures.coefficients(here["luma"], matrix).reshape(-1, BITS)
        slopes = signatures.coefficients(here["luma"], sloping)
        sure = signatures.sureness(windows)
        asked, met = np.concatenate([half.met(sure, windows[:, 0]) for half in halves], axis=1)
        possible = np.abs(windows[asked, 0] - known[met, 0]) <= _BRIGHTNESS
        possible &= start + asked // len(_WINDOWS) != met
        asked, met = asked[possible], met[possible]
        distances = [
            _distance(windows[asked[part]], known[met[part]], slopes, asked[part] // len(_WINDOWS))
            for part in _parts(np.arange(len(asked)), _MET_AT_ONCE)
        ]
        distance = np.concatenate([np.empty(0, np.float32), *distances])
        confirmed = [np.empty((0, 2), np.int64)]
        for part in _parts(_nearest(asked // len(_WINDOWS), met, distance), _PAIRS_AT_ONCE):
            picture, window = np.divmod(asked[part], len(_WINDOWS))
            same = overlays.same(here[picture], found[order[met[part]]], _WINDOWS[window])
            confirmed.append(np.stack([start + picture[same], met[part[same]]], 1))
        return np.concatenate(confirmed)

    cores = machine.cores()
    with futures.ThreadPoolExecutor(cores) as pool:
        yield from parallel.in_order(pool, look_up, range(0, len(order), _PICTURES_AT_ONCE), cores)


def _nearest(picture: np.ndarray, met: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Return the places of those few whom each picture met at the least finite distance, each of them once."""
    places = np.flatnonzero(np.isfinite(distance))
    places = places[np.lexsort((distance[places], met[places], picture[places]))]
    again = (picture[places[1:]] == picture[places[:-1]]) & (met[places[1:]] == met[places[:-1]])
    places = places[~np.append(np.zeros(min(1, len(places)), bool), again)]
    places = places[np.lexsort((met[places], distance[places], picture[places]))]
    rank = np.arange(len(places)) - np.searchsorted(picture[places], picture[places])
    return places[rank < _CONFIRMED]


def _slopes() -> np.ndarray:
    """Return the matrix that takes small pictures to what a step of each edge of a window does to its coefficients."""
    middle, step = np.array([CROP / 2, 1 - CROP, CROP / 2, 1 - CROP]), CROP / 5
    steps = step * np.eye(4)
    return (signatures.projection(middle + steps) - signatures.projection(middle - steps)) / np.float32(2 * step)


def _distance(one: np.ndarray, other: np.ndarray, slopes: np.ndarray, pictures: np.ndarray) -> np.ndarray:
    """Return how far coefficients `[pairs, BITS]` are apart, in grey levels, where the window of one fits best.

    Infinite for those that can't be near copies.

    Args:
      one: of windows.
      other: of pictures.
      slopes: of pictures, `[pictures, 4, BITS]`.
      pictures: whose windows they are, places in `slopes`.
    """
    distance = np.full(len(one), np.inf, np.float32)
    near = np.flatnonzero(_near(one, other))
    left, by = (other - one)[near], slopes[pictures[near]]
    normal = by @ by.transpose(0, 2, 1)
    damping = 1e-3 * np.trace(normal, axis1=1, axis2=2) + 1e-3
    normal += damping[:, None, None] * np.eye(4, dtype=np.float32)
    steps = np.linalg.solve(normal, by @ left[:, :, None])
    left -= (steps.transpose(0, 2, 1) @ by)[:, 0]
    fitted = np.sqrt((left**2).sum(1))
    distance[near] = np.where(fitted <= overlays.MOST_DIFFERENT, fitted, np.inf)
    return distance


def _near(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Tell which coefficients can be those of near copies, bool `[pairs]`."""
    distance = np.sqrt(((one - other) ** 2).sum(1))
    return distance <= _NEAR * np.sqrt((other[:, 1:] ** 2).sum(1)) + _ROUNDING


def _keys(sure: np.ndarray) -> np.ndarray:
    return (sure > 0) @ (np.uint32(1) << np.arange(sure.shape[1], dtype=np.uint32))


def _placed(keys: np.ndarray, means: np.ndarray) -> np.ndarray:
    """One number to sort by: the key, then the mean, 0 to 255, in steps of 2^-24."""
    return (keys.astype(np.uint64) << np.uint64(32)) + (np.clip(means, 0, 255).astype(np.float64) * 2**24).astype(np.uint64)


def _groups(two: np.ndarray, pictures: int) -> np.ndarray:
    """Return which pictures are connected, a number for each, int32 `[pictures]`."""
    return scipy.sparse.csgraph.connected_components(_graph(two, pictures), directed=False)[1]


def _forest(two: np.ndarray, pictures: int) -> np.ndarray:
    """Return as many of the pairs as connect what all of them do, sorted, the smaller place first."""
    two = np.unique(np.sort(two, axis=1), axis=0)
    tree = scipy.sparse.csgraph.minimum_spanning_tree(_graph(two, pictures)).tocoo()
    return np.unique(np.sort(np.stack([tree.row, tree.col], 1), axis=1), axis=0).astype(np.int64)


def _graph(two: np.ndarray, pictures: int) -> scipy.sparse.csr_array:
    # Weights that differ make the tree the same each time.
    weights = np.arange(1, len(two) + 1, dtype=np.float64)
    return scipy.sparse.csr_array((weights, (two[:, 0], two[:, 1])), shape=(pictures, pictures))


def _parts(rows: np.ndarray, length: int) -> Iterator[np.ndarray]:
    return (rows[start : start + length] for start in range(0, len(rows), length))
