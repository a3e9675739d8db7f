"""Whatever a file holds, `images.prepare` answers with a picture that TensorFlow decodes, or with its own error."""

import io
from collections.abc import Iterator

import numpy as np
import PIL.Image
import pytest

from modules import images
from tests import corpus
from tests.modules.test_images import decoded

MUTATIONS = 20_000


def small(kind: str, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture = PIL.Image.fromarray(corpus.scene()[:8, :10]).convert(mode)
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


FILES = {
    "JPEG": small("JPEG", exif=corpus.with_orientation(6)),
    "CMYK JPEG": small("JPEG", "CMYK"),
    "PNG": small("PNG", exif=corpus.with_orientation(3)),
    "palette PNG": small("PNG", "P", transparency=0),
    "PNG of 16 bit": corpus.colour_png_of_16_bit(),
    "animated PNG": corpus.animation("PNG"),
    "GIF": small("GIF", "P"),
    "animated GIF": small("GIF", "P", save_all=True, append_images=[PIL.Image.new("P", (10, 8), 3)] * 2),
    "WebP": small("WEBP"),
    "animated WebP": small("WEBP", save_all=True, append_images=[PIL.Image.new("RGB", (10, 8))]),
    "BMP": small("BMP"),
    "palette BMP": small("BMP", "P"),
    "TIFF": small("TIFF"),
    "packed TIFF": small("TIFF", compression="tiff_lzw"),
    "TIFF of a JPEG": small("TIFF", compression="jpeg"),
    "bilevel TIFF": small("TIFF", "1", compression="group4"),
    "TIFF of pages": small("TIFF", save_all=True, append_images=[PIL.Image.new("RGB", (10, 8))]),
}


def fate(encoded: bytes) -> str:
    """Of a file: its error's code, or "taken"."""
    try:
        picture = images.prepare(encoded, max_pixels=10_000)
    except images.BadImageError as error:
        return error.code if "\n" not in str(error) else "more than a line"
    assert decoded(picture.encoded).shape == (picture.height, picture.width, 3)
    return "taken"


def mutations(file: bytes, seed: int, count: int) -> Iterator[bytes]:
    """Copies with one to eight bytes changed, most of them near the front, or a stretch taken out or doubled."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        changed = bytearray(file)
        front = len(file) if random.random() < 0.3 else min(len(file), 200)
        for _ in range(random.integers(1, 9)):
            changed[random.integers(front)] = random.choice([0, 1, 0x7F, 0x80, 0xFF, random.integers(256)])
        if random.random() < 0.2:
            start, end = sorted(random.integers(len(file), size=2))
            changed[start:end] = bytes(changed[start:end]) * int(random.choice([0, 2]))
        yield bytes(changed)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_cut_anywhere_raises_its_own_error_or_is_a_picture(kind: str) -> None:
    whole = FILES[kind]
    assert fate(whole) == "taken"
    fates = [fate(whole[:length]) for length in range(len(whole))]
    assert fates[0] == images.EMPTY
    if not kind.startswith("animated") and "pages" not in kind:  # whose first frame may be whole
        assert "taken" not in fates[: len(whole) // 2]
    assert images.FAILED not in fates


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", range(len(FILES)), ids=list(FILES))
def test_a_file_that_is_changed_anyhow_raises_its_own_error_or_is_a_picture(number: int) -> None:
    fates = {fate(one) for one in mutations([*FILES.values()][number], number, MUTATIONS // len(FILES) + 1)}
    assert images.DAMAGED in fates
    assert images.FAILED not in fates


def test_what_nobody_foresaw_is_the_files_own_error_with_its_traceback_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("deep\ninside")

    monkeypatch.setattr(images.decoding, "decode", broken)
    with pytest.raises(images.BadImageError, match="RuntimeError: deep inside; see the log") as error:
        images.prepare(b"x")
    assert error.value.code == images.FAILED
    assert "deep\ninside" in caplog.text
    assert "Traceback" in caplog.text
