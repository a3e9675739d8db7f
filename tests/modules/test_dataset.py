from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from modules import dataset, features

NO_AUGMENTATION = {"enabled": False}
AUGMENTATION = {
    "enabled": True,
    "rotation": 20.0,
    "width_shift": 0.2,
    "height_shift": 0.2,
    "zoom": [0.8, 1.2],
    "horizontal_flip": True,
}
LABELS = [0, 0, 0, 1, 1, 3]


def write_split(
    path: Path, pictures: Sequence[np.ndarray], labels: Sequence[int], num_classes: int
) -> dataset.TransformedSplit:
    """Write uint8 pictures of one size as Transform does."""
    with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
        for pixels, label in zip(pictures, labels, strict=True):
            feature = {
                features.PIXELS: features.bytes_feature(tf.io.serialize_tensor(pixels).numpy()),
                features.LABEL_ID: features.int_feature(label),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    height, width, _ = pictures[0].shape
    return dataset.TransformedSplit((str(path),), height, width, num_classes)


@pytest.fixture
def split(tmp_path: Path) -> dataset.TransformedSplit:
    """Six pictures of 4 x 5 pixels, each filled with its own number."""
    pictures = [np.full((4, 5, 3), number, np.uint8) for number in range(len(LABELS))]
    return write_split(tmp_path / "transformed.gz", pictures, LABELS, num_classes=4)


def numbers(batches: tf.data.Dataset) -> list[int]:
    return [int(image[0, 0, 0]) for images, _ in batches.as_numpy_iterator() for image in images]


def test_labels_are_counted(split: dataset.TransformedSplit) -> None:
    assert split.label_counts() == [3, 2, 0, 1]


def test_evaluation_keeps_every_picture_once_in_order(split: dataset.TransformedSplit) -> None:
    batches = list(dataset.evaluation_batches(split, 4).as_numpy_iterator())
    assert [images.shape for images, _ in batches] == [(4, 4, 5, 3), (2, 4, 5, 3)]
    assert numbers(dataset.evaluation_batches(split, 4)) == [0, 1, 2, 3, 4, 5]
    assert np.concatenate([labels for _, labels in batches]).argmax(-1).tolist() == LABELS


def test_training_sees_every_picture_once_an_epoch_in_a_fresh_order(split: dataset.TransformedSplit) -> None:
    batches = dataset.training_batches(split, 4, 1, NO_AUGMENTATION)
    epochs = [numbers(batches) for _ in range(5)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4, 5] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_equal_seeds_give_equal_epochs_and_each_epoch_is_augmented_afresh(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    split = write_split(tmp_path / "one.gz", [picture], [0], num_classes=2)

    def two_epochs(seed: int) -> np.ndarray:
        batches = dataset.training_batches(split, 1, seed, AUGMENTATION)
        return np.concatenate([images for _ in range(2) for images, _ in batches.as_numpy_iterator()])

    first, again, other = two_epochs(1), two_epochs(1), two_epochs(2)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first[0] - first[1]).max() > 1
    assert np.abs(first - other).max() > 1


def test_balanced_weights_give_every_class_the_same_total() -> None:
    counts = [3, 2, 0, 1]
    weights = dataset.balanced_class_weights(counts)
    assert [weights[label] * count for label, count in enumerate(counts)] == pytest.approx([2, 2, 0, 2])
