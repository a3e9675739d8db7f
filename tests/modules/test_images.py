import bz2
import gc
import gzip
import io
import lzma
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable

import hypothesis
import imagecodecs
import numpy as np
import PIL.Image
import PIL.ImageOps
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from modules import headers, images
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


def bmp(bits: int, compression: int, data: bytes, width: int, height: int, between: bytes = b"") -> bytes:
    """A BMP by hand, for what Pillow does not write; `between` lies before the data: masks or a palette."""
    offset = 54 + len(between)
    sizes = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(data), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + sizes + between + data


PALETTE = b"".join(bytes([index * 16, index, 255 - index, 0]) for index in range(16))


@pytest.mark.parametrize(
    "encoded",
    [
        bmp(4, 2, bytes.fromhex("0007123456700180000008330001"), 8, 2, PALETTE),
        bmp(8, 1, bytes.fromhex("0003010203000501000000010000"), 8, 1, PALETTE * 16 + b"?"),
        bmp(32, 3, bytes(16), 2, 2, struct.pack("<III", 0xFF, 0xFF00, 0xFF0000)),
        bmp(32, 3, bytes(16), 2, 2, struct.pack("<III", 0x3FF00000, 0xFFC00, 0x3FF)),
        bmp(16, 3, bytes(8), 2, 2, struct.pack("<III", 0xF00, 0xF0, 0xF)),
        bmp(2, 0, bytes(8), 2, 2, PALETTE[:16]),
        bmp(0, 4, random_picture(1, kind="JPEG"), 32, 32),
        bmp(0, 5, random_picture(1), 32, 32),
    ],
    ids=["RLE4", "RLE8 from an odd byte on", "RGBX", "10 bit", "4 bit a colour", "2 bit", "JPEG", "PNG"],
)
def test_a_whole_bmp_that_is_not_known_to_be_decoded_right_is_refused_by_name(encoded: bytes) -> None:
    with pytest.raises(images.BadImageError, match=r"this BMP.*; save it as PNG") as error:
        images.prepare(encoded)
    assert error.value.code == images.UNSUPPORTED_MODE


def test_a_packed_bmp_of_8_bit_is_seen_right() -> None:
    found = bmp(8, 1, bytes.fromhex("000301020300050400000001"), 8, 1, PALETTE * 16)
    expected = [[255 - index, index, index * 16] for index in (1, 2, 3, 4, 4, 4, 4, 4)]
    np.testing.assert_array_equal(decoded(images.prepare(found).encoded)[0], expected)


@pytest.mark.parametrize("options", [{"lossless": True}, {"lossless": True, "predictor": 7}], ids=str)
def test_a_lossless_jpeg_is_not_sent_as_it_is_since_tensorflow_has_no_decoder_for_it(options: dict) -> None:
    found = imagecodecs.jpeg8_encode(corpus.scene(), **options)
    with pytest.raises(tf.errors.InvalidArgumentError):
        decoded(found)
    np.testing.assert_array_equal(decoded(images.servable(found)), corpus.scene())
    assert_same_fate(found)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"P1 of the study is about cats", None),
        (b"P6\tsee the appendix", None),
        (b"P7 and P8", None),
        (b"DDS stands for what?", None),
        (b"8BPS is a signature", None),
        (b"IIRO and MMOR", None),
        (b"MMOR, or the study of mice", None),
        (b"P6\n# by GIMP\n12 7\n255\n", "portable pixmap"),
        (b"P4 12 7 ", "portable pixmap"),
        (b"P7\nWIDTH 12\nHEIGHT 7\n", "portable pixmap"),
        (b"8BPS\0\1\0\0", "Photoshop"),
        (b"8BPS\0\2\0\0", "Photoshop"),
        (b"DDS |\0\0\0\7", "DirectDraw"),
        (b"IIRO\x08\0\0\0", "camera raw"),
    ],
)
def test_text_that_begins_like_a_picture_is_none(head: bytes, name: str | None) -> None:
    assert headers.format_of(head) == name
    assert headers.is_no_picture("notes", head) == (name is None)


@pytest.mark.parametrize(
    ("made", "is_container"),
    [
        (lambda opened: zipfile.ZipFile(opened, "w").writestr("1.png", "x"), True),
        (lambda opened: zipfile.ZipFile(opened, "w").writestr("[Content_Types].xml", "x"), False),
        (lambda opened: zipfile.ZipFile(opened, "w").writestr("mimetype", "application/epub+zip"), False),
        (lambda opened: tarfile.TarFile(fileobj=opened, mode="w").addfile(tarfile.TarInfo("1.png")), True),
        (lambda opened: opened.write(gzip.compress(b"x")), True),
        (lambda opened: opened.write(bz2.compress(b"x")), True),
        (lambda opened: opened.write(lzma.compress(b"x")), True),
        (lambda opened: np.savez(opened, np.zeros(3)), True),
        (lambda opened: opened.write(imagecodecs.zstd_encode(b"x")), True),
        (lambda opened: opened.write(imagecodecs.lz4f_encode(b"x")), True),
        (lambda opened: pq.write_table(pa.table({"a": [1]}), opened), True),
        (lambda opened: opened.write(b"\x89HDF\r\n\x1a\n"), True),
        (lambda opened: opened.write(b"7z\xbc\xaf\x27\x1c"), True),
        (lambda opened: opened.write(b"Rar!\x1a\x07\x01\0"), True),
        (lambda opened: opened.write(b"PK are initials"), False),
        (lambda opened: opened.write(b"path,label"), False),
    ],
)
def test_a_container_is_known_by_its_content(made: Callable[[io.BytesIO], object], is_container: bool) -> None:
    buffer = io.BytesIO()
    made(buffer)
    gc.collect()  # which closes what writes its end then
    assert headers.is_container(buffer.getvalue()[: headers.SNIFFED_BYTES]) == is_container
