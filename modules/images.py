"""Pictures as they are found, made into bytes that TensorFlow decodes right: the one way in, for training and serving.

TensorFlow is imported when a picture is met that needs it: who only sends plain files to a server has no use for it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import struct

import numpy as np
import PIL.Image

FORMATS = {"JPEG": "JPEG", "MPO": "JPEG", "PNG": "PNG", "GIF": "GIF", "WEBP": "WEBP", "BMP": "BMP", "TIFF": "TIFF"}
"""Formats that are taken, from Pillow's name to ours; a file's content decides, not its name."""

WHITE = (255, 255, 255)
MAX_PIXELS = 100_000_000
_BYTES_A_PIXEL = 8  # the most that a format that is taken spends: four channels of 16 bit
_HEADER_BYTES = 2**20

EMPTY = "empty"
NOT_AN_IMAGE = "not_an_image"
UNSUPPORTED_FORMAT = "unsupported_format"
UNSUPPORTED_MODE = "unsupported_mode"
TOO_MANY_PIXELS = "too_many_pixels"
DAMAGED = "damaged"

_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"RIFF": "WEBP",
}
_PNG_METADATA = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp", b"acTL")
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
# What Pillow raises for damaged content, besides its own UnidentifiedImageError, an OSError.
_DAMAGE = (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, struct.error, OverflowError)


class BadImageError(ValueError):
    """A file that can't be used as a picture.

    Args:
      code: one of the reasons above.
      message: why, in words.
    """

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture that TensorFlow decodes right, and what was learnt of it.

    Attributes:
      encoded: the file as it was found, or a PNG with the pixels that it shows.
      format: of the file as found, one of the values of `FORMATS`.
      height: pixels, upright.
      width: pixels, upright.
      channels: of the file as found: 1 grey, 2 grey with alpha, 3 colour, 4 colour with alpha or CMYK.
      bytes: length of the file as found.
      content_hash: SHA-256 of the size and the decoded pixels, in hexadecimal: equal for equal pictures, however encoded.
    """

    encoded: bytes
    format: str
    height: int
    width: int
    channels: int
    bytes: int
    content_hash: str


def max_bytes(max_pixels: int = MAX_PIXELS) -> int:
    """Return how many bytes a file may have at most, so that a larger one need not be read.

    Args:
      max_pixels: most pixels of a picture, height times width.
    """
    return max_pixels * _BYTES_A_PIXEL + _HEADER_BYTES


def prepare(encoded: bytes, background: tuple[int, int, int] = WHITE, max_pixels: int = MAX_PIXELS) -> Picture:
    """Make a picture of what is in a file, or say why it is none.

    What `tf.io.decode_image` decodes right passes through untouched. All else is decoded by Pillow and rewritten once as an
    RGB PNG, without loss: pictures with an EXIF orientation, CMYK, 16 bit, alpha (laid over the background), animations
    (their first frame), WebP, TIFF and whatever else the two decode differently. Colour profiles are not applied.

    Args:
      encoded: the content of a file.
      background: RGB, 0 to 255 each, seen through transparent pixels.
      max_pixels: most pixels, height times width; a larger picture is refused before it is decoded.

    Returns:
      The picture.

    Raises:
      BadImageError: it is empty, not a picture, too large, damaged, or of a format or mode that is not supported.
    """
    with _open(encoded, max_pixels) as image:
        kind = FORMATS[str(image.format)]
        channels = 3 if image.mode == "P" else len(image.getbands())
        pixels = _decode_with_tensorflow(encoded) if _is_plain(image, kind, encoded) else None
        kept = encoded
        if pixels is None:
            pixels = _decode_with_pillow(image, kind, encoded, background)
            if not _tensorflow_agrees(image, kind, encoded, pixels):
                kept = _as_png(pixels)
    height, width, _ = pixels.shape
    digest = hashlib.sha256(f"{height}x{width}\n".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return Picture(kept, kind, height, width, channels, len(encoded), digest.hexdigest())


def servable(encoded: bytes, background: tuple[int, int, int] = WHITE, max_pixels: int = MAX_PIXELS) -> bytes:
    """Return what `prepare` makes of a file, without TensorFlow where Pillow alone shows that the file stays as it is.

    Args:
      encoded: the content of a file.
      background: as for `prepare`.
      max_pixels: likewise.

    Raises:
      BadImageError: likewise.
    """
    with _open(encoded, max_pixels) as image:
        if _is_plain(image, FORMATS[str(image.format)], encoded) and _is_whole(image, encoded):
            return encoded
    return prepare(encoded, background, max_pixels).encoded


def _is_whole(image: PIL.Image.Image, encoded: bytes) -> bool:
    """Whether Pillow decodes a file, with all of its checksums."""
    if image.format == "PNG" and _PNG_END not in encoded:
        return False  # Pillow does without it, and TensorFlow does not
    try:
        image.load()
        PIL.Image.open(io.BytesIO(encoded)).verify()
    except _DAMAGE:
        return False
    return True


def _open(encoded: bytes, max_pixels: int) -> PIL.Image.Image:
    """Read the header alone, and judge by it."""
    if not encoded:
        raise BadImageError(EMPTY, "the file is empty")
    expected = f"expected {', '.join(sorted(set(FORMATS.values())))}"
    try:
        image = PIL.Image.open(io.BytesIO(encoded))
    except PIL.Image.DecompressionBombError:
        raise BadImageError(TOO_MANY_PIXELS, f"more than {max_pixels / 1e6:g} megapixels, image.max_megapixels") from None
    except _DAMAGE:
        for magic, kind in _MAGIC.items():
            if encoded.startswith(magic) and (kind != "WEBP" or encoded[8:12] == b"WEBP"):
                message = f"starts as {kind}, but its header can't be read: damaged, or of a mode that is not supported"
                raise BadImageError(DAMAGED, message) from None
        raise BadImageError(NOT_AN_IMAGE, f"not a picture; {expected}") from None
    width, height = image.size
    if image.format not in FORMATS:
        raise BadImageError(UNSUPPORTED_FORMAT, f"format {image.format} is not supported; {expected}")
    if width * height > max_pixels:
        raise BadImageError(
            TOO_MANY_PIXELS,
            f"{width} x {height} is more than {max_pixels / 1e6:g} megapixels, image.max_megapixels",
        )
    return image


def _is_plain(image: PIL.Image.Image, kind: str, encoded: bytes) -> bool:
    """Whether TensorFlow is known to decode such a file right, so that one decoder is enough."""
    if image.mode not in {"L", "RGB"}:
        return False
    if kind == "PNG":
        # A PNG's EXIF may stand behind its pixels, where Pillow sees it only after decoding.
        return not (_is_16_bit_png(encoded) or image.has_transparency_data or any(word in encoded for word in _PNG_METADATA))
    return kind == "JPEG" and _orientation(image) not in _UPRIGHT


def _orientation(image: PIL.Image.Image) -> int | None:
    """The EXIF orientation; None if there is none or it can't be read."""
    try:
        return image.getexif().get(_ORIENTATION)
    except _DAMAGE:
        return None


def _tensorflow_agrees(image: PIL.Image.Image, kind: str, encoded: bytes, pixels: np.ndarray) -> bool:
    """Whether TensorFlow sees the very same pixels in a file that it may decode."""
    if kind not in {"PNG", "GIF", "BMP"} or getattr(image, "is_animated", False):
        return False
    seen = _decode_with_tensorflow(encoded)
    return seen is not None and np.array_equal(seen, pixels)


def _decode_with_tensorflow(encoded: bytes) -> np.ndarray | None:
    import tensorflow as tf

    try:
        return tf.io.decode_image(encoded, channels=3, expand_animations=False).numpy()
    except tf.errors.InvalidArgumentError:
        return None


def _decode_with_pillow(image: PIL.Image.Image, kind: str, encoded: bytes, background: tuple[int, int, int]) -> np.ndarray:
    """Decode to uint8 `[height, width, 3]`: upright, 8 bit, over the background."""
    try:
        image.load()
        # Pillow turns TIFF upright by itself.
        turn = None if kind == "TIFF" else _UPRIGHT.get(_orientation(image) or 1)
        if kind == "PNG" and _is_16_bit_png(encoded):
            image = PIL.Image.fromarray(_decode_16_bit_png(encoded, background))
        elif image.mode.startswith("I;16"):
            image = PIL.Image.fromarray(_to_8_bit(np.asarray(image)))
        elif image.mode in {"F", "I", "LAB", "HSV"}:
            message = f"pixels of mode {image.mode} have no agreed range of colours; expected 8 or 16 bit grey or colour"
            raise BadImageError(UNSUPPORTED_MODE, message)
        elif image.has_transparency_data:
            behind = PIL.Image.new("RGBA", image.size, (*background, 255))
            image = PIL.Image.alpha_composite(behind, image.convert("RGBA"))
        image = image.convert("RGB")
    except BadImageError:
        raise
    except _DAMAGE as error:
        raise BadImageError(DAMAGED, f"does not decode as {kind} (truncated or damaged): {_core(error)}") from None
    return np.asarray(image if turn is None else image.transpose(turn))


def _is_16_bit_png(encoded: bytes) -> bool:
    return encoded[24:25] == b"\x10"  # the bit depth in IHDR, which is always first: PNG specification, 11.2.1


def _decode_16_bit_png(encoded: bytes, background: tuple[int, int, int]) -> np.ndarray:
    """Pillow keeps 8 of 16 bits of colours; TensorFlow's own decoder has them all."""
    import tensorflow as tf

    try:
        rgba = tf.io.decode_png(encoded, channels=4, dtype=tf.uint16).numpy()
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(_core(error)) from None
    if rgba[..., 3].min() == 65535:
        return _to_8_bit(rgba[..., :3])
    alpha = rgba[..., 3:].astype(np.float32) / 65535
    behind = np.asarray(background, np.float32)
    return np.round(rgba[..., :3] * (alpha / 257) + behind * (1 - alpha)).astype(np.uint8)


def _to_8_bit(values: np.ndarray) -> np.ndarray:
    """Scale 0 to 65535 down to 0 to 255, rounded."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _as_png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    # Level 1 takes half the time of the default for a tenth more bytes.
    PIL.Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _core(error: Exception) -> str:
    """An error's message in one line, without TensorFlow's op wrapped around it."""
    message = getattr(error, "message", None) or str(error)
    return " ".join(message.rsplit("}} ", maxsplit=1)[-1].split(" [Op:", maxsplit=1)[0].split()).rstrip(".")
