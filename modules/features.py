"""Names and types of the features, defined once for the whole pipeline.

Raw features are what ImageExampleGen writes of each picture; `PIXELS` is what Transform makes of a picture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow as tf

# Raw features, each with one value a picture.
IMAGE = "image"  # bytes: an encoded picture that TensorFlow decodes right
LABEL = "label"  # bytes: name of the class, UTF-8
PATH = "path"  # bytes: path below the source, UTF-8
SPAN = "span"  # int64: number of the span it came with; 0 without spans
HEIGHT = "height"  # int64: pixels, upright
WIDTH = "width"  # int64: pixels, upright
CHANNELS = "channels"  # int64: of the file as found: 1 grey, 2 grey with alpha, 3 colour, 4 colour with alpha or CMYK
FORMAT = "format"  # bytes: of the file as found: JPEG, PNG, GIF, WEBP, BMP or TIFF
SIZE = "bytes"  # int64: length of the file as found
CONTENT_HASH = "content_hash"  # bytes: SHA-256 of the decoded pixels, in hexadecimal

DESCRIPTIVE = (LABEL, SPAN, HEIGHT, WIDTH, CHANNELS, FORMAT, SIZE)
"""The features that statistics and validation work on: never the picture's bytes, nor what names one picture alone."""
UNSEEN = (IMAGE, PATH, CONTENT_HASH)
"""The others, all bytes: statistics of them would grow with the pictures, and the schema says no more than their names."""

# What Transform makes of them.
PIXELS = "pixels"  # float32 [height, width, 3]: RGB, whole numbers from 0 to 255

LABEL_VOCABULARY = "labels"
"""Name of the vocabulary that Transform makes of the labels."""

TRAIN, EVAL, TEST = SPLITS = ("train", "eval", "test")


def bytes_feature(value: bytes) -> tf.train.Feature:
    """Return a feature with one bytes value."""
    import tensorflow as tf

    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def int_feature(value: int) -> tf.train.Feature:
    """Return a feature with one int64 value."""
    import tensorflow as tf

    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
