"""TIFF: what Pillow is known to decode right, and nothing else.

Pillow opens more than that, and shows something else than the file says: white as zero in 16 bit, 16 bit in planes, signed
samples. What is listed here is held by tests against tifffile and imagecodecs.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from modules.headers import DAMAGED, UNSUPPORTED_MODE, BadImageError

_SUBFILE, _OLD_SUBFILE, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES = 254, 255, 258, 259, 262, 277
_ROWS_A_STRIP, _STRIPS, _PLANES, _COLOURS, _TILE_WIDTH, _TILE_HEIGHT, _TILES = 278, 273, 284, 320, 322, 323, 324
_FILL_ORDER, _PREDICTOR, _INKS, _EXTRA, _SAMPLE_FORMAT, _WIDTH, _HEIGHT = 266, 317, 332, 338, 339, 256, 257
_WHITE_IS_ZERO, _GREY, _RGB, _PALETTE, _MASK, _CMYK, _YCBCR = range(7)
_NAMES = {
    _WHITE_IS_ZERO: "grey, white is 0",
    _GREY: "grey",
    _RGB: "RGB",
    _PALETTE: "palette",
    _MASK: "mask",
    _CMYK: "CMYK",
    _YCBCR: "YCbCr",
    8: "CIELAB",
    9: "ICCLAB",
    10: "ITULAB",
    32803: "raw sensor data",
    34892: "linear raw",
}
_RAW, _JPEG = 1, 7
_PACKED = {5, 8, 32946, 32773, 50000}
"""LZW, Deflate under both numbers, PackBits, Zstandard."""
_OF_DIFFERENCES = {5, 8, 32946, 50000}
"""Of those, the ones below which libtiff undoes Predictor 2: differences of neighbours."""
_FAX = {2, 3, 4}
_ALPHA = {(1,), (2,)}
_RGBA = {(), (0,), *_ALPHA}
_MOST_PAGES = 10_000

# (photometric interpretation, bits of a sample, samples): kinds of extra samples, where Pillow is known to be right.
_RIGHT: dict[tuple[int, int, int], set[tuple[int, ...]]] = {
    **{(grey, bits, 1): {()} for grey in (_WHITE_IS_ZERO, _GREY) for bits in (1, 2, 4, 8, 16)},
    (_GREY, 12, 1): {()},
    (_GREY, 8, 2): {(2,)},
    **{(_RGB, bits, 3): {()} for bits in (8, 16)},
    **{(_RGB, bits, 4): _RGBA for bits in (8, 16)},
    **{(_PALETTE, bits, 1): {()} for bits in (1, 2, 4, 8)},
    (_CMYK, 8, 4): {()},
    (_YCBCR, 8, 3): {()},
}


def open_page(encoded: bytes) -> TiffImageFile:
    """Open a TIFF at the page that is its picture, without decoding it.

    That is the one page that is neither a thumbnail nor a mask, or the first of several of one size.

    Args:
      encoded: the content.

    Raises:
      BadImageError: there is no such page, or Pillow is not known to decode it right.
    """
    if encoded.startswith(b"MM\0+"):
        raise BadImageError(UNSUPPORTED_MODE, "no decoder here reads a big-endian BigTIFF; save it as PNG")
    tags, offset = _page(encoded)
    _check(tags)
    wide = _is_big(encoded)
    first = encoded[8:16] if wide else encoded[4:8]
    at = struct.pack((">" if encoded[:1] == b"M" else "<") + ("Q" if wide else "I"), offset)
    # Pillow sets up the first page in any case, also one that it can't read.
    single = encoded if at == first else encoded[: 8 if wide else 4] + at + encoded[16 if wide else 8 :]
    try:
        return TiffImageFile(io.BytesIO(single))
    except SyntaxError as error:
        if "unknown" not in str(error):
            raise
        raise BadImageError(UNSUPPORTED_MODE, f"no decoder here reads this TIFF: {_kind(tags)}; save it as PNG") from None


def pixels_of(image: TiffImageFile) -> np.ndarray | None:
    """Return the pixels of an opened page where Pillow's own conversion would not do: grey of more than 8 bit.

    Args:
      image: as `open_page` returns it.

    Returns:
      uint16 `[height, width]`, 0 black to 65535 white, upright; None where Pillow's mode says it all.
    """
    tags = image.tag_v2
    bits, white_is_zero = _bits(tags)[0], tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    image.load()
    if not image.mode.startswith("I;16"):
        return None
    values = np.asarray(image)
    if bits == 12:
        values = ((values.astype(np.uint32) * 65535 + 2047) // 4095).astype(np.uint16)
    return 65535 - values if white_is_zero else values


def _page(encoded: bytes) -> tuple[ImageFileDirectory_v2, int]:
    """The tags of the page that is the picture, and where they lie."""
    full: list[tuple[ImageFileDirectory_v2, int]] = []
    offset = 0
    for tags, offset in _pages(encoded):
        # Bit 0 is a reduced version of another page, bit 2 a mask for one; 2 is the reduced one of the old tag.
        if not tags.get(_SUBFILE, 0) & 0b101 and tags.get(_OLD_SUBFILE) != 2:
            full.append((tags, offset))
    if not offset:
        raise BadImageError(DAMAGED, "starts as TIFF, but its header can't be read: truncated or damaged")
    sizes = dict.fromkeys((tags[_WIDTH], tags[_HEIGHT]) for tags, _ in full)
    if not full:
        raise BadImageError(
            UNSUPPORTED_MODE, "this TIFF holds a thumbnail and no full picture (camera raw?); save it as JPEG or PNG"
        )
    if len(sizes) > 1:
        named = ", ".join(f"{width} x {height}" for width, height in [*sizes][:4])
        message = f"this TIFF holds pages of different sizes ({named}); save the one that counts as a file of its own"
        raise BadImageError(UNSUPPORTED_MODE, message)
    return full[0]


def _pages(encoded: bytes) -> Iterator[tuple[ImageFileDirectory_v2, int]]:
    """The tags of each page, and where they lie."""
    file = io.BytesIO(encoded)
    start = file.read(16 if _is_big(encoded) else 8)
    tags, seen = ImageFileDirectory_v2(start), set[int]()
    while tags.next and tags.next not in seen and len(seen) < _MOST_PAGES:
        offset = tags.next
        seen.add(offset)
        file.seek(offset)
        tags = ImageFileDirectory_v2(start)
        tags.load(file)
        if _WIDTH not in tags or _HEIGHT not in tags:  # cut off, and read as one without tags
            break
        yield tags, offset


def _is_big(encoded: bytes) -> bool:
    """Whether it is a BigTIFF, with offsets of 64 bit."""
    return 43 in encoded[2:4]


def _check(tags: Any) -> None:
    """Refuse what Pillow is not known to decode right."""
    photometric, compression = tags.get(_PHOTOMETRIC), tags.get(_COMPRESSION, _RAW)
    bits, extra = _bits(tags), tuple(tags.get(_EXTRA, ()))
    samples, planes = len(bits), tags.get(_PLANES, 1)
    if photometric is None:
        raise BadImageError(DAMAGED, "damaged TIFF: it does not say what its values mean (PhotometricInterpretation)")
    problem = None
    if {*tags.get(_SAMPLE_FORMAT, (1,))} != {1}:
        problem = "with signed or floating-point samples"
    elif extra not in _RIGHT.get((photometric, bits[0], samples), ()) or {*bits} != {bits[0]}:
        problem = f"with extra samples {extra}" if extra else ""
    elif planes != 1 and samples > 1 and not (photometric == _RGB and bits == (8, 8, 8)):
        problem = "in planes"
    elif not _is_packed_right(photometric, bits[0], compression):
        problem = f"with the compression {compression}"
    elif tags.get(_PREDICTOR, 1) != 1 and not _are_differences_undone(tags, bits[0], compression):
        problem = f"with differences (predictor {tags[_PREDICTOR]}) under the compression {compression}"
    elif tags.get(_FILL_ORDER, 1) != 1 and bits[0] != 1:
        problem = "with reversed bits"
    elif photometric == _CMYK and tags.get(_INKS, 1) != 1:
        problem = "with other inks than cyan, magenta, yellow and black"
    elif photometric == _PALETTE and max(tags.get(_COLOURS, (0,))) < 256:
        problem = "with a palette that is black, or of 8 bit"
    if problem is not None:
        message = f"no decoder here is known to read this TIFF right: {f'{_kind(tags)} {problem}'.strip()}; save it as PNG"
        raise BadImageError(UNSUPPORTED_MODE, message)
    _check_parts(tags, samples if planes == 2 else 1)


def _kind(tags: Any) -> str:
    photometric, bits = tags.get(_PHOTOMETRIC), _bits(tags)
    return f"{_NAMES.get(photometric, f'photometric interpretation {photometric}')} of {len(bits)} x {bits[0]} bit"


def _is_packed_right(photometric: int, bits: int, compression: int) -> bool:
    if photometric == _YCBCR:
        return compression == _JPEG
    if bits == 12:
        return compression == _RAW
    if compression in _FAX:
        return bits == 1
    return compression in {_RAW, *_PACKED} or (compression == _JPEG and photometric in {_GREY, _RGB} and bits == 8)


def _are_differences_undone(tags: Any, bits: int, compression: int) -> bool:
    return tags[_PREDICTOR] == 2 and compression in _OF_DIFFERENCES and bits in {8, 16}


def _check_parts(tags: Any, planes: int) -> None:
    """Refuse a file that does not say where all of its strips or tiles lie: what is missing would be black."""
    width, height = tags[_WIDTH], tags[_HEIGHT]
    if _STRIPS in tags:
        found, expected = tags[_STRIPS], math.ceil(height / (tags.get(_ROWS_A_STRIP) or height))
    else:
        found = tags[_TILES]
        expected = math.ceil(width / tags[_TILE_WIDTH]) * math.ceil(height / tags[_TILE_HEIGHT])
    if len(found) != expected * planes:
        raise BadImageError(DAMAGED, f"damaged TIFF: it names {len(found)} of {expected * planes} strips or tiles")


def _bits(tags: Any) -> tuple[int, ...]:
    """The bits of each sample of a pixel."""
    samples, bits = tags.get(_SAMPLES, 1), tuple(tags.get(_BITS, (1,)))
    return bits * samples if len(bits) == 1 and 1 <= samples <= 8 else bits
