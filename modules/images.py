"""What can be learnt of an encoded picture, and whether the pipeline can use it."""

from __future__ import annotations

import dataclasses
import hashlib
import io

import PIL.Image
import tensorflow as tf

FORMATS = ("JPEG", "PNG")
"""Formats that are taken; a file's content decides, not its name."""

_CHANNELS = {"1": 1, "L": 1, "I": 1, "I;16": 1, "P": 3, "LA": 2, "RGB": 3, "YCbCr": 3, "RGBA": 4, "CMYK": 4}


class BadImageError(ValueError):
    """A file that can't be used as a picture; the message says why."""


@dataclasses.dataclass(frozen=True)
class ImageInfo:
    """What is known of an encoded picture: sizes in pixels, `bytes` encoded, SHA-256 in hexadecimal."""

    format: str
    height: int
    width: int
    channels: int
    bytes: int
    content_hash: str


def inspect(encoded: bytes) -> ImageInfo:
    """Check that a picture can be used, by decoding it the way training and serving do.

    Args:
      encoded: the content of a file.

    Returns:
      What was learnt of the picture.

    Raises:
      BadImageError: it is empty, not a JPEG or PNG, or does not decode.
    """
    if not encoded:
        raise BadImageError("the file is empty")
    try:
        with PIL.Image.open(io.BytesIO(encoded)) as image:
            kind, (width, height), mode = str(image.format), image.size, image.mode
    except (
        PIL.UnidentifiedImageError,
        PIL.Image.DecompressionBombError,
        OSError,
        SyntaxError,
        ValueError,
    ) as error:
        reason = error if isinstance(error, PIL.Image.DecompressionBombError) else "not a picture"
        raise BadImageError(f"{reason}; expected {' or '.join(FORMATS)}") from None
    if kind not in FORMATS:
        raise BadImageError(f"format {kind} is not supported; expected {' or '.join(FORMATS)}")
    try:
        tf.io.decode_image(encoded, channels=3, expand_animations=False)
    except tf.errors.InvalidArgumentError as error:
        raise BadImageError(f"does not decode as {kind} (truncated or damaged): {_core(error.message)}") from None
    return ImageInfo(
        format=kind,
        height=height,
        width=width,
        channels=_CHANNELS.get(mode, 3),
        bytes=len(encoded),
        content_hash=hashlib.sha256(encoded).hexdigest(),
    )


def _core(message: str) -> str:
    """TensorFlow's message without the op wrapped around it."""
    return message.rsplit("}} ", maxsplit=1)[-1].split(" [Op:", maxsplit=1)[0].strip().rstrip(".")
