"""Pictures as they are found, made into bytes that TensorFlow decodes right: the one way in, for training and serving.

TensorFlow is imported when a picture is met that needs it: who only sends plain files to a server has no use for it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import logging
import struct

import numpy as np
import PIL.Image

from modules import decoding
from modules.headers import (
    DAMAGED,
    EMPTY,
    FAILED,
    INVISIBLE,
    NOT_AN_IMAGE,
    TOO_MANY_PIXELS,
    UNSUPPORTED_FORMAT,
    UNSUPPORTED_MODE,
    BadImageError,
)

__all__ = [
    "DAMAGED",
    "EMPTY",
    "FAILED",
    "INVISIBLE",
    "NOT_AN_IMAGE",
    "TOO_MANY_PIXELS",
    "UNSUPPORTED_FORMAT",
    "UNSUPPORTED_MODE",
    "BadImageError",
    "Picture",
    "max_bytes",
    "prepare",
    "servable",
]

WHITE = (255, 255, 255)
MAX_PIXELS = 100_000_000
_BYTES_A_PIXEL = 8  # the most that a format that is taken spends: four channels of 16 bit
_HEADER_BYTES = 2**20
_OPAQUE = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}
# What decoders raise for damaged content.
_DAMAGE = (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, struct.error, OverflowError)
_log = logging.getLogger("finetune.modules.images")


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture that TensorFlow decodes right, and what was learnt of it.

    Attributes:
      encoded: the file as it was found, or a PNG with the pixels that it shows.
      format: of the file as found, one of `headers.FORMATS`.
      height: pixels, upright.
      width: pixels, upright.
      channels: of the file as found: 1 grey, 2 grey with alpha, 3 colour, 4 colour with alpha or CMYK.
      bytes: length of the file as found.
      content_hash: SHA-256 of the size and the decoded pixels, in hexadecimal: equal for equal pictures, however encoded.
      own_hash: the same of a transparent picture before it was laid over the background; for all others `content_hash`.
      pixels: as they are shown, uint8 `[height, width, 3]`.
    """

    encoded: bytes
    format: str
    height: int
    width: int
    channels: int
    bytes: int
    content_hash: str
    own_hash: str
    pixels: np.ndarray = dataclasses.field(compare=False, repr=False)


def max_bytes(max_pixels: int = MAX_PIXELS) -> int:
    """Return how many bytes a file may have at most, so that a larger one need not be read.

    Args:
      max_pixels: most pixels of a picture, height times width.
    """
    return max_pixels * _BYTES_A_PIXEL + _HEADER_BYTES


def prepare(encoded: bytes, background: tuple[int, int, int] = WHITE, max_pixels: int = MAX_PIXELS) -> Picture:
    """Make a picture of what is in a file, or say why it is none.

    What `tf.io.decode_image` decodes right passes through untouched. All else is rewritten once as an RGB PNG, without
    loss: pictures with an EXIF orientation, CMYK, 16 bit, alpha (laid over the background), animations (their first
    frame), WebP, TIFF and whatever else TensorFlow decodes differently. Colour profiles are not applied.

    A JPEG that is damaged behind its header, and has an end, is not found out: TensorFlow, as TensorFlow Serving with it,
    and Pillow decode what is left and keep libjpeg's warning to themselves.

    Args:
      encoded: the content of a file.
      background: RGB, 0 to 255 each, seen through transparent pixels.
      max_pixels: most pixels, height times width; a larger picture is refused before it is decoded.

    Returns:
      The picture.

    Raises:
      BadImageError: it is empty, not a picture, too large, damaged, or not known to be decoded right; or nothing of it can
        be seen. Whatever goes wrong inside a file ends here: what nobody foresaw has the code `FAILED`, and its traceback
        in the log.
    """
    try:
        return _prepare(encoded, background, max_pixels)
    except BadImageError:
        raise
    except PIL.UnidentifiedImageError:  # which says where in memory the file lies
        raise BadImageError(DAMAGED, "can't be decoded: its header is truncated or damaged") from None
    except _DAMAGE as error:
        raise BadImageError(DAMAGED, f"can't be decoded (truncated or damaged): {_core(error)}") from None
    except Exception as error:
        _log.warning("a picture of %d bytes could not be decoded", len(encoded), exc_info=True, extra={"details": True})
        raise BadImageError(FAILED, f"decoding failed: {type(error).__name__}: {_core(error)}; see the log") from error


def servable(encoded: bytes, background: tuple[int, int, int] = WHITE, max_pixels: int = MAX_PIXELS) -> bytes:
    """Return what `prepare` makes of a file, without TensorFlow where Pillow alone shows that the file stays as it is.

    Args:
      encoded: the content of a file.
      background: as for `prepare`.
      max_pixels: likewise.

    Raises:
      BadImageError: likewise.
    """
    return encoded if decoding.is_plain(encoded, max_pixels) else prepare(encoded, background, max_pixels).encoded


def _prepare(encoded: bytes, background: tuple[int, int, int], max_pixels: int) -> Picture:
    kind, decoded = decoding.decode(encoded, max_pixels)
    own = _upright(decoded.pixels, decoded.orientation)
    pixels = _laid_over(own, background)
    if decoded.is_what_tensorflow_sees:
        untouched = pixels is decoded.pixels and not decoded.animated
    else:
        untouched = kind in {"PNG", "GIF", "BMP"} and not decoded.animated and _tensorflow_sees(encoded, pixels)
    height, width, _ = pixels.shape
    content_hash = _hash(pixels)
    return Picture(
        encoded=encoded if untouched else _as_png(pixels),
        format=kind,
        height=height,
        width=width,
        channels=decoded.channels,
        bytes=len(encoded),
        content_hash=content_hash,
        own_hash=content_hash if _is_opaque(own) else _hash(own),
        pixels=pixels,
    )


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels as EXIF's orientation says (CIPA DC-008, 4.6.4)."""
    if orientation in {5, 6, 7, 8}:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in {2, 3, 6, 7}:
        pixels = pixels[:, ::-1]
    if orientation in {3, 4, 7, 8}:
        pixels = pixels[::-1]
    return pixels


def _laid_over(pixels: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    """Return uint8 `[height, width, 3]`, what is transparent over the background."""
    if _is_opaque(pixels):
        return _to_8_bit(pixels if pixels.shape[-1] == 3 else pixels[..., :3])
    if not pixels[..., 3].any():
        message = "every pixel is transparent, so nothing of it can be seen; save it without its alpha channel"
        raise BadImageError(INVISIBLE, message)
    if pixels.dtype == np.uint8:
        behind = PIL.Image.new("RGBA", pixels.shape[1::-1], (*background, 255))
        image = PIL.Image.fromarray(np.ascontiguousarray(pixels))
        laid = np.asarray(PIL.Image.alpha_composite(behind, image))[..., :3]
    else:
        alpha = pixels[..., 3:].astype(np.float32) / 65535
        behind_16 = np.asarray(background, np.float32)
        laid = np.round(pixels[..., :3] * (alpha / 257) + behind_16 * (1 - alpha)).astype(np.uint8)
    if (laid == background).all():
        raise BadImageError(
            INVISIBLE,
            f"nothing of it can be seen on image.background = {[*background]}: all that is not transparent has that colour;"
            " set another background",
        )
    return laid


def _is_opaque(pixels: np.ndarray) -> bool:
    return pixels.shape[-1] == 3 or bool(pixels[..., 3].min() == _OPAQUE[pixels.dtype])


def _to_8_bit(values: np.ndarray) -> np.ndarray:
    """Scale 0 to 65535 down to 0 to 255, rounded; 8 bit stay as they are."""
    return values if values.dtype == np.uint8 else ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _tensorflow_sees(encoded: bytes, pixels: np.ndarray) -> bool:
    """Whether TensorFlow sees the very same pixels."""
    seen = decoding.by_tensorflow(encoded)
    return seen is not None and np.array_equal(seen, pixels)


def _hash(pixels: np.ndarray) -> str:
    height, width, _ = pixels.shape
    digest = hashlib.sha256(f"{height}x{width}\n".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def _as_png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    # Level 1 takes half the time of the default for a tenth more bytes.
    PIL.Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _core(error: Exception) -> str:
    """An error's message in one line, without TensorFlow's op wrapped around it."""
    message = getattr(error, "message", None) or str(error)
    return " ".join(message.rsplit("}} ", maxsplit=1)[-1].split(" [Op:", maxsplit=1)[0].split()).rstrip(".")
