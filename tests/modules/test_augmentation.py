import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import schema
from modules import augmentation

CONFIG = schema.Augmentation(height_shift=0.1).model_dump(mode="json")


def warped(image: np.ndarray, **drawn: float) -> np.ndarray:
    """Warp one image by given parameters."""
    values = {"angle": 0.0, "shift_y": 0.0, "shift_x": 0.0, "zoom_y": 1.0, "zoom_x": 1.0, "flip": 0.0} | drawn
    parameters = augmentation.AffineParameters(**{name: tf.constant([value], tf.float32) for name, value in values.items()})
    coefficients = augmentation.affine_coefficients(parameters, *image.shape[:2])
    return augmentation.interpolate(image[np.newaxis], coefficients).numpy()[0]


def an_image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, (height, width, 3)).astype(np.float32)


@settings(max_examples=40)
@given(
    angle=st.floats(-180, 180),
    shift_y=st.floats(-8, 8),
    shift_x=st.floats(-8, 8),
    zoom_y=st.floats(0.5, 1.5),
    zoom_x=st.floats(0.5, 1.5),
    flip=st.booleans(),
)
def test_the_map_is_image_data_generators(
    angle: float, shift_y: float, shift_x: float, zoom_y: float, zoom_x: float, flip: bool
) -> None:
    # Square images: for others, ImageDataGenerator takes the centre of one axis for that of the other.
    image = tf.image.resize(an_image(8, 8), (32, 32)).numpy()
    reference = tf.keras.preprocessing.image.ImageDataGenerator(fill_mode="nearest", interpolation_order=1)
    expected = reference.apply_transform(
        image, {"theta": angle, "tx": shift_x, "ty": shift_y, "zx": zoom_x, "zy": zoom_y, "flip_horizontal": flip}
    )
    drawn = {"shift_y": shift_y, "shift_x": shift_x, "zoom_y": zoom_y, "zoom_x": zoom_x, "flip": float(flip)}
    found = warped(image, angle=math.radians(angle), **drawn)
    # In grey levels; float32 coordinates against SciPy's float64.
    np.testing.assert_allclose(found, expected, atol=0.05)


@pytest.mark.parametrize("shape", [(9, 14), (14, 9)])
def test_half_a_turn_turns_an_oblong_image_about_its_centre(shape: tuple[int, int]) -> None:
    image = an_image(*shape)
    np.testing.assert_allclose(warped(image, angle=math.pi), image[::-1, ::-1], atol=0.01)


def test_a_shift_fills_with_the_nearest_pixel() -> None:
    image = an_image(9, 14)
    shifted = warped(image, shift_x=3.0)
    np.testing.assert_allclose(shifted[:, :-3], image[:, 3:], atol=1e-3)
    np.testing.assert_allclose(shifted[:, -3:], np.repeat(image[:, -1:], 3, axis=1), atol=1e-3)


def test_draws_fill_their_ranges_and_stay_inside() -> None:
    seeds = tf.stack([tf.ones(20_000, tf.int64), tf.range(20_000, dtype=tf.int64)], axis=1)
    drawn = tf.function(lambda: augmentation.draw(seeds, 50, 100, CONFIG))()
    limit = math.radians(20)
    for values, low, high in (
        (drawn.angle, -limit, limit),
        (drawn.shift_y, -5, 5),
        (drawn.shift_x, -20, 20),
        (drawn.zoom_y, 0.8, 1.2),
        (drawn.zoom_x, 0.8, 1.2),
    ):
        assert low <= values.numpy().min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.numpy().max() <= high
        assert values.numpy().mean() == pytest.approx((low + high) / 2, abs=0.02 * (high - low))
    assert drawn.flip.numpy().mean() == pytest.approx(0.5, abs=0.02)
    assert abs(np.corrcoef([values.numpy() for values in drawn]) - np.eye(6)).max() < 0.05


def test_equal_seeds_give_equal_images_and_others_do_not() -> None:
    images = np.stack([an_image(16, 16)] * 4).astype(np.uint8)
    first, again, other = (
        augmentation.warp(images, tf.constant([[seed, number] for number in range(4)], tf.int64), CONFIG)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1
    assert np.abs(first[0] - first[1]).max() > 1, "each image of a batch has a map of its own"


def test_without_any_range_nothing_changes() -> None:
    still = {"rotation": 0.0, "width_shift": 0.0, "height_shift": 0.0, "zoom": [1.0, 1.0], "horizontal_flip": False}
    images = an_image(16, 20)[np.newaxis]
    np.testing.assert_allclose(augmentation.warp(images, tf.constant([[1, 1]], tf.int64), still), images, atol=1e-3)


PLAIN = CONFIG | {"rotation": 0.0, "width_shift": 0.0, "height_shift": 0.0, "zoom": [1.0, 1.0], "horizontal_flip": False}


def augmented(changes: dict, seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eight pictures, what becomes of them, and of their labels, each of a class of its own."""
    images = np.stack([np.full((16, 16, 3), 20.0 + 20 * i, np.float32) for i in range(8)])
    images[:, :8] += 30
    numbers, own, augmenter = (
        tf.range(8, dtype=tf.int64),
        tf.constant([seed, 7], tf.int64),
        augmentation.Augmenter(PLAIN | changes),
    )
    alone = augmenter(images, numbers, own)
    found, shares = augmenter.mix(alone, tf.roll(alone, 1, 0), numbers, own)
    labels = shares[:, None] * tf.eye(8) + (1 - shares[:, None]) * tf.roll(tf.eye(8), 1, 0)
    return images, found.numpy(), labels.numpy()


@pytest.mark.parametrize("option", [{"rand_augment": 0.5}, {"random_erasing": 1.0}, {"mix": "mixup"}, {"mix": "cutmix"}])
def test_each_option_changes_pictures_in_range_and_equal_seeds_give_equal_ones(option: dict) -> None:
    images, found, labels = augmented(option)
    assert (np.abs(found - images).max(axis=(1, 2, 3)) > 1).any()
    assert found.min() >= 0
    assert found.max() <= 255
    np.testing.assert_array_equal(found, augmented(option)[1])
    assert np.abs(found - augmented(option, seed=2)[1]).max() > 1
    np.testing.assert_allclose(labels.sum(-1), 1.0, atol=1e-5)


def test_erasing_blackens_a_part_of_each_picture() -> None:
    images, found, labels = augmented({"random_erasing": 1.0})
    changed = found != images
    assert (found[changed] == 0).all()
    assert changed.any(axis=(1, 2, 3)).all()
    assert not changed.all(axis=(1, 2, 3)).any()
    np.testing.assert_array_equal(labels, np.eye(8))


def test_mixup_mixes_labels_as_it_mixes_pictures() -> None:
    images, found, labels = augmented({"mix": "mixup", "mixup_alpha": 1.0})
    np.testing.assert_allclose(found, np.einsum("ij,jhwc->ihwc", labels, images), atol=1e-2)


def test_cutmix_labels_are_shares_of_the_area() -> None:
    _, found, labels = augmented({"mix": "cutmix"})
    for picture, label in zip(found, labels, strict=True):
        # The lower half of picture i has the value 20 + 20 i, the upper one 30 more.
        sources = np.round((picture[..., 0] - 20 - 30 * (np.arange(16) < 8)[:, np.newaxis]) / 20).astype(int)
        np.testing.assert_allclose(np.bincount(sources.ravel(), minlength=8) / 256, label, atol=0.13)
