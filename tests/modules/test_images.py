import io
import re

import hypothesis
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from modules import images
from tests import corpus
from tests.conftest import encode, random_picture


def decoded(encoded: bytes) -> np.ndarray:
    """What the served graph sees."""
    return tf.io.decode_image(encoded, channels=3, expand_animations=False).numpy()


@pytest.mark.parametrize("kind", corpus.VALID)
def test_a_valid_file_is_seen_right_and_rewritten_only_if_it_has_to_be(kind: str) -> None:
    make, name, fate, tolerance = corpus.VALID[kind]
    found = make(0)
    picture = images.prepare(found)
    assert (picture.format, picture.bytes) == (name, len(found))
    assert (picture.height, picture.width) == (corpus.HEIGHT, corpus.WIDTH)
    assert (picture.encoded == found) == (fate == corpus.UNTOUCHED)
    seen = decoded(picture.encoded)
    assert seen.shape == (picture.height, picture.width, 3)
    if tolerance is not None:
        difference = np.abs(seen.astype(int) - corpus.scene())
        assert difference.max() <= tolerance


@pytest.mark.parametrize("kind", corpus.VALID)
def test_a_picture_that_was_prepared_once_passes_untouched(kind: str) -> None:
    once = images.prepare(corpus.VALID[kind][0](0))
    again = images.prepare(once.encoded)
    assert again.encoded == once.encoded
    assert again.content_hash == once.content_hash


@pytest.mark.parametrize("kind", corpus.BAD)
def test_a_bad_file_is_refused_with_its_reason(kind: str) -> None:
    content, code = corpus.BAD[kind]
    with pytest.raises(images.BadImageError) as error:
        images.prepare(content)
    assert error.value.code == code
    assert str(error.value)
    assert "\n" not in str(error.value)
    assert "object at" not in str(error.value)


@pytest.mark.parametrize("kind", [*corpus.VALID, *corpus.BAD])
def test_what_is_sent_to_a_server_is_what_training_would_take(kind: str) -> None:
    content = corpus.VALID[kind][0](0) if kind in corpus.VALID else corpus.BAD[kind][0]
    assert_same_fate(content)


@hypothesis.given(st.sampled_from(["JPEG", "PNG"]), st.integers(0, 2**31), st.sampled_from(["changed", "cut", "longer"]))
def test_what_is_sent_to_a_server_is_what_training_would_take_of_damaged_files_too(kind: str, seed: int, how: str) -> None:
    random, content = np.random.default_rng(seed), bytearray(random_picture(seed % 5, kind=kind))
    place = int(random.integers(1, len(content)))
    if how == "changed":
        content[place] = random.integers(256)
    elif how == "cut":
        del content[place:]
    else:
        content += random.bytes(20)
    assert_same_fate(bytes(content))


@pytest.mark.parametrize("stray", [b"\xff\xdc\x7f\xff", b"\xff\xfe\x7f\xff", b"\xff\xff\xe4\x7f\xff"])
def test_a_segment_among_a_jpeg_s_pixels_is_left_to_training_s_own_word(stray: bytes) -> None:
    # Pillow passes over it, and TensorFlow takes what follows for its content.
    content = bytearray(random_picture(1, kind="JPEG"))
    content[-20:-20] = stray
    assert images.prepare(bytes(content)).encoded != content
    assert_same_fate(bytes(content))


def assert_same_fate(content: bytes) -> None:
    try:
        expected = images.prepare(content).encoded
    except images.BadImageError as error:
        with pytest.raises(images.BadImageError, match=re.escape(str(error))):
            images.servable(content)
    else:
        assert images.servable(content) == expected


def test_the_corpus_is_large_enough() -> None:
    assert len(corpus.VALID) >= 12
    assert len(corpus.BAD) >= 25


def test_transparent_pixels_show_the_background() -> None:
    alpha = corpus.VALID["PNG with alpha"][0](0)
    for background in [(255, 255, 255), (0, 128, 255)]:
        seen = decoded(images.prepare(alpha, background).encoded)
        assert (seen[: corpus.HEIGHT // 2] == background).all()
        np.testing.assert_array_equal(seen[corpus.HEIGHT // 2 :], corpus.scene()[corpus.HEIGHT // 2 :])


def test_half_transparent_16_bit_pixels_are_mixed_with_the_background() -> None:
    pixels = np.full((corpus.HEIGHT, corpus.WIDTH, 4), [65535, 0, 0, 32768], np.uint16)
    found = corpus.png(16, 6, pixels.astype(">u2").reshape(corpus.HEIGHT, -1))
    np.testing.assert_array_equal(np.unique(decoded(images.prepare(found).encoded)), [127, 255])


def test_16_bit_pixels_are_rounded_not_cut_and_not_clipped() -> None:
    values = np.linspace(0, 65535, corpus.WIDTH).astype(np.uint16)
    grey = PIL.Image.fromarray(np.tile(values, (corpus.HEIGHT, 1)))
    for kind in ("PNG", "TIFF"):
        seen = decoded(images.prepare(corpus.save(grey, kind)).encoded)
        np.testing.assert_array_equal(seen[0, :, 0], np.round(values / 257))


def test_equal_pixels_have_equal_hashes_however_encoded() -> None:
    kinds = ["PNG", "BMP", "TIFF", "WebP", "PNG with opaque alpha", "TIFF lying on its side", "animated PNG"]
    hashes = {images.prepare(corpus.VALID[kind][0](0)).content_hash for kind in kinds}
    assert len(hashes) == 1
    assert images.prepare(corpus.VALID["PNG"][0](1)).content_hash not in hashes


def test_the_same_bytes_in_another_shape_are_another_picture() -> None:
    wide, high = np.zeros((4, 8, 3), np.uint8), np.zeros((8, 4, 3), np.uint8)
    assert images.prepare(encode(wide)).content_hash != images.prepare(encode(high)).content_hash


def test_the_limit_of_pixels_holds_before_decoding() -> None:
    found = random_picture(1, 20, 30)
    assert images.prepare(found, max_pixels=600).height == 20
    with pytest.raises(images.BadImageError, match=r"30 x 20 is more than 0\.000599 megapixels"):
        images.prepare(found, max_pixels=599)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("LA", 2), ("RGB", 3), ("P", 3), ("RGBA", 4)])
def test_channels_are_those_of_the_file_as_found(mode: str, channels: int) -> None:
    buffer = io.BytesIO()
    corpus.picture(mode=mode).save(buffer, "PNG")
    assert images.prepare(buffer.getvalue()).channels == channels


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_transparent_value_is_transparent_in_every_bit_depth(depth: int) -> None:
    found = corpus.grey_png_with_a_transparent_value(depth)
    seen = decoded(images.prepare(found, background=(9, 99, 199)).encoded)
    assert (seen[:, : corpus.WIDTH // 2] == (9, 99, 199)).all()
    top = 2**depth - 1
    assert (seen[:, corpus.WIDTH // 2 :] == round(top // 3 * 255 / top)).all()


def test_an_error_says_what_to_do() -> None:
    for kind, said in {
        "HEIC": "is HEIC, whatever its name says, which is not supported: convert it to JPEG",
        "AVIF": "is AVIF, whatever its name says, which is not supported: save it as JPEG or PNG",
        "web page instead of a picture": "not a picture but a web page; expected BMP, GIF, JPEG",
        "PNG that is transparent all over": "save it without its alpha channel",
        "PNG of white strokes on transparency": "image.background = [255, 255, 255]",
    }.items():
        with pytest.raises(images.BadImageError, match=re.escape(said)):
            images.prepare(corpus.BAD[kind][0])


def test_white_strokes_are_seen_on_another_background() -> None:
    seen = decoded(images.prepare(corpus.BAD["PNG of white strokes on transparency"][0], (0, 0, 0)).encoded)
    np.testing.assert_array_equal(np.unique(seen), [0, 200])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "XMP"])
def test_every_orientation_is_turned_upright(orientation: int, kind: str) -> None:
    stored = np.full((16, 32, 3), 255, np.uint8)
    stored[:8, :16], stored[:8, 16:] = 0, 100
    if kind == "XMP":
        plain = corpus.save(PIL.Image.fromarray(stored), "JPEG", quality=100)
        xmp = f'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="{orientation}"/>'.encode()
        found = plain[:2] + b"\xff\xe1" + (len(xmp) + 2).to_bytes(2) + xmp + plain[2:]
    else:
        options = {"quality": 100} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
        found = corpus.save(PIL.Image.fromarray(stored), kind, exif=corpus.with_orientation(orientation), **options)
    upright = np.asarray(PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(found))).convert("RGB")).astype(int)
    assert len(np.unique(upright[::8, ::8, 0])) == 3
    assert np.abs(decoded(images.prepare(found).encoded) - upright).max() <= 3
