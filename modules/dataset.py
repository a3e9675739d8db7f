"""From Transform's TFRecords to batches for Keras."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from modules import augmentation, autotuning, features, preprocessing

_SHUFFLE_BYTES = 256 * 2**20
_MEMORY_BYTES = 2 * 2**30


class Contents(NamedTuple):
    """What is in a split."""

    counts: tuple[int, ...]
    """Pictures of each label id."""
    digest: str
    """SHA-256 of its records in order."""

    @property
    def total(self) -> int:
        """All pictures."""
        return sum(self.counts)


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

    def scan(self) -> Contents:
        """Return what is in it, in one pass over the files."""
        spec = {features.LABEL_ID: tf.io.FixedLenFeature([], tf.int64)}
        counts: collections.Counter[int] = collections.Counter()
        digest = hashlib.sha256()
        batches = autotuning.off(self._records().batch(256).prefetch(1))
        for records in batches.as_numpy_iterator():
            for record in records:
                digest.update(record)
            counts.update(tf.io.parse_example(records, spec)[features.LABEL_ID].numpy().tolist())
        return Contents(tuple(counts[label_id] for label_id in range(self.num_classes)), digest.hexdigest())

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


def training_batches(
    split: TransformedSplit,
    batch_size: int,
    seed: int,
    augment: dict[str, Any] | None,
    epoch: int = 0,
    step: int = 0,
    pictures: int | None = None,
) -> tf.data.Dataset:
    """Return batches without end, epoch after epoch, shuffled and augmented afresh in each.

    An epoch's batches follow from its number and the seed alone, so that training can go on from any of them.

    Args:
      split: the train split.
      batch_size: pictures a batch; the last one of an epoch may be smaller.
      seed: of shuffling and augmentation.
      augment: the `augmentation` section of the configuration; None leaves the pictures as they are.
      epoch: the first one, from 0.
      step: the first batch of that epoch, from 0.
      pictures: how many there are; where given and no more than 2 GiB, they are read once and stay in memory.

    Returns:
      A dataset of (float32 images `[batch, height, width, 3]` in 0 to 255, labels `[batch, num_classes]`).
    """
    picture_bytes = split.height * split.width * 3
    window = max(batch_size, _SHUFFLE_BYTES // picture_bytes)
    examples = split.examples()
    if pictures is not None and pictures * picture_bytes <= _MEMORY_BYTES:
        examples = examples.cache()
    root = tf.constant([seed, 0], tf.int64)

    def shuffled(number: tf.Tensor) -> tf.data.Dataset:
        own = tf.random.experimental.stateless_fold_in(root, number)
        order = tf.random.stateless_uniform([], own, maxval=tf.int64.max, dtype=tf.int64)
        batches = examples.shuffle(window, seed=order, reshuffle_each_iteration=False).batch(batch_size)
        return batches.enumerate().map(
            lambda index, batch: (*batch, tf.random.experimental.stateless_fold_in(own, index)),
            num_parallel_calls=1,
        )

    batches = tf.data.Dataset.range(epoch, 2**31).flat_map(shuffled).skip(step)
    finish = _as_float if augment is None else augmentation.Augmenter(augment)
    return autotuning.off(batches.map(finish, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE))


def evaluation_batches(split: TransformedSplit, batch_size: int) -> tf.data.Dataset:
    """Return plain batches in file order: (float32 images in 0 to 255, one-hot labels)."""
    batches = split.examples().batch(batch_size).map(_as_float, num_parallel_calls=tf.data.AUTOTUNE)
    return autotuning.off(batches.prefetch(tf.data.AUTOTUNE))


def balanced_class_weights(counts: Sequence[int]) -> dict[int, float]:
    """Return weights that give each class the same total: pictures / (classes present * pictures of the class).

    The formula of scikit-learn's `class_weight="balanced"` (King and Zeng, "Logistic Regression in Rare Events Data", 2001).

    Args:
      counts: pictures of each label id; a class without any gets weight 0.
    """
    present = sum(count > 0 for count in counts)
    return {i: sum(counts) / (present * count) if count else 0.0 for i, count in enumerate(counts)}


def _as_float(images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
    return tf.cast(images, tf.float32), labels
