"""Augmentation of whole batches from a seed.

Rotation, shifts, zoom and flip are one random affine map an image and one interpolation. The map and its parameters follow
`keras.preprocessing.image.ImageDataGenerator`, whose result for the same parameters is the same. What may follow are Keras's
own layers: RandAugment, random erasing, MixUp or CutMix.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import keras
import tensorflow as tf


class AffineParameters(NamedTuple):
    """What is drawn for a batch; each is float32 `[batch]`."""

    angle: tf.Tensor
    """Rotation in radians."""
    shift_y: tf.Tensor
    """Vertical shift in pixels."""
    shift_x: tf.Tensor
    """Horizontal shift in pixels."""
    zoom_y: tf.Tensor
    """Zoom factor of the vertical axis; below 1 magnifies."""
    zoom_x: tf.Tensor
    """Zoom factor of the horizontal axis; below 1 magnifies."""
    flip: tf.Tensor
    """1.0 to mirror the result left to right, else 0.0."""


def draw(seed: tf.Tensor, batch_size: tf.Tensor | int, height: int, width: int, config: dict[str, Any]) -> AffineParameters:
    """Draw the parameters of a batch.

    Args:
      seed: int64 `[2]`; equal seeds give equal draws.
      batch_size: number of images.
      height: of the images, in pixels.
      width: of the images, in pixels.
      config: the `augmentation` section: rotation in degrees, shifts as fractions of the size, zoom as a range.

    Returns:
      The parameters, each uniform in its range.
    """
    angle_seed, y_seed, x_seed, zoom_y_seed, zoom_x_seed, flip_seed = tf.unstack(
        tf.random.experimental.stateless_split(seed, 6)
    )

    def uniform(own_seed: tf.Tensor, low: float, high: float) -> tf.Tensor:
        return tf.random.stateless_uniform([batch_size], own_seed, low, high)

    rotation = math.radians(config["rotation"])
    shift_y, shift_x = config["height_shift"] * height, config["width_shift"] * width
    flips = tf.cast(uniform(flip_seed, 0.0, 1.0) < 0.5, tf.float32)
    return AffineParameters(
        angle=uniform(angle_seed, -rotation, rotation),
        shift_y=uniform(y_seed, -shift_y, shift_y),
        shift_x=uniform(x_seed, -shift_x, shift_x),
        zoom_y=uniform(zoom_y_seed, *config["zoom"]),
        zoom_x=uniform(zoom_x_seed, *config["zoom"]),
        flip=flips if config["horizontal_flip"] else tf.zeros_like(flips),
    )


def affine_coefficients(parameters: AffineParameters, height: int, width: int) -> tf.Tensor:
    """Return the maps from output to input pixels.

    With the image's centre c, an output pixel p = (x, y) takes its value from R(angle) (Z p' + shift) + c, where
    p' = p - c, mirrored first where `flip` says so, and Z scales by the zoom factors.

    Args:
      parameters: what was drawn, `[batch]` each.
      height: of the images, in pixels.
      width: of the images, in pixels.

    Returns:
      float32 `[batch, 6]`: a0, a1, a2, b0, b1, b2 of x' = a0 x + a1 y + a2 and y' = b0 x + b1 y + b2.
    """
    sine, cosine = tf.sin(parameters.angle), tf.cos(parameters.angle)
    zoom_x = parameters.zoom_x * (1.0 - 2.0 * parameters.flip)
    # Rows of the matrix that takes centred (x, y) of the output to centred (x, y) of the input.
    a0, a1 = cosine * zoom_x, -sine * parameters.zoom_y
    b0, b1 = sine * zoom_x, cosine * parameters.zoom_y
    centre_y, centre_x = (height - 1) / 2.0, (width - 1) / 2.0
    a2 = cosine * parameters.shift_x - sine * parameters.shift_y + centre_x - a0 * centre_x - a1 * centre_y
    b2 = cosine * parameters.shift_y + sine * parameters.shift_x + centre_y - b0 * centre_x - b1 * centre_y
    return tf.stack([a0, a1, a2, b0, b1, b2], axis=-1)


@tf.function(jit_compile=True)
def interpolate(images: tf.Tensor, coefficients: tf.Tensor) -> tf.Tensor:
    """Look every output pixel up by an affine map, bilinear, pixels outside being the nearest ones.

    Compiled by XLA this takes half the time of `keras.ops.image.affine_transform`, whose result is the same.

    Args:
      images: `[batch, height, width, channels]`, any number type; all but the batch are known.
      coefficients: float32 `[batch, 6]`, see `affine_coefficients`.

    Returns:
      float32, the shape of `images`.
    """
    height, width, channels = images.shape[1:]
    rows, columns = tf.meshgrid(tf.range(height, dtype=tf.float32), tf.range(width, dtype=tf.float32), indexing="ij")
    a0, a1, a2, b0, b1, b2 = tf.unstack(coefficients[:, :, None, None], axis=1)
    x = tf.clip_by_value(a0 * columns + a1 * rows + a2, 0.0, width - 1.0)
    y = tf.clip_by_value(b0 * columns + b1 * rows + b2, 0.0, height - 1.0)
    left, top = tf.cast(x, tf.int32), tf.cast(y, tf.int32)
    right, bottom = tf.minimum(left + 1, width - 1), tf.minimum(top + 1, height - 1)
    pixels = tf.reshape(images, [-1, height * width, channels])

    def at(row: tf.Tensor, column: tf.Tensor) -> tf.Tensor:
        indices = tf.reshape(row * width + column, [-1, height * width])
        found = tf.gather(pixels, indices, batch_dims=1)
        return tf.cast(tf.reshape(found, [-1, height, width, channels]), tf.float32)

    to_right = (x - tf.floor(x))[..., None]
    to_bottom = (y - tf.floor(y))[..., None]
    upper = at(top, left) * (1.0 - to_right) + at(top, right) * to_right
    lower = at(bottom, left) * (1.0 - to_right) + at(bottom, right) * to_right
    return upper * (1.0 - to_bottom) + lower * to_bottom


def warp(images: tf.Tensor, seed: tf.Tensor, config: dict[str, Any]) -> tf.Tensor:
    """Warp every image of a batch by its own random affine map, filling with the nearest pixel.

    Args:
      images: `[batch, height, width, 3]`, any number type, 0 to 255.
      seed: int64 `[2]`; equal seeds give equal results.
      config: the `augmentation` section of the configuration.

    Returns:
      float32 `[batch, height, width, 3]`, 0 to 255.
    """
    height, width = images.shape[1], images.shape[2]
    parameters = draw(seed, tf.shape(images)[0], height, width, config)
    return interpolate(images, affine_coefficients(parameters, height, width))


class Augmenter:
    """All of the augmentation of a configuration, as one function of a batch and a seed.

    Args:
      config: the `augmentation` section.
    """

    def __init__(self, config: dict[str, Any]):
        self._config = config
        self._seeds = _GivenSeeds()
        self._layers = []
        if config["rand_augment"]:
            self._layers.append(keras.layers.RandAugment(value_range=(0, 255), factor=config["rand_augment"]))
        if config["random_erasing"]:
            self._layers.append(
                keras.layers.RandomErasing(factor=(config["random_erasing"],) * 2, fill_value=0.0, value_range=(0, 255))
            )
        if config["mix"] == "mixup":
            self._layers.append(keras.layers.MixUp(alpha=config["mixup_alpha"]))
        elif config["mix"] == "cutmix":
            self._layers.append(keras.layers.CutMix())
        for layer in self._layers:
            layer.generator = self._seeds

    def __call__(self, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Augment a batch.

        Args:
          images: `[batch, height, width, 3]`, any number type, 0 to 255.
          labels: float32 `[batch, num_classes]`, one-hot.
          seed: int64 `[2]`; equal seeds give equal results.

        Returns:
          Images, float32, and labels; labels differ from those given only where pictures are mixed.
        """
        batch = {"images": warp(images, seed, self._config), "labels": labels}
        for number, layer in enumerate(self._layers):
            self._seeds.start(tf.random.experimental.stateless_fold_in(seed, 1 + number))
            batch = layer(batch, training=True)
        return batch["images"], batch["labels"]


class _GivenSeeds(keras.random.SeedGenerator):
    """Draws Keras's seeds from a given one, where its own generator would count calls in a variable."""

    def __init__(self) -> None:
        super().__init__(0)
        self._seed: tf.Tensor | None = None
        self._drawn = 0

    def start(self, seed: tf.Tensor) -> None:
        """Begin anew from a seed, int64 `[2]`."""
        self._seed, self._drawn = seed, 0

    def next(self, ordered: bool = True) -> tf.Tensor:
        """Return the next seed."""
        self._drawn += 1
        return tf.random.experimental.stateless_fold_in(self._seed, self._drawn)
