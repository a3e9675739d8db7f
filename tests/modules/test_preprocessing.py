import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from modules import preprocessing


def a_photograph(height: int, width: int) -> Image.Image:
    """Return a smooth picture with some detail."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def encoded(picture: Image.Image, form: str) -> bytes:
    opened = io.BytesIO()
    picture.save(opened, form, quality=95) if form == "JPEG" else picture.save(opened, form)
    return opened.getvalue()


def decoded(data: bytes, height: int, width: int) -> np.ndarray:
    return preprocessing.decode_and_resize(tf.constant(data), height, width).numpy()


# From 480 x 640: no scale of libjpeg's, a half, a quarter, an eighth, and one that only the height would allow.
@pytest.mark.parametrize("size", [(300, 300), (224, 224), (100, 100), (48, 48), (60, 600), (960, 1280)])
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_pictures_are_resized_as_pillow_does(form: str, size: tuple[int, int]) -> None:
    picture = a_photograph(480, 640)
    found = decoded(encoded(picture, form), *size)
    expected = np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR))
    assert found.shape == (*size, 3)
    assert found.dtype == np.uint8
    difference = np.abs(found.astype(float) - expected)
    assert difference.mean() < 2.0
    assert np.quantile(difference, 0.99) < 8.0


def test_a_grey_jpeg_becomes_three_equal_channels() -> None:
    found = decoded(encoded(a_photograph(200, 200).convert("L"), "JPEG"), 50, 50)
    np.testing.assert_array_equal(found[..., 0], found[..., 1])
    np.testing.assert_array_equal(found[..., 0], found[..., 2])
