"""What runs inside Transform: decode and resize, and gather the labels.

The graph that Transform makes of `preprocessing_fn` is the very graph that the exported model serves with. Training decodes
with the same function, on all cores while it reads.
"""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

from modules import features


def _decode(encoded: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Decode one picture, a JPEG by the largest of libjpeg's own scales that leaves at least the size asked for.

    That is what Pillow's `draft` does; scaling while decoding is several times faster than resizing all pixels after.
    """

    def jpeg() -> tf.Tensor:
        shape = tf.image.extract_jpeg_shape(encoded)
        spare = tf.minimum(shape[0] // height, shape[1] // width)
        scale = tf.reduce_sum(tf.cast(spare >= tf.constant([2, 4, 8]), tf.int32))
        return tf.switch_case(scale, [functools.partial(tf.io.decode_jpeg, encoded, 3, ratio) for ratio in (1, 2, 4, 8)])

    def other() -> tf.Tensor:
        return tf.io.decode_image(encoded, channels=3, expand_animations=False)

    return tf.cond(tf.io.is_jpeg(encoded), jpeg, other)


def decode_and_resize(encoded: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Decode one picture and resize it, bilinear with antialiasing.

    Args:
      encoded: scalar string, an encoded JPEG or PNG.
      height: pixels.
      width: pixels.

    Returns:
      uint8 `[height, width, 3]`, RGB in 0 to 255.
    """
    image = _decode(encoded, height, width)
    image.set_shape([None, None, 3])
    resized = tf.image.resize(image, [height, width], method="bilinear", antialias=True)
    return tf.saturate_cast(tf.round(resized), tf.uint8)


def preprocessing_fn(inputs: dict[str, tf.Tensor], custom_config: dict[str, Any]) -> dict[str, tf.Tensor]:
    """Map raw features to transformed ones; called by Transform.

    Args:
      inputs: raw features; `image` and `label`, string `[batch]` each.
      custom_config: holds `image`, the section of the configuration with `height` and `width`.

    Returns:
      `pixels`, float32 `[batch, height, width, 3]`, RGB, whole numbers from 0 to 255.
    """
    height, width = custom_config["image"]["height"], custom_config["image"]["width"]
    tft.vocabulary(inputs[features.LABEL], vocab_filename=features.LABEL_VOCABULARY)
    pixels = tf.map_fn(
        lambda encoded: tf.cast(decode_and_resize(encoded, height, width), tf.float32),
        inputs[features.IMAGE],
        fn_output_signature=tf.TensorSpec([height, width, 3], tf.float32),
    )
    return {features.PIXELS: pixels}
