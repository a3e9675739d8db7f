"""Lays small pictures over each other, to confirm that two show one photograph."""

from __future__ import annotations

import numpy as np

from components.image_example_gen import signatures
from components.image_example_gen.signatures import COLOUR_SIDE, SIDE, sampling

# How far two small pictures may differ, in grey levels; benchmarks/near_copies.py prints what it takes. Resized and crops
# of photographs stay below 3.1, two frames of a burst above 7.
MOST_DIFFERENT = 4.5
# The same in the 4 x 4 pixels that differ most: what a moved finger or another print on a shirt changes.
MOST_DIFFERENT_IN_PLACE = 16.0
# Where there is little to see, less of it may differ: a fifth of what can be told apart, and what rounding makes. In place
# it's less still, by the square, so that two pages of text are told apart.
_SHARE, _ROUNDING = 0.2, 0.4
_SQUARE_IN_PLACE, _ROUNDING_IN_PLACE = 0.06, 1.4
# Colours of crops differ more than those of other copies: a shift by half a pixel of 8 x 8 is hard to undo.
_MOST_COLOUR, _MOST_COLOUR_OF_PLAIN = 8.0, 1.0
# Below this detail a picture is plain: a crop of a gradient is as good as another gradient, so it's compared as it is, and
# only where its pixels have no grain that the small picture doesn't show.
_PLAIN, _GRAINLESS = 2.0, 1.0
# A side may be rounded to whole pixels, and laying over finds shares to about one in a hundred.
_ASPECT = 0.02
_LEAST_SHARE = 0.92
_STEPS = 3
_PLACE = 4
_SMOOTH = np.linalg.qr(np.vander(np.linspace(-1, 1, SIDE), 4))[0].T.astype(np.float32)


def same(first: np.ndarray, second: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Tell which pairs are near copies: the second shows what a window of the first shows.

    The window is moved until the two fit best (Lucas and Kanade, "An iterative image registration technique", 1981); what
    remains is judged against what resampling and compression do to a picture. Brightness and colours aren't fitted: another
    exposure is another picture, and so is the grey version of a colourful one.

    Args:
      first: signatures `[pairs]`.
      second: likewise.
      windows: where to begin, float32 `[pairs, 4]`, each like `signatures.WHOLE`.

    Returns:
      bool `[pairs]`.
    """
    one, other = _blurred(first["luma"]), _blurred(second["luma"])
    detail = np.minimum(_detail(one), _detail(other))
    plain = detail < _PLAIN
    found, left = _fitted(one, other, windows)
    found[plain], left[plain] = signatures.WHOLE, (other - one)[plain]
    most = np.minimum(MOST_DIFFERENT, _ROUNDING + _SHARE * detail)
    most_in_place = np.minimum(MOST_DIFFERENT_IN_PLACE, _ROUNDING_IN_PLACE + _SQUARE_IN_PLACE * detail**2)
    most_colour = np.where(plain, _MOST_COLOUR_OF_PLAIN, _MOST_COLOUR)
    return (
        (np.sqrt((left**2).mean((1, 2))) <= most)
        & (_in_place(left) <= most_in_place)
        & (_colour_difference(first["chroma"], second["chroma"], found) <= most_colour)
        & (_aspect_difference(first, second, found) <= _ASPECT)
        & ~(plain & (np.maximum(first["grain"], second["grain"]) > _GRAINLESS))
    )


def _fitted(one: np.ndarray, other: np.ndarray, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the windows of one that fit the other best, and the differences that are left, `[pairs, SIDE, SIDE]`."""
    down, right = np.gradient(one, axis=1) * SIDE, np.gradient(one, axis=2) * SIDE
    places = (np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE
    found = windows.astype(np.float32)
    for step in range(_STEPS + 1):
        rows = sampling(found[:, 0], found[:, 1], SIDE)
        columns = sampling(found[:, 2], found[:, 3], SIDE).transpose(0, 2, 1)
        left = other - rows @ one @ columns
        if step == _STEPS:
            break
        by_top, by_left = rows @ down @ columns, rows @ right @ columns
        slopes = np.stack([by_top, by_top * places[:, None], by_left, by_left * places], 1).reshape(len(one), 4, -1)
        normal = slopes @ slopes.transpose(0, 2, 1)
        damping = 1e-3 * np.trace(normal, axis1=1, axis2=2) + 1
        normal += damping[:, None, None] * np.eye(4, dtype=np.float32)
        found += np.linalg.solve(normal, slopes @ left.reshape(len(one), -1, 1))[..., 0]
        found[:, 1::2] = np.clip(found[:, 1::2], _LEAST_SHARE, 1)
        found[:, 0::2] = np.clip(found[:, 0::2], 0, 1 - found[:, 1::2])
    return found, left


def _blurred(luma: np.ndarray) -> np.ndarray:
    """Return float32 pictures, blurred by (1, 2, 1) / 4: what is left can be interpolated."""
    padded = np.pad(luma.astype(np.float32), ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    return (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 16


def _detail(luma: np.ndarray) -> np.ndarray:
    """Return the root mean square of what no cubic polynomial describes, in grey levels, `[pictures]`."""
    smooth = _SMOOTH.T @ (_SMOOTH @ luma @ _SMOOTH.T) @ _SMOOTH
    return np.sqrt(((luma - smooth) ** 2).mean((1, 2)))


def _in_place(left: np.ndarray) -> np.ndarray:
    """Return the root mean square of the worst place of each difference."""
    sums = np.pad(left**2, ((0, 0), (1, 0), (1, 0))).cumsum(1).cumsum(2)
    rows = sums[:, _PLACE:] - sums[:, :-_PLACE]
    places = rows[:, :, _PLACE:] - rows[:, :, :-_PLACE]
    return np.sqrt(np.maximum(places.max((1, 2)), 0)) / _PLACE


def _colour_difference(first: np.ndarray, second: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Return the root mean square difference of that chroma plane which differs more."""
    rows = sampling(windows[:, 0], windows[:, 1], COLOUR_SIDE)
    columns = sampling(windows[:, 2], windows[:, 3], COLOUR_SIDE).transpose(0, 2, 1)
    planes = first.astype(np.float32).transpose(3, 0, 1, 2)
    left = second.transpose(3, 0, 1, 2) - rows @ planes @ columns
    return np.sqrt((left**2).mean((2, 3))).max(0)


def _aspect_difference(first: np.ndarray, second: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Return by what share the aspect ratios differ, beyond what rounding to whole pixels explains."""
    shown = first["width"] * windows[:, 3] / (first["height"] * windows[:, 1])
    shortest = np.min([first["width"], first["height"], second["width"], second["height"]], axis=0)
    return np.abs(np.log(shown * second["height"] / second["width"])) - 1 / shortest
