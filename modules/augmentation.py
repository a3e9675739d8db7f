"""Augmentation of batches, each picture from a seed of its own.

What becomes of a picture follows from its own number and the seed of the epoch, whatever else is in the batch: so it can be
kept. Rotation, shifts, zoom and flip are one random affine map an image and one interpolation. The map and its parameters
follow `keras.preprocessing.image.ImageDataGenerator`, whose result for the same parameters is the same. What may follow are
Keras's own layers: RandAugment, random erasing, MixUp or CutMix.
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


def draw(seeds: tf.Tensor, height: int, width: int, config: dict[str, Any]) -> AffineParameters:
    """Draw the parameters of a batch.

    Args:
      seeds: int64 `[batch, 2]`; equal seeds give equal draws.
      height: of the images, in pixels.
      width: of the images, in pixels.
      config: the `augmentation` section: rotation in degrees, shifts as fractions of the size, zoom as a range.

    Returns:
      The parameters, each uniform in its range.
    """
    uniform = tf.map_fn(lambda seed: tf.random.stateless_uniform([6], seed), seeds, fn_output_signature=tf.float32)
    angle, shift_y, shift_x, zoom_y, zoom_x, flip = tf.unstack(uniform, axis=1)

    def between(share: tf.Tensor, low: float, high: float) -> tf.Tensor:
        return low + share * (high - low)

    rotation = math.radians(config["rotation"])
    most_y, most_x = config["height_shift"] * height, config["width_shift"] * width
    return AffineParameters(
        angle=between(angle, -rotation, rotation),
        shift_y=between(shift_y, -most_y, most_y),
        shift_x=between(shift_x, -most_x, most_x),
        zoom_y=between(zoom_y, *config["zoom"]),
        zoom_x=between(zoom_x, *config["zoom"]),
        flip=tf.cast(flip < 0.5, tf.float32) if config["horizontal_flip"] else tf.zeros_like(flip),
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


def warp(images: tf.Tensor, seeds: tf.Tensor, config: dict[str, Any]) -> tf.Tensor:
    """Warp every image of a batch by its own random affine map, filling with the nearest pixel.

    Args:
      images: `[batch, height, width, 3]`, any number type, 0 to 255.
      seeds: int64 `[batch, 2]`; equal seeds give equal maps.
      config: the `augmentation` section of the configuration.

    Returns:
      float32 `[batch, height, width, 3]`, 0 to 255.
    """
    height, width = images.shape[1], images.shape[2]
    return interpolate(images, affine_coefficients(draw(seeds, height, width, config), height, width))


class Augmenter:
    """All of the augmentation of a configuration.

    Args:
      config: the `augmentation` section.
    """

    def __init__(self, config: dict[str, Any]):
        self._config = config
        self._seeds = _GivenSeeds()
        self._layers: list[keras.Layer] = []
        if config["rand_augment"]:
            self._layers.append(keras.layers.RandAugment(value_range=(0, 255), factor=config["rand_augment"]))
        if config["random_erasing"]:
            self._layers.append(
                keras.layers.RandomErasing(factor=(config["random_erasing"],) * 2, fill_value=0.0, value_range=(0, 255))
            )
        self._mixer = {
            "none": lambda: None,
            "mixup": lambda: keras.layers.MixUp(alpha=config["mixup_alpha"]),
            "cutmix": keras.layers.CutMix,
        }[config["mix"]]()
        for layer in (*self._layers, self._mixer):
            if layer is not None:
                layer.generator = self._seeds

    def __call__(self, images: tf.Tensor, numbers: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Augment each picture of a batch on its own.

        Args:
          images: `[batch, height, width, 3]`, any number type, 0 to 255.
          numbers: of the pictures, int64 `[batch]`.
          seed: of the epoch, int64 `[2]`; equal ones give equal results for equal numbers.

        Returns:
          float32 `[batch, height, width, 3]`, 0 to 255.
        """
        seeds = _seeds(numbers, seed)
        images = warp(images, seeds, self._config)
        if not self._layers:
            return images

        def altered(picture: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
            batch = picture[0][tf.newaxis]
            for position, layer in enumerate(self._layers):
                self._seeds.start(tf.random.experimental.stateless_fold_in(picture[1], 1 + position))
                batch = layer(batch, training=True)
            return batch[0]

        return tf.map_fn(altered, (images, seeds), fn_output_signature=tf.TensorSpec(images.shape[1:], tf.float32))

    def mix(
        self, images: tf.Tensor, partners: tf.Tensor, numbers: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Mix each picture of a batch with a partner, where the configuration says so.

        Args:
          images: as `__call__` returns them.
          partners: likewise.
          numbers: of the pictures, int64 `[batch]`.
          seed: of the epoch, int64 `[2]`.

        Returns:
          The mixed pictures, and the share that each has in its own, float32 `[batch]`, 0 to 1.
        """
        mixer = self._mixer
        if mixer is None:
            return images, tf.ones_like(numbers, tf.float32)

        def mixed(pair: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            both = tf.stack(pair[:2])
            self._seeds.start(tf.random.experimental.stateless_fold_in(pair[2], 0))
            drawn = mixer.get_random_transformation({"images": both}, training=True)
            drawn["permutation_order"] = tf.constant([1, 0])
            return mixer.transform_images(both, drawn, training=True)[0], tf.reshape(drawn["mix_weight"][0], [])

        signature = (tf.TensorSpec(images.shape[1:], tf.float32), tf.TensorSpec([], tf.float32))
        return tf.map_fn(mixed, (images, partners, _seeds(numbers, seed)), fn_output_signature=signature)


def _seeds(numbers: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """A seed for each number, int64 `[batch, 2]`."""
    return tf.map_fn(
        lambda number: tf.random.experimental.stateless_fold_in(seed, number), numbers, fn_output_signature=tf.int64
    )


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
