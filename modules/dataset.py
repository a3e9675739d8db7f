"""From the records of pictures to batches for Keras."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from modules import augmentation, autotuning, features, preprocessing
from modules import contents as contents_of

_SHUFFLE_BYTES = 256 * 2**20
_SHUFFLED_AT_MOST = 8192
"""Pictures that are decoded before the first step: their files have them in a random order already."""
_OTHER_RECORDS = "the records of a split are not those that its contents tell of; ingest anew"
_MEMORY_BYTES = 2 * 2**30


def numbers(ids: np.ndarray) -> np.ndarray:
    """Return a number for each picture to draw from: int64, 0 or more.

    Args:
      ids: `S32` `[pictures]`, as `Contents` has them.
    """
    return (np.frombuffer(bytes.fromhex(ids.tobytes().decode()), ">u8")[::2] >> 1).astype(np.int64)


class Split(NamedTuple):
    """A split as ImageExampleGen wrote it, or a part of one, and the size that its pictures get."""

    files: tuple[str, ...]
    """Gzipped TFRecords of tf.Example with the raw features."""
    height: int
    """Pixels."""
    width: int
    """Pixels."""
    contents: contents_of.Contents
    """What is in it."""
    in_files: contents_of.Contents
    """All that its files hold."""
    places: np.ndarray
    """Of its pictures in the files, ascending, int64 `[pictures]`."""

    def part(self, places: np.ndarray) -> Split:
        """Return a split of some of the pictures.

        Args:
          places: in the order of this split, ascending, int64.
        """
        return self._replace(contents=self.contents.part(places), places=self.places[places])


def read(files: Sequence[str], height: int, width: int, labels: Sequence[str]) -> Split:
    """Return a split, of whose records nothing is read yet.

    Args:
      files: in the order in which they are to be read.
      height: of the pictures, in pixels.
      width: of the pictures, in pixels.
      labels: the vocabulary; a label's id is its place there.
    """
    contents = contents_of.read(files, labels)
    return Split(tuple(files), height, width, contents, contents, np.arange(contents.total))


def pictures(split: Split, wanted: np.ndarray | None = None) -> tf.data.Dataset:
    """Return some pictures of a split, decoded on all cores while they are read, in the order of its files.

    Args:
      split: whose pictures.
      wanted: places in the split's order, int64, ascending; None means all of them.

    Returns:
      A dataset of (uint8 pixels `[height, width, 3]`, place in the split's order, int64).
    """
    in_files = np.full(split.in_files.total, -1)
    chosen_places = np.arange(split.contents.total) if wanted is None else wanted
    in_files[split.places[chosen_places]] = chosen_places
    lengths = split.in_files.record_bytes
    spec = {features.IMAGE: tf.io.FixedLenFeature([], tf.string)}

    def decode(record: tf.Tensor, place: tf.Tensor, length: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # A picture with another one's label would go unnoticed.
        same = tf.debugging.assert_equal(tf.strings.length(record, "BYTE"), tf.cast(length, tf.int32), _OTHER_RECORDS)
        with tf.control_dependencies([same]):
            encoded = tf.io.parse_single_example(record, spec)[features.IMAGE]
        return preprocessing.decode_and_resize(encoded, split.height, split.width), place

    # Where records are missing empty ones are read, which are none of those that are told of.
    missing = tf.data.Dataset.from_tensors("").repeat()
    records = tf.data.TFRecordDataset(list(split.files), compression_type="GZIP").concatenate(missing)
    known = tf.data.Dataset.from_tensor_slices((in_files, lengths))
    numbered = tf.data.Dataset.zip(records, known).map(lambda record, rest: (record, *rest))
    chosen = numbered.filter(lambda record, place, length: place >= 0)
    return chosen.map(decode, num_parallel_calls=tf.data.AUTOTUNE)


def training_batches(
    split: Split, batch_size: int, seed: int, augment: dict[str, Any] | None, epoch: int = 0, step: int = 0
) -> tf.data.Dataset:
    """Return batches without end, epoch after epoch, shuffled and augmented afresh in each.

    An epoch's batches follow from its number, the seed and the pictures alone, however many files those are in, so that
    training can go on from any of them. Pictures of no more than 2 GiB are decoded once and stay in memory.

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
    total = split.contents.total
    window = max(batch_size, min(_SHUFFLE_BYTES // _picture_bytes(split), _SHUFFLED_AT_MOST))
    decoded = pictures(split)
    if fits_in_memory(split):
        decoded = decoded.cache()
    augmenter = None if augment is None else augmentation.Augmenter(augment)
    of_all = numbers(split.contents.ids)

    def shuffled(number: tf.Tensor) -> tf.data.Dataset:
        own = epoch_seed(seed, number)
        order = tf.random.stateless_uniform([], own, maxval=tf.int64.max, dtype=tf.int64)
        # The last batch is filled up, as a batch of one or two would have no statistics to speak of, as several devices all
        # need a part of it, and as XLA compiles each size anew.
        filled = decoded.shuffle(window, seed=order, reshuffle_each_iteration=False).repeat()
        batches = filled.take(-(-total // batch_size) * batch_size).batch(batch_size)
        return batches.map(lambda images, places: (images, places, own), num_parallel_calls=1)

    def finish(images: tf.Tensor, places: tf.Tensor, own: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        labels = _labels(split, places)
        if augmenter is None:
            return tf.cast(images, tf.float32), labels
        draws = tf.gather(of_all, places)
        images = augmenter(images, draws, own)
        # Its order is random, so any other picture of the batch is a random partner.
        images, shares = augmenter.mix(images, tf.roll(images, 1, 0), draws, own)
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

    def plain(images: tf.Tensor, places: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images = tf.cast(images, tf.float32) if augmenter is None else augmenter(images, tf.gather(of_all, places), own)
        return images, tf.ones_like(places, tf.float32)

    if augmenter is None or partners is None:
        finished = pictures(split, wanted).batch(batch_size).map(plain, num_parallel_calls=tf.data.AUTOTUNE)
    else:
        mixer, pixels = augmenter, np.stack([image for image, _ in autotuning.off(pictures(split)).as_numpy_iterator()])

        def mixed(rows: tf.Tensor, others: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            first, second = (mixer(tf.gather(pixels, one), tf.gather(of_all, one), own) for one in (rows, others))
            return mixer.mix(first, second, tf.gather(of_all, rows), own)

        pairs = tf.data.Dataset.from_tensor_slices((wanted, partners)).batch(batch_size)
        finished = pairs.map(mixed, num_parallel_calls=tf.data.AUTOTUNE)
    return autotuning.off(finished.prefetch(tf.data.AUTOTUNE))


def evaluation_batches(split: Split, batch_size: int) -> tf.data.Dataset:
    """Return plain batches in file order: (float32 images in 0 to 255, one-hot labels)."""

    def finish(images: tf.Tensor, places: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.cast(images, tf.float32), _labels(split, places)

    batches = pictures(split).batch(batch_size).map(finish, num_parallel_calls=tf.data.AUTOTUNE)
    return autotuning.off(batches.prefetch(tf.data.AUTOTUNE))


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


def _labels(split: Split, places: tf.Tensor) -> tf.Tensor:
    """The one-hot labels of some pictures, float32 `[batch, num_classes]`."""
    return tf.one_hot(tf.gather(split.contents.label_ids, places), split.contents.num_classes)


def _picture_bytes(split: Split) -> int:
    return split.height * split.width * 3
