"""What a user of plain Keras would take: ImageDataGenerator, by a configuration's augmentation."""

from __future__ import annotations

from typing import Any

from configs import schema


def augmenting_generator(augment: schema.Augmentation, **options: Any) -> Any:
    """Return an ImageDataGenerator with the ranges of an augmentation, and further options."""
    import tensorflow as tf

    return tf.keras.preprocessing.image.ImageDataGenerator(
        rotation_range=augment.rotation,
        width_shift_range=augment.width_shift,
        height_shift_range=augment.height_shift,
        zoom_range=list(augment.zoom),
        horizontal_flip=augment.horizontal_flip,
        fill_mode="nearest",
        **options,
    )
