"""From Transform's TFRecords to batches for Keras."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from modules import augmentation, autotuning, features, preprocessing

_SHUFFLE_BYTES = 256 * 2**20
_MEMORY_BYTES = 2 * 2**30


class Contents(NamedTuple):
    """What is in a split, in the order of its files."""

    ids: np.ndarray
    """Of each picture, from its pixels alone, `S32` `[pictures]`; copies of one picture have different ones."""
    label_ids: np.ndarray
    """int64 `[pictures]`."""
    num_classes: int
    """Size of the label vocabulary."""

    @property
    def total(self) -> int:
        """All pictures."""
        return len(self.ids)

    @property
    def counts(self) -> tuple[int, ...]:
        """Pictures of each label id."""
        return tuple(np.bincount(self.label_ids, minlength=self.num_classes).tolist())

    @property
    def digest(self) -> str:
        """SHA-256 of its pictures and their labels, whatever their order."""
        order = np.argsort(self.ids)
        return hashlib.sha256(self.ids[order].tobytes() + self.label_ids[order].tobytes()).hexdigest()


def numbers(ids: np.ndarray) -> np.ndarray:
    """Return a number for each picture to draw from: int64, 0 or more.

    Args:
      ids: `S32` `[pictures]`, as `Contents` has them.
    """
    return (np.frombuffer(bytes.fromhex(ids.tobytes().decode()), ">u8")[::2] >> 1).astype(np.int64)


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
        spec = {
            features.PIXELS: tf.io.FixedLenFeature([], tf.string),
            features.LABEL_ID: tf.io.FixedLenFeature([], tf.int64),
        }
        ids: list[bytes] = []
        label_ids: list[int] = []
        batches = autotuning.off(self.records().batch(256).prefetch(1))
        for records in batches.as_numpy_iterator():
            found = tf.io.parse_example(records, spec)
            ids += [hashlib.sha256(pixels).hexdigest()[:32].encode() for pixels in found[features.PIXELS].numpy()]
            label_ids += found[features.LABEL_ID].numpy().tolist()
        return Contents(_distinct(np.array(ids, "S32")), np.array(label_ids, np.int64), self.num_classes)

    def examples(self, records: tf.data.Dataset | None = None) -> tf.data.Dataset:
        """Return a dataset of (uint8 pixels `[height, width, 3]`, one-hot float32 label `[num_classes]`).

        Args:
          records: some of the split's; None means all of them.
        """
        spec = {
            features.PIXELS: tf.io.FixedLenFeature([], tf.string),
            features.LABEL_ID: tf.io.FixedLenFeature([], tf.int64),
        }

        def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            example = tf.io.parse_single_example(record, spec)
            pixels = preprocessing.parse_pixels(example[features.PIXELS], self.height, self.width)
            return pixels, tf.one_hot(example[features.LABEL_ID], self.num_classes)

        return (self.records() if records is None else records).map(parse, num_parallel_calls=tf.data.AUTOTUNE)

    def records(self) -> tf.data.Dataset:
        """Return a dataset of its serialised tf.Examples, in the order of its files."""
        return tf.data.TFRecordDataset(list(self.files), compression_type="GZIP")


class Split(NamedTuple):
    """A split and what is in it."""

    data: TransformedSplit
    contents: Contents


def training_batches(
    split: Split, batch_size: int, seed: int, augment: dict[str, Any] | None, epoch: int = 0, step: int = 0
) -> tf.data.Dataset:
    """Return batches without end, epoch after epoch, shuffled and augmented afresh in each.

    An epoch's batches follow from its number and the seed alone, so that training can go on from any of them. Pictures of no
    more than 2 GiB are read once and stay in memory.

    Args:
      split: the train split.
      batch_size: pictures a batch; an epoch's last one is filled up with some of its first.
      seed: of shuffling and augmentation.
      augment: the `augmentation` section of the configuration; None leaves the pictures as they are.
      epoch: the first one, from 0.
      step: the first batch of that epoch, from 0.

    Returns:
      A dataset of (float32 images `[batch, height, width, 3]` in 0 to 255, labels `[batch, num_classes]`).
    """
    pictures = split.contents.total
    window = max(batch_size, _SHUFFLE_BYTES // _picture_bytes(split))
    examples = tf.data.Dataset.zip(
        split.data.examples(), tf.data.Dataset.from_tensor_slices(numbers(split.contents.ids))
    ).map(lambda example, number: (*example, number))
    if fits_in_memory(split):
        examples = examples.cache()
    augmenter = None if augment is None else augmentation.Augmenter(augment)

    def shuffled(number: tf.Tensor) -> tf.data.Dataset:
        own = epoch_seed(seed, number)
        order = tf.random.stateless_uniform([], own, maxval=tf.int64.max, dtype=tf.int64)
        # The last batch is filled up, as a batch of one or two would have no statistics to speak of, as several devices all
        # need a part of it, and as XLA compiles each size anew.
        filled = examples.shuffle(window, seed=order, reshuffle_each_iteration=False).repeat()
        batches = filled.take(-(-pictures // batch_size) * batch_size).batch(batch_size)
        return batches.map(lambda images, labels, numbers: (images, labels, numbers, own), num_parallel_calls=1)

    def finish(images: tf.Tensor, labels: tf.Tensor, numbers: tf.Tensor, own: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if augmenter is None:
            return tf.cast(images, tf.float32), labels
        images = augmenter(images, numbers, own)
        # Its order is random, so any other picture of the batch is a random partner.
        images, shares = augmenter.mix(images, tf.roll(images, 1, 0), numbers, own)
        return images, mixed_labels(labels, tf.roll(labels, 1, 0), shares)

    batches = tf.data.Dataset.range(epoch, 2**31).flat_map(shuffled).skip(step)
    return autotuning.off(batches.map(finish, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE))


def view_batches(
    split: Split,
    wanted: np.ndarray,
    batch_size: int,
    seed: int = 0,
    augment: dict[str, Any] | None = None,
    epoch: int = 0,
    partners: np.ndarray | None = None,
) -> tf.data.Dataset:
    """Return some pictures of a split, each once, as an epoch of `training_batches` sees them.

    Args:
      split: whose pictures.
      wanted: places in the order of its files, int64, ascending.
      batch_size: pictures a batch; the last one may be smaller.
      seed: of the augmentation.
      augment: the `augmentation` section of the configuration; None leaves the pictures as they are.
      epoch: from 0.
      partners: with whom each wanted picture is mixed, int64; None mixes nothing. Needs the pictures in memory.

    Returns:
      A dataset of (float32 images `[batch, height, width, 3]` in 0 to 255, the share of each in its own, float32 `[batch]`).
    """
    own, of_all = epoch_seed(seed, epoch), numbers(split.contents.ids)
    augmenter = None if augment is None else augmentation.Augmenter(augment)

    def plain(images: tf.Tensor, numbers: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images = tf.cast(images, tf.float32) if augmenter is None else augmenter(images, numbers, own)
        return images, tf.ones_like(numbers, tf.float32)

    if augmenter is None or partners is None:
        mask = np.zeros(split.contents.total, bool)
        mask[wanted] = True
        chosen = tf.data.Dataset.zip(split.data.records(), tf.data.Dataset.from_tensor_slices(mask))
        records = chosen.filter(lambda _, is_wanted: is_wanted).map(lambda record, _: record)
        pictures = split.data.examples(records).map(lambda image, _: image)
        batches = tf.data.Dataset.zip(pictures, tf.data.Dataset.from_tensor_slices(of_all[wanted])).batch(batch_size)
        finished = batches.map(plain, num_parallel_calls=tf.data.AUTOTUNE)
    else:
        mixer, pixels = augmenter, np.stack([image for image, _ in split.data.examples().as_numpy_iterator()])

        def mixed(rows: tf.Tensor, others: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            first, second = (mixer(tf.gather(pixels, one), tf.gather(of_all, one), own) for one in (rows, others))
            return mixer.mix(first, second, tf.gather(of_all, rows), own)

        pairs = tf.data.Dataset.from_tensor_slices((wanted, partners)).batch(batch_size)
        finished = pairs.map(mixed, num_parallel_calls=tf.data.AUTOTUNE)
    return autotuning.off(finished.prefetch(tf.data.AUTOTUNE))


def evaluation_batches(split: TransformedSplit, batch_size: int) -> tf.data.Dataset:
    """Return plain batches in file order: (float32 images in 0 to 255, one-hot labels)."""
    batches = split.examples().batch(batch_size)
    floats = batches.map(lambda images, labels: (tf.cast(images, tf.float32), labels), num_parallel_calls=tf.data.AUTOTUNE)
    return autotuning.off(floats.prefetch(tf.data.AUTOTUNE))


def fits_in_memory(split: Split) -> bool:
    """Return whether the pixels of a split may stay in memory: at most 2 GiB."""
    return split.contents.total * _picture_bytes(split) <= _MEMORY_BYTES


def epoch_seed(seed: int, epoch: tf.Tensor | int) -> tf.Tensor:
    """Return the seed of an epoch's order and augmentation, int64 `[2]`."""
    # What is drawn depends on the type of the number.
    return tf.random.experimental.stateless_fold_in(tf.constant([seed, 0], tf.int64), tf.cast(epoch, tf.int64))


def mixed_labels(labels: Any, partners: Any, shares: Any) -> Any:
    """Return the labels of mixed pictures.

    Args:
      labels: of the pictures, `[batch, num_classes]`, tensors or arrays.
      partners: of those that they are mixed with.
      shares: of each picture in its own, `[batch]`.
    """
    return labels * shares[:, None] + partners * (1.0 - shares[:, None])


def balanced_class_weights(counts: Sequence[int]) -> dict[int, float]:
    """Return weights that give each class the same total: pictures / (classes present * pictures of the class).

    The formula of scikit-learn's `class_weight="balanced"` (King and Zeng, "Logistic Regression in Rare Events Data", 2001).

    Args:
      counts: pictures of each label id; a class without any gets weight 0.
    """
    present = sum(count > 0 for count in counts)
    return {i: sum(counts) / (present * count) if count else 0.0 for i, count in enumerate(counts)}


def _picture_bytes(split: Split) -> int:
    return split.data.height * split.data.width * 3


def _distinct(ids: np.ndarray) -> np.ndarray:
    """Ids in which the second and later copies of a picture have one of their own."""
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    for place in np.flatnonzero(ordered[1:] == ordered[:-1]) + 1:
        first = np.searchsorted(ordered, ordered[place])
        ids[order[place]] = hashlib.sha256(b"%s %d" % (ordered[place], place - first)).hexdigest()[:32].encode()
    return ids
