"""What is kept of a picture to know its near copies by: a small picture, and the perceptual hash of that.

The hash is pHash (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, 3.2.1), bit for bit
what ImageHash's `phash(picture, hash_size=7, highfreq_factor=4)` makes of the small picture. It is computed here, and for
many pictures at once, because the search needs what ImageHash doesn't tell: how sure a bit is, and the hash of a window.
"""

from __future__ import annotations

import numpy as np
import PIL.Image
import scipy.fft

SIDE = 28
"""Rows and columns of the small picture; with its colours it stays below a kilobyte."""
COLOUR_SIDE = 8
HASH_SIDE = 7
BITS = HASH_SIDE**2

SIGNATURE = np.dtype(
    [
        ("luma", np.uint8, (SIDE, SIDE)),
        ("chroma", np.uint8, (COLOUR_SIDE, COLOUR_SIDE, 2)),
        ("height", "<u4"),
        ("width", "<u4"),
        ("grain", "<f4"),
    ]
)
"""A picture's signature, 924 bytes: BT.601 luma and chroma (Cb, Cr), 0 to 255 each, its size in pixels, and by how many
levels a pixel differs from the mean of its neighbours left and right, twice, on average: 0 where colours run smoothly."""

WHOLE = (0.0, 1.0, 0.0, 1.0)
"""The window that is the picture itself: top, height, left, width, as shares of the picture's."""

_GRAIN_ROWS = 64


def signature(pixels: np.ndarray) -> np.ndarray:
    """Return the signature of a picture.

    Args:
      pixels: uint8 `[height, width, 3]`, RGB.

    Returns:
      Of dtype `SIGNATURE` and shape `[]`; its `tobytes()` can be stored, and read back with `np.frombuffer`.
    """
    height, width, _ = pixels.shape
    picture = PIL.Image.fromarray(np.ascontiguousarray(pixels))
    # Whole blocks are averaged first, down to twice the side: a sixth of the time, and what comes out differs by a level.
    small = picture.resize((SIDE, SIDE), PIL.Image.Resampling.BICUBIC, reducing_gap=2).convert("YCbCr")
    luma, *chroma = small.split()
    colours = [plane.resize((COLOUR_SIDE, COLOUR_SIDE), PIL.Image.Resampling.BOX) for plane in chroma]
    found = np.zeros((), SIGNATURE)
    found["luma"] = np.asarray(luma)
    found["chroma"] = np.stack([np.asarray(plane) for plane in colours], -1)
    found["height"], found["width"] = height, width
    found["grain"] = _grain(pixels)
    return found


def hashes(luma: np.ndarray) -> np.ndarray:
    """Return the perceptual hashes of small pictures, bool `[pictures, BITS]`, lowest frequencies first in each row.

    Args:
      luma: uint8 `[pictures, SIDE, SIDE]`.
    """
    return sureness(coefficients(luma, projection(np.array([WHOLE])))[:, 0]) > 0


def projection(windows: np.ndarray) -> np.ndarray:
    """Return the matrix that takes small pictures to the coefficients of windows of them.

    Args:
      windows: float `[windows, 4]`, each like `WHOLE`.

    Returns:
      float32 `[SIDE * SIDE, windows * BITS]`.
    """
    transform = scipy.fft.dct(np.eye(SIDE), axis=0, norm="ortho")[:HASH_SIDE] / np.sqrt(SIDE)
    rows = transform @ sampling(windows[:, 0], windows[:, 1], SIDE)
    columns = transform @ sampling(windows[:, 2], windows[:, 3], SIDE)
    return np.einsum("wky,wlx->yxwkl", rows, columns).reshape(SIDE * SIDE, -1).astype(np.float32)


def coefficients(luma: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return the lowest coefficients of the cosine transform of windows of small pictures.

    They are scaled so that the squares of a picture's coefficients, all of them, add up to its mean square.

    Args:
      luma: uint8 `[pictures, SIDE, SIDE]`.
      matrix: the windows' `projection`.

    Returns:
      float32 `[pictures, windows, BITS]`, in grey levels; the first is the mean.
    """
    flat = luma.reshape(len(luma), -1).astype(np.float32)
    return (flat @ matrix).reshape(len(luma), -1, BITS)


def sureness(found: np.ndarray) -> np.ndarray:
    """Return how far coefficients are from where their bit of the hash would flip; the bit is set above 0.

    Args:
      found: float32 `[…, BITS]`, as `coefficients` has them.
    """
    # pHash's transform isn't orthonormal: its first row and column weigh more.
    weights = np.where(np.arange(HASH_SIDE) == 0, np.sqrt(2), 1).astype(np.float32)
    weighted = found * np.outer(weights, weights).reshape(-1)
    middle = np.partition(weighted, BITS // 2, axis=-1)[..., BITS // 2, None]
    return weighted - middle


def sampling(start: np.ndarray, share: np.ndarray, side: int) -> np.ndarray:
    """Return matrices that stretch a part of a row to its whole length, by cubic interpolation.

    Source: Keys, "Cubic convolution interpolation for digital image processing", 1981, equation 15.

    Args:
      start: where each part starts, float `[parts]`, as a share of the row.
      share: how long it is, likewise.
      side: of the row, in pixels.

    Returns:
      float32 `[parts, side, side]`.
    """
    centres = (np.arange(side, dtype=np.float32) + 0.5) / side
    places = np.clip((start[:, None] + share[:, None] * centres) * side - 0.5, 0, side - 1)
    distance = np.abs(places[:, :, None] - np.arange(side, dtype=np.float32))
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((2.5 - 0.5 * distance) * distance - 4) * distance + 2
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


def _grain(pixels: np.ndarray) -> float:
    """Mean of |left - 2 · middle + right| over some rows, in levels of green."""
    rows = pixels[:: max(1, len(pixels) // _GRAIN_ROWS), :, 1].astype(np.int16)
    bends = np.abs(rows[:, :-2] - 2 * rows[:, 1:-1] + rows[:, 2:])
    return float(bends.mean()) if bends.size else 0.0
