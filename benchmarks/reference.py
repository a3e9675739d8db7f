"""What benchmarks share: what a user of plain Keras would take, and pictures as ImageExampleGen writes them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs import schema

if TYPE_CHECKING:
    from modules import dataset


def generator(**options: Any) -> Any:
    """Return an ImageDataGenerator of Keras 3."""
    # Where tensorflow-transform was imported first, tf.keras is Keras 2.
    from keras.src.legacy.preprocessing import image

    return image.ImageDataGenerator(**options)


def augmenting_generator(augment: schema.Augmentation, **options: Any) -> Any:
    """Return an ImageDataGenerator with the ranges of an augmentation, and further options."""
    return generator(
        rotation_range=augment.rotation,
        width_shift_range=augment.width_shift,
        height_shift_range=augment.height_shift,
        zoom_range=list(augment.zoom),
        horizontal_flip=augment.horizontal_flip,
        fill_mode="nearest",
        **options,
    )


def write_split(folder: Path, encoded: Sequence[bytes], labels: Sequence[int], size: int, classes: int) -> dataset.Split:
    """Write a split as ImageExampleGen does, and return it.

    Args:
      folder: where to; named for the split.
      encoded: its pictures.
      labels: likewise.
      size: of a side, in pixels, that they are to get.
      classes: how many there are.
    """
    import tensorflow as tf

    from modules import contents, dataset, features

    path, rows = str(folder / "records.gz"), []
    names = [str(label) for label in range(classes)]
    folder.mkdir(parents=True)
    with tf.io.TFRecordWriter(path, tf.io.TFRecordOptions("GZIP", compression_level=0)) as writer:
        for number, picture in enumerate(encoded):
            feature = {features.IMAGE: features.bytes_feature(picture)}
            record = tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
            writer.write(record)
            own_id = contents.id_of(picture)
            rows.append(contents.Row(own_id, names[labels[number]], len(record), f"{number}", own_id))
    os.makedirs(os.path.dirname(contents.beside(path)), exist_ok=True)
    contents.write(contents.beside(path), rows)
    return dataset.read([path], size, size, names)
