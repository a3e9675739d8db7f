from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from configs import schema
from modules import dataset, features

AUGMENTATION = schema.Augmentation().model_dump(mode="json")
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
    assert split.scan().counts == (3, 2, 0, 1)
    assert split.scan().total == len(LABELS)


def test_the_digest_tells_contents_apart(split: dataset.TransformedSplit, tmp_path: Path) -> None:
    pictures = [np.full((4, 5, 3), number, np.uint8) for number in range(len(LABELS))]
    same = write_split(tmp_path / "same.gz", pictures, LABELS, num_classes=4)
    other = write_split(tmp_path / "other.gz", pictures, [1, *LABELS[1:]], num_classes=4)
    assert split.scan().digest == same.scan().digest != other.scan().digest


def test_evaluation_keeps_every_picture_once_in_order(split: dataset.TransformedSplit) -> None:
    batches = list(dataset.evaluation_batches(split, 4).as_numpy_iterator())
    assert [images.shape for images, _ in batches] == [(4, 4, 5, 3), (2, 4, 5, 3)]
    assert numbers(dataset.evaluation_batches(split, 4)) == [0, 1, 2, 3, 4, 5]
    assert np.concatenate([labels for _, labels in batches]).argmax(-1).tolist() == LABELS


def test_no_iterator_waits_for_a_thread_that_tunes_it(split: dataset.TransformedSplit) -> None:
    for batches in (dataset.training_batches(split, 4, 1, None), dataset.evaluation_batches(split, 4)):
        assert batches.options().autotune.enabled is False


def test_training_sees_every_picture_once_an_epoch_in_a_fresh_order(split: dataset.TransformedSplit) -> None:
    epochs = [numbers(dataset.training_batches(split, 4, 1, None, epoch).take(2)) for epoch in range(5)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4, 5] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert numbers(dataset.training_batches(split, 4, 1, None).take(10)) == [number for epoch in epochs for number in epoch]


def batches_of(batches: tf.data.Dataset, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(batches.take(count).as_numpy_iterator())


@pytest.mark.parametrize("mix", ["none", "mixup", "cutmix"])
def test_training_goes_on_from_any_step_with_the_very_same_batches(tmp_path: Path, mix: str) -> None:
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (16, 16, 3), dtype=np.uint8) for _ in range(7)]
    split = write_split(tmp_path / "seven.gz", pictures, [0, 1, 0, 1, 0, 1, 1], num_classes=2)
    augment = AUGMENTATION | {"rand_augment": 0.3, "random_erasing": 0.5, "mix": mix}
    whole = batches_of(dataset.training_batches(split, 3, 1, augment), 9)
    for step in (1, 2, 3, 7):
        going_on = dataset.training_batches(split, 3, 1, augment, step // 3, step % 3, pictures=7)
        rest = batches_of(going_on, 9 - step)
        for (images, labels), (expected_images, expected_labels) in zip(rest, whole[step:], strict=True):
            np.testing.assert_array_equal(images, expected_images)
            np.testing.assert_array_equal(labels, expected_labels)


def test_each_epoch_is_augmented_afresh_and_another_seed_otherwise(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    split = write_split(tmp_path / "one.gz", [picture], [0], num_classes=2)
    first, second = (images for images, _ in batches_of(dataset.training_batches(split, 1, 1, AUGMENTATION), 2))
    ((other, _),) = batches_of(dataset.training_batches(split, 1, 2, AUGMENTATION), 1)
    assert np.abs(first - second).max() > 1
    assert np.abs(first - other).max() > 1


def test_balanced_weights_give_every_class_the_same_total() -> None:
    counts = [3, 2, 0, 1]
    weights = dataset.balanced_class_weights(counts)
    assert [weights[label] * count for label, count in enumerate(counts)] == pytest.approx([2, 2, 0, 2])
