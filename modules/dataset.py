"""From Transform's TFRecords to batches for Keras."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from modules import augmentation, features, preprocessing

_SHUFFLE_BYTES = 256 * 2**20


@dataclasses.dataclass(frozen=True)
class TransformedSplit:
    """One split as Transform wrote it.

    Attributes:
      files: gzipped TFRecords of tf.Example with `pixels` and `label_id`.
      height: of the pictures, in pixels.
      width: of the pictures, in pixels.
      num_classes: size of the label vocabulary.
    """

    files: tuple[str, ...]
    height: int
    width: int
    num_classes: int

    def label_counts(self) -> list[int]:
        """Return the number of pictures of each label id, in one pass over the files."""
        spec = {features.LABEL_ID: tf.io.FixedLenFeature([], tf.int64)}
        batches = self._records().batch(1024).map(lambda batch: tf.io.parse_example(batch, spec))
        counts: collections.Counter[int] = collections.Counter()
        for batch in batches.as_numpy_iterator():
            counts.update(batch[features.LABEL_ID].tolist())
        return [counts[label_id] for label_id in range(self.num_classes)]

    def examples(self) -> tf.data.Dataset:
        """Return a dataset of (uint8 pixels `[height, width, 3]`, one-hot float32 label `[num_classes]`)."""
        spec = {
            features.PIXELS: tf.io.FixedLenFeature([], tf.string),
            features.LABEL_ID: tf.io.FixedLenFeature([], tf.int64),
        }

        def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            example = tf.io.parse_single_example(record, spec)
            pixels = preprocessing.parse_pixels(example[features.PIXELS], self.height, self.width)
            return pixels, tf.one_hot(example[features.LABEL_ID], self.num_classes)

        return self._records().map(parse, num_parallel_calls=tf.data.AUTOTUNE)

    def _records(self) -> tf.data.Dataset:
        return tf.data.TFRecordDataset(list(self.files), compression_type="GZIP")


def training_batches(split: TransformedSplit, batch_size: int, seed: int, augment: dict[str, Any]) -> tf.data.Dataset:
    """Return shuffled, augmented batches, fresh in every epoch and equal for equal seeds.

    Args:
      split: the train split.
      batch_size: pictures a batch; the last one may be smaller.
      seed: of shuffling and augmentation.
      augment: the `augmentation` section of the configuration.

    Returns:
      A dataset of (float32 images `[batch, height, width, 3]` in 0 to 255, one-hot labels `[batch, num_classes]`).
    """
    window = max(batch_size, _SHUFFLE_BYTES // (split.height * split.width * 3))
    batches = split.examples().shuffle(window, seed=seed).batch(batch_size)
    if augment["enabled"]:
        seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).batch(2)
        batches = tf.data.Dataset.zip(batches, seeds).map(
            lambda batch, own_seed: (augmentation.augment(batch[0], own_seed, augment), batch[1]),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
    else:
        batches = batches.map(_as_float, num_parallel_calls=tf.data.AUTOTUNE)
    return batches.prefetch(tf.data.AUTOTUNE)


def evaluation_batches(split: TransformedSplit, batch_size: int) -> tf.data.Dataset:
    """Return plain batches in file order: (float32 images in 0 to 255, one-hot labels)."""
    batches = split.examples().batch(batch_size).map(_as_float, num_parallel_calls=tf.data.AUTOTUNE)
    return batches.prefetch(tf.data.AUTOTUNE)


def balanced_class_weights(counts: Sequence[int]) -> dict[int, float]:
    """Return weights that give each class the same total: pictures / (classes present * pictures of the class).

    The formula of scikit-learn's `class_weight="balanced"` (King and Zeng, "Logistic Regression in Rare Events Data", 2001).

    Args:
      counts: pictures of each label id; a class without any gets weight 0.
    """
    present = sum(count > 0 for count in counts)
    return {i: sum(counts) / (present * count) if count else 0.0 for i, count in enumerate(counts)}


def _as_float(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return tf.cast(images, tf.float32), labels
