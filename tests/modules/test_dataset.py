import hashlib
import os
import resource
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from configs import schema
from modules import contents, dataset, features
from tests.conftest import encode

AUGMENTATION = schema.Augmentation().model_dump(mode="json")
LABELS = [0, 0, 0, 1, 1, 3]


def write_split(
    path: Path, pictures: Sequence[np.ndarray], labels: Sequence[int], num_classes: int, parts: int = 1
) -> dataset.Split:
    """Write uint8 pictures of one size as ImageExampleGen does, and read what they are."""
    encoded = [encode(pixels) for pixels in pictures]
    files = []
    for part in np.array_split(np.arange(len(pictures)), parts):
        file = path.parent / "Split-train" / f"{path.name}-{len(files):05d}"
        file.parent.mkdir(parents=True, exist_ok=True)
        records = [example(encoded[place]) for place in part]
        with tf.io.TFRecordWriter(str(file), "GZIP") as writer:
            for record in records:
                writer.write(record)
        ids = [contents.id_of(encoded[place]) for place in part]
        rows = (
            contents.Row(own_id, str(labels[place]), len(record), f"{place}.png", own_id)
            for own_id, place, record in zip(ids, part, records, strict=True)
        )
        Path(contents.beside(str(file))).parent.mkdir(parents=True, exist_ok=True)
        contents.write(contents.beside(str(file)), rows)
        files.append(str(file))
    height, width, _ = pictures[0].shape
    return dataset.read(files, height, width, [str(label) for label in range(num_classes)])


def example(encoded: bytes) -> bytes:
    feature = {features.IMAGE: features.bytes_feature(encoded)}
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


@pytest.fixture
def split(tmp_path: Path) -> dataset.Split:
    """Six pictures of 4 x 5 pixels, each filled with its own number."""
    pictures = [np.full((4, 5, 3), number, np.uint8) for number in range(len(LABELS))]
    return write_split(tmp_path / "six", pictures, LABELS, num_classes=4)


def numbers(batches: tf.data.Dataset) -> list[int]:
    return [int(image[0, 0, 0]) for images, _ in batches.as_numpy_iterator() for image in images]


def test_labels_are_counted(split: dataset.Split) -> None:
    assert split.contents.counts == (3, 2, 0, 1)
    assert split.contents.total == len(LABELS)


def test_the_digest_tells_contents_apart_whatever_their_order(split: dataset.Split, tmp_path: Path) -> None:
    pictures = [np.full((4, 5, 3), number, np.uint8) for number in range(len(LABELS))]
    same = write_split(tmp_path / "same.gz", pictures[::-1], LABELS[::-1], num_classes=4)
    other = write_split(tmp_path / "other.gz", pictures, [1, *LABELS[1:]], num_classes=4)
    assert split.contents.digest == same.contents.digest != other.contents.digest


def test_ids_follow_from_the_pixels_alone_and_copies_have_their_own(tmp_path: Path) -> None:
    one, two = (np.full((4, 5, 3), number, np.uint8) for number in (1, 2))
    found = write_split(tmp_path / "found.gz", [one, two, one, one], [0, 0, 1, 1], num_classes=2).contents.ids.tolist()
    assert len(set(found)) == 4
    other = write_split(tmp_path / "other.gz", [two, one, one], [1, 1, 0], num_classes=2).contents.ids.tolist()
    assert other == [found[1], found[0], found[2]]


def test_numbers_to_draw_from_differ_from_picture_to_picture() -> None:
    ids = np.array([hashlib.sha256(bytes([i])).hexdigest()[:32].encode() for i in range(200)], "S32")
    found = dataset.numbers(ids)
    assert found.dtype == np.int64
    assert len(set(found.tolist())) == 200
    assert found.min() >= 0
    assert found[0] == int(ids[0][:16], 16) >> 1


def test_evaluation_keeps_every_picture_once_in_order(split: dataset.Split) -> None:
    batches = list(dataset.evaluation_batches(split, 4).as_numpy_iterator())
    assert [images.shape for images, _ in batches] == [(4, 4, 5, 3), (2, 4, 5, 3)]
    assert numbers(dataset.evaluation_batches(split, 4)) == [0, 1, 2, 3, 4, 5]
    assert np.concatenate([labels for _, labels in batches]).argmax(-1).tolist() == LABELS


def test_records_that_are_others_than_what_stands_beside_them_end_training(split: dataset.Split) -> None:
    other = [np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)] * 6
    write_split(Path(split.files[0]).parents[1] / "other", other, LABELS, num_classes=4)
    os.replace(next(Path(split.files[0]).parent.glob("other-*")), split.files[0])
    with pytest.raises(tf.errors.InvalidArgumentError, match="not those that its contents tell of; ingest anew"):
        list(dataset.evaluation_batches(split, 4))
    with tf.io.TFRecordWriter(split.files[0], "GZIP"):
        pass
    with pytest.raises(tf.errors.InvalidArgumentError, match="not those that its contents tell of; ingest anew"):
        list(dataset.view_batches(split, np.array([5]), 4))


MILLION, A_FILE = 1_000_000, 10_000


def test_a_million_pictures_are_known_at_start_and_few_of_them_read(tmp_path: Path) -> None:
    # Of a hundred files the first alone is there: whoever read on would find nothing.
    folder = tmp_path / "Split-train"
    folder.mkdir()
    record = example(encode(np.zeros((64, 64, 3), np.uint8)))
    with tf.io.TFRecordWriter(str(folder / "00000"), "GZIP") as writer:
        for _ in range(A_FILE):
            writer.write(record)
    files = [str(folder / f"{number:05d}") for number in range(MILLION // A_FILE)]
    labels = ["cat", "dog"] * (A_FILE // 2)
    for number, file in enumerate(files):
        ids = [f"{number:08x}{place:024x}" for place in range(A_FILE)]
        Path(contents.beside(file)).parent.mkdir(parents=True, exist_ok=True)
        rows = (contents.Row(one, label, len(record), one, one) for one, label in zip(ids, labels, strict=True))
        contents.write(contents.beside(file), rows)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    split = dataset.read(files, 64, 64, ["cat", "dog"])
    assert split.contents.counts == (MILLION // 2, MILLION // 2)
    assert len(split.contents.digest) == 64
    of_training = next(iter(dataset.training_batches(split, 32, 1, AUGMENTATION)))
    of_view = next(iter(dataset.view_batches(split, np.arange(MILLION), 32, 1, AUGMENTATION, 3)))
    assert of_training[0].shape == of_view[0].shape == (32, 64, 64, 3)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 1000, "megabytes: names of a million pictures, and no pictures but the few that are shuffled"


def test_no_iterator_waits_for_a_thread_that_tunes_it(split: dataset.Split) -> None:
    for batches in (dataset.training_batches(split, 4, 1, None), dataset.evaluation_batches(split, 4)):
        assert batches.options().autotune.enabled is False


def test_training_sees_every_picture_once_an_epoch_in_a_fresh_order(split: dataset.Split) -> None:
    epochs = [numbers(dataset.training_batches(split, 4, 1, None, epoch).take(2)) for epoch in range(5)]
    assert all(sorted(epoch[:6]) == [0, 1, 2, 3, 4, 5] for epoch in epochs)
    assert all(epoch[6:] == epoch[:2] for epoch in epochs), "the last batch is filled up"
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert numbers(dataset.training_batches(split, 4, 1, None).take(10)) == [number for epoch in epochs for number in epoch]


def batches_of(batches: tf.data.Dataset, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(batches.take(count).as_numpy_iterator())


@pytest.mark.parametrize("mix", ["none", "mixup", "cutmix"])
def test_training_goes_on_from_any_step_with_the_very_same_batches(
    tmp_path: Path, mix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (16, 16, 3), dtype=np.uint8) for _ in range(7)]
    split = write_split(tmp_path / "seven.gz", pictures, [0, 1, 0, 1, 0, 1, 1], num_classes=2)
    augment = AUGMENTATION | {"rand_augment": 0.3, "random_erasing": 0.5, "mix": mix}
    monkeypatch.setattr(dataset, "_MEMORY_BYTES", 0)
    undisturbed = batches_of(dataset.training_batches(split, 3, 1, augment), 9)
    monkeypatch.undo()
    for step in (1, 7):
        going_on = dataset.training_batches(split, 3, 1, augment, step // 3, step % 3)
        rest = batches_of(going_on, 9 - step)
        for (images, labels), (expected_images, expected_labels) in zip(rest, undisturbed[step:], strict=True):
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


@pytest.mark.parametrize("options", [{}, {"rand_augment": 0.3, "random_erasing": 0.5}])
def test_a_view_has_the_very_pictures_of_the_epoch_on_the_fly(tmp_path: Path, options: dict) -> None:
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (16, 16, 3), dtype=np.uint8) for _ in range(6)]
    split = write_split(tmp_path / "six.gz", pictures, [0, 1, 0, 1, 0, 1], num_classes=2)
    augment = AUGMENTATION | options
    seen = np.concatenate([images for images, _ in batches_of(dataset.training_batches(split, 3, 1, augment, 2), 2)])
    wanted = np.array([0, 1, 2, 4, 5])
    view = [image for images, _ in dataset.view_batches(split, wanted, 2, 1, augment, 2) for image in images.numpy()]
    assert len(view) == 5
    # XLA rounds otherwise in batches of another size.
    nearest = [np.abs(seen - image).max((1, 2, 3)) for image in view]
    assert max(distances.min() for distances in nearest) < 0.01
    assert len({distances.argmin() for distances in nearest}) == 5
    # Whatever else is there.
    (alone,) = next(iter(dataset.view_batches(split, wanted[3:4], 2, 1, augment, 2)))[0].numpy()
    np.testing.assert_allclose(alone, view[3], atol=0.01)


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_a_view_mixes_each_picture_with_its_partner(tmp_path: Path, mix: str) -> None:
    still = {"rotation": 0.0, "width_shift": 0.0, "height_shift": 0.0, "zoom": [1.0, 1.0], "horizontal_flip": False}
    pictures = [np.full((16, 16, 3), 100 * number, np.uint8) for number in range(3)]
    split = write_split(tmp_path / "three.gz", pictures, [0, 1, 1], num_classes=2)
    augment = AUGMENTATION | still | {"mix": mix, "mixup_alpha": 1.0}
    batches = dataset.view_batches(split, np.array([0, 2]), 2, 1, augment, 0, np.array([1, 0]))
    ((images, shares),) = batches.as_numpy_iterator()
    assert ((shares > 0) & (shares < 1)).all()
    expected = shares * [0, 200] + (1 - shares) * [100, 0]
    np.testing.assert_allclose(images.mean((1, 2, 3)), expected, atol=0.5 if mix == "mixup" else 15)
