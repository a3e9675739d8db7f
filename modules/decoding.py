"""From a file's content to its pixels: each format by the library that is known to show what the file says."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import PIL.Image

from modules import headers, tiff
from modules.headers import DAMAGED, TOO_MANY_PIXELS, UNSUPPORTED_MODE, BadImageError

_TENSORFLOW_FRAMES = {0xC0, 0xC1, 0xC2}
"""Baseline, extended sequential and progressive JPEG, packed by Huffman's code."""
_RLE8, _RLE4 = 1, 2


class Decoded(NamedTuple):
    """The pixels of a picture.

    Attributes:
      pixels: uint8 or uint16, `[height, width, 3]` RGB, or `[height, width, 4]` with alpha behind, as stored.
      channels: of the file: 1 grey, 2 grey with alpha, 3 colour, 4 colour with alpha or CMYK.
      orientation: by EXIF or XMP, 1 to 8, that is still to be applied; 1 is upright.
      animated: whether frames follow, which are left out.
      is_what_tensorflow_sees: whether `tf.io.decode_image` has given just these pixels.
    """

    pixels: np.ndarray
    channels: int
    orientation: int = 1
    animated: bool = False
    is_what_tensorflow_sees: bool = False


def decode(encoded: bytes, max_pixels: int) -> tuple[str, Decoded]:
    """Decode a file, whatever its name says.

    Args:
      encoded: the content.
      max_pixels: height times width, told before decoding.

    Returns:
      Its format, one of `headers.FORMATS`, and its pixels.

    Raises:
      BadImageError: it is empty, of another format, too large, or not known to be decoded right.
      Exception: whatever Pillow and TensorFlow raise for damaged content.
    """
    kind = headers.check_format(encoded)
    return kind, _DECODERS[kind](encoded, max_pixels)


def by_tensorflow(encoded: bytes) -> np.ndarray | None:
    """Return what the served graph sees: uint8 `[height, width, 3]`; None where it can't decode.

    Args:
      encoded: the content.
    """
    import tensorflow as tf

    try:
        # `tf.io.decode_image` on bytes: the same op, and 0.2 ms of Python's lock more for each picture.
        return tf.raw_ops.DecodeImage(contents=tf.constant(encoded), channels=3, expand_animations=False).numpy()
    except tf.errors.InvalidArgumentError:
        return None


def is_plain(encoded: bytes, max_pixels: int) -> bool:
    """Return whether Pillow alone shows that TensorFlow sees just what `decode` does, upright and opaque.

    False says only that TensorFlow has to be asked.

    Args:
      encoded: the content.
      max_pixels: as for `decode`.
    """
    kind = headers.format_of(encoded)
    if kind not in {"PNG", "JPEG"}:
        return False
    try:
        header = headers.png(encoded) if kind == "PNG" else headers.jpeg(encoded)
        _check_size(header.height, header.width, max_pixels)
        with PIL.Image.open(io.BytesIO(encoded), formats=[kind]) as image:
            image.load()
            opaque = image.mode in {"L", "RGB"} and not header.transparent
            known = kind == "PNG" or header.frame in _TENSORFLOW_FRAMES
        with PIL.Image.open(io.BytesIO(encoded), formats=[kind]) as image:
            image.verify()  # also the checksums behind the pixels
    except Exception:  # whatever is wrong with it, `decode` says it
        return False
    return opaque and known and header.whole and header.depth <= 8 and header.orientation == 1 and not header.animated


def _decode_png(encoded: bytes, max_pixels: int) -> Decoded:
    """By libpng, through TensorFlow: Pillow keeps 8 of 16 bits, and misses transparent values below 8 bit."""
    header = headers.png(encoded)
    _check_size(header.height, header.width, max_pixels)
    animated, orientation = header.animated, header.orientation
    if header.depth < 16 and not header.transparent and (pixels := by_tensorflow(encoded)) is not None:
        return Decoded(pixels, header.channels, orientation, animated, is_what_tensorflow_sees=True)
    try:
        pixels = _rgba(encoded, header.depth)
    except ValueError:
        if header.depth != 8 or header.transparent:
            raise
        # The end may be missing behind the last pixel, which only TensorFlow minds.
        with PIL.Image.open(io.BytesIO(encoded), formats=["PNG"]) as image:
            pixels = np.asarray(image.convert("RGB"))
    return Decoded(pixels, header.channels, orientation, animated)


def _rgba(encoded: bytes, depth: int) -> np.ndarray:
    import tensorflow as tf

    try:
        return tf.io.decode_png(encoded, channels=4, dtype=tf.uint16 if depth == 16 else tf.uint8).numpy()
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(error.message) from None


def _decode_jpeg(encoded: bytes, max_pixels: int) -> Decoded:
    header = headers.jpeg(encoded)
    _check_size(header.height, header.width, max_pixels)
    if header.depth != 8 or header.channels not in {1, 3, 4}:
        message = f"no decoder here reads a JPEG of {header.channels} x {header.depth} bit; save it with 8 bit, grey or RGB"
        raise BadImageError(UNSUPPORTED_MODE, message)
    if header.channels == 4 and not header.adobe:
        message = "a JPEG of four inks without Adobe's marker, which says whether they are inverted; save it as RGB"
        raise BadImageError(UNSUPPORTED_MODE, message)
    if header.channels != 4 and (pixels := by_tensorflow(encoded)) is not None:
        return Decoded(pixels, header.channels, header.orientation, is_what_tensorflow_sees=True)
    with PIL.Image.open(io.BytesIO(encoded), formats=["JPEG"]) as image:
        return Decoded(np.asarray(image.convert("RGB")), header.channels, header.orientation)


def _decode_tiff(encoded: bytes, max_pixels: int) -> Decoded:
    image = tiff.open_page(encoded)
    with image:
        _check_size(image.height, image.width, max_pixels)
        channels = _channels(image)
        grey = tiff.pixels_of(image)  # upright, as all that Pillow makes of a TIFF
        return Decoded(_colours(image) if grey is None else np.stack([grey] * 3, -1), channels)


def _decode_bmp(encoded: bytes, max_pixels: int) -> Decoded:
    start, size = struct.unpack("<II", encoded[10:18])
    packing = int.from_bytes(encoded[30:34], "little") if size >= 40 else 0
    # Pillow loses a pixel of runs of odd length in one, and takes the run's padding for the file's in the other.
    if packing == _RLE4 or (packing == _RLE8 and start % 2):
        message = (
            f"no decoder here is known to read this BMP right: run-length encoding of {'4' if packing == _RLE4 else '8'} bit"
        )
        raise BadImageError(UNSUPPORTED_MODE, f"{message}; save it as PNG")
    try:
        return _decode_with_pillow(encoded, max_pixels)
    except OSError as error:
        if not str(error).startswith("Unsupported BMP"):
            raise
        raise BadImageError(UNSUPPORTED_MODE, f"no decoder here reads this BMP: {error}; save it as PNG") from None


def _decode_with_pillow(encoded: bytes, max_pixels: int) -> Decoded:
    """GIF, WebP and BMP."""
    try:
        image = PIL.Image.open(io.BytesIO(encoded), formats=["GIF", "WEBP", "BMP", "DIB"])
    except PIL.Image.DecompressionBombError:
        raise BadImageError(TOO_MANY_PIXELS, _too_many(max_pixels)) from None
    with image:
        _check_size(image.height, image.width, max_pixels)
        kind, channels, animated = image.format, _channels(image), getattr(image, "n_frames", 1) > 1
        image.seek(0)
        exif, xmp = image.info.get("exif", b""), image.info.get("xmp", b"")
        orientation = (headers.orientation_of_exif(exif) or headers.orientation_of_xmp(xmp) or 1) if kind == "WEBP" else 1
        return Decoded(_colours(image), channels, orientation, animated)


_DECODERS: dict[str, Callable[[bytes, int], Decoded]] = {
    "PNG": _decode_png,
    "JPEG": _decode_jpeg,
    "TIFF": _decode_tiff,
    "BMP": _decode_bmp,
    **dict.fromkeys(("GIF", "WEBP"), _decode_with_pillow),
}


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise BadImageError(TOO_MANY_PIXELS, f"{width} x {height} is {_too_many(max_pixels)}")
    if not height * width:
        raise BadImageError(DAMAGED, f"damaged: it says that it is {width} x {height}")


def _too_many(max_pixels: int) -> str:
    return f"more than {max_pixels / 1e6:g} megapixels, image.max_megapixels"


def _channels(image: PIL.Image.Image) -> int:
    return 3 if image.mode == "P" else len(image.getbands())


def _colours(image: PIL.Image.Image) -> np.ndarray:
    image.load()
    return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))
