"""TIFFs of every structure against a second decoder: right, or refused by name."""

import io
import itertools
import struct

import numpy as np
import PIL.Image
import pytest
import tifffile

from modules import headers, images
from tests import corpus
from tests.modules.test_images import decoded

HEIGHT, WIDTH = 41, 57  # no multiple of a byte's bits, of a strip or of a tile


def samples(bits: int, count: int) -> np.ndarray:
    """Smooth values over the whole range, another course for each sample."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    waves = [(rows * (n + 1) * 3 + columns * (5 - n)) / (HEIGHT * 3 * (n + 1) + WIDTH * (5 - n)) for n in range(count)]
    values = np.round(np.stack(waves, -1) * (2**bits - 1)).astype(np.uint8 if bits <= 8 else np.uint16)
    return values[..., 0] if count == 1 else values


def tiff(values: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, metadata=None, **options)
    return buffer.getvalue()


def shown(encoded: bytes) -> np.ndarray | None:
    """What the served graph sees of a file; None if it is refused by name."""
    try:
        return decoded(images.prepare(encoded).encoded).astype(int)
    except images.BadImageError as error:
        if error.code != headers.UNSUPPORTED_MODE:
            raise
        return None


def expected(encoded: bytes, photometric: str, bits: int, extra: tuple[str, ...]) -> np.ndarray:
    """The samples as tifffile and imagecodecs read them, as 8 bit RGB over white."""
    page = tifffile.TiffFile(io.BytesIO(encoded)).pages[0]
    values = page.asarray() / (2**bits - 1)
    if page.planarconfig == 2:
        values = np.moveaxis(values, 0, -1)
    if photometric == "miniswhite":
        values = 1 - values
    if photometric == "separated":
        values = (1 - values[..., :3]) * (1 - values[..., 3:])
    values = values[..., None] if values.ndim == 2 else values
    colours = values[..., :3] if values.shape[-1] >= 3 else values[..., :1]
    if extra == ("unassalpha",):
        colours = colours * values[..., -1:] + (1 - values[..., -1:])
    if extra == ("assocalpha",):
        colours = colours + (1 - values[..., -1:])
    return np.broadcast_to(np.round(np.clip(colours, 0, 1) * 255), (*values.shape[:2], 3)).astype(int)


KINDS = [
    *(("minisblack", bits, 1, ()) for bits in (1, 2, 4, 8, 12, 16)),
    *(("miniswhite", bits, 1, ()) for bits in (1, 2, 4, 8, 12, 16)),
    *(("minisblack", bits, 2, ("unassalpha",)) for bits in (8, 16)),
    *(("rgb", bits, 3, ()) for bits in (8, 16)),
    *(("rgb", bits, 4, (extra,)) for bits in (8, 16) for extra in ("unspecified", "assocalpha", "unassalpha")),
    *(("separated", bits, 4, ()) for bits in (8, 16)),
    ("separated", 8, 5, ("unassalpha",)),
]
SURE = {kind for kind in KINDS if kind[1] in (8, 16)} - {("minisblack", 16, 2, ("unassalpha",)), ("separated", 16, 4, ())}
SURE -= {("separated", 8, 5, ("unassalpha",))}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_layout_is_seen_as_a_second_decoder_sees_it_or_refused(kind: tuple, order: str) -> None:
    photometric, bits, count, extra = kind
    values = samples(bits, count)
    if extra == ("assocalpha",):
        values[..., :3] = np.minimum(values[..., :3], values[..., 3:])
    taken = 0
    packings = [{}, {"compression": "lzw"}, {"compression": "zlib"}, {"compression": "packbits"}, {"compression": "lzma"}]
    packings += [{"compression": name, "predictor": True} for name in ("lzw", "zlib", "zstd", "packbits", "lzma", None)]
    parts = [{}, {"rowsperstrip": 7}, {"tile": (16, 32)}]
    planes = ["contig", "separate"] if count > 1 else [None]
    for packing, part, plane in itertools.product(packings, parts, planes):
        stored = np.moveaxis(values, -1, 0) if plane == "separate" else values
        options = {"photometric": photometric, "planarconfig": plane, "extrasamples": extra or None, **packing, **part}
        try:
            encoded = tiff(np.ascontiguousarray(stored), bitspersample=bits, byteorder=order, **options)
        except (ValueError, NotImplementedError, KeyError):
            continue  # tifffile does not write it
        seen = shown(encoded)
        if seen is not None:
            taken += 1
            difference = np.abs(seen - expected(encoded, photometric, bits, extra)).max()
            limit = 3 if extra == ("assocalpha",) else 1
            assert difference <= limit, (options, difference)
    if kind in (SURE if order == "<" else SURE - {("miniswhite", 16, 1, ())}):
        assert taken >= 9


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_palette_is_looked_up_and_one_of_8_bit_is_refused(bits: int) -> None:
    rows = -(-WIDTH * bits // 8)
    indices = samples(bits, 1)
    stored = np.packbits(np.unpackbits(indices[..., None], axis=-1)[..., -bits:].reshape(HEIGHT, -1), axis=-1)
    palette = np.random.default_rng(1).integers(0, 256, (3, 2**bits))
    tags = [(256, WIDTH), (257, HEIGHT), (258, bits), (259, 1), (262, 3), (273, 2000), (277, 1), (278, HEIGHT)]
    for scale, expected in ((257, palette[:, indices].transpose(1, 2, 0)), (1, None)):
        data = (palette * scale).astype("<u2").tobytes().ljust(1800, b"\0") + stored.tobytes()
        encoded = bytearray(by_hand([*tags, (279, rows * HEIGHT), (320, 200)], data))
        count = encoded.index(struct.pack("<HHI", 320, 3, 1)) + 4
        encoded[count : count + 4] = struct.pack("<I", palette.size)
        np.testing.assert_array_equal(shown(bytes(encoded)), expected)


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("part", [{}, {"rowsperstrip": 16}, {"tile": (16, 32)}], ids=str)
def test_jpeg_inside_a_tiff_has_its_colours(subsampling: tuple[int, int], part: dict) -> None:
    options = {"photometric": "ycbcr", "compression": "jpeg", "subsampling": subsampling, **part}
    stored = np.asarray(PIL.Image.fromarray(samples(8, 3)).convert("YCbCr"))
    encoded = tiff(stored, compressionargs={"level": 95}, **options)
    expected = tifffile.TiffFile(io.BytesIO(encoded)).asarray().astype(int)
    assert np.abs(shown(encoded) - expected).max() <= 12
    assert np.abs(shown(encoded) - samples(8, 3).astype(int)).mean() <= 5


def test_bits_may_be_in_either_order() -> None:
    values = samples(1, 1)
    reversed_bits = np.packbits(values, axis=-1, bitorder="little")
    for photometric, expected_bits in ((1, values), (0, 1 - values)):
        tags = [(256, WIDTH), (257, HEIGHT), (258, 1), (259, 1), (262, photometric), (266, 2), (273, 200), (277, 1)]
        tags += [(278, HEIGHT), (279, reversed_bits.size)]
        np.testing.assert_array_equal(shown(by_hand(tags, reversed_bits.tobytes()))[..., 0], expected_bits * 255)


def by_hand(tags: list[tuple[int, int]], data: bytes) -> bytes:
    """A TIFF whose data begin at byte 200, for what no library writes."""
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    return (b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)).ljust(200, b"\0") + data


@pytest.mark.parametrize(
    ("left_out", "changed", "code"),
    [
        (262, {}, headers.DAMAGED),  # without it, 0 may be black or white
        (None, {339: 2}, headers.UNSUPPORTED_MODE),  # signed
        (None, {266: 2}, headers.UNSUPPORTED_MODE),  # bits reversed
        (None, {278: HEIGHT - 1}, headers.DAMAGED),  # a second strip that is nowhere
        (None, {262: 8}, headers.UNSUPPORTED_MODE),
        (None, {259: 6}, headers.UNSUPPORTED_MODE),
        (None, {258: 7}, headers.UNSUPPORTED_MODE),
        (None, {317: 2}, headers.UNSUPPORTED_MODE),  # differences that are not packed
    ],
)
def test_what_pillow_would_show_otherwise_is_refused(left_out: int | None, changed: dict[int, int], code: str) -> None:
    tags = {256: WIDTH, 257: HEIGHT, 258: 8, 259: 1, 262: 1, 273: 200, 277: 1, 278: HEIGHT, 279: HEIGHT * WIDTH}
    good = by_hand(sorted(tags.items()), samples(8, 1).tobytes())
    np.testing.assert_array_equal(shown(good)[..., 1], samples(8, 1))
    tags |= changed
    tags.pop(left_out, None)
    with pytest.raises(images.BadImageError) as error:
        images.prepare(by_hand(sorted(tags.items()), samples(8, 1).tobytes()))
    assert error.value.code == code


def pages(*each: tuple[np.ndarray, int]) -> bytes:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for values, subfile in each:
            writer.write(values, subfiletype=subfile, metadata=None, contiguous=False)
    return buffer.getvalue()


@pytest.mark.parametrize("bigtiff", [False, True])
def test_a_thumbnail_is_not_taken_for_the_picture(bigtiff: bool) -> None:
    buffer = io.BytesIO()
    strange = np.zeros((8, 9), np.float64)  # a page that Pillow can't set up
    with tifffile.TiffWriter(buffer, bigtiff=bigtiff) as writer:
        writer.write(strange, subfiletype=1, metadata=None)
        writer.write(corpus.scene(), metadata=None)
        writer.write(np.zeros((24, 41), bool), subfiletype=4, photometric="mask", metadata=None)
    np.testing.assert_array_equal(shown(buffer.getvalue()), corpus.scene())
    assert shown(pages((strange, 1))) is None


def test_of_pages_of_one_size_the_first_is_taken_and_different_ones_are_refused() -> None:
    first, second = corpus.scene(), corpus.scene(1)
    np.testing.assert_array_equal(shown(pages((first, 0), (second, 0))), first)
    with pytest.raises(images.BadImageError, match=r"pages of different sizes \(40 x 24, 40 x 20\)"):
        images.prepare(pages((first, 0), (second[:20], 0)))


def test_what_is_refused_says_what_it_is() -> None:
    with pytest.raises(images.BadImageError, match=r"RGB of 3 x 16 bit in planes; save it as PNG"):
        images.prepare(tiff(np.moveaxis(samples(16, 3), -1, 0).copy(), photometric="rgb", planarconfig="separate"))


@pytest.mark.parametrize("predictor", [2, 3])
def test_differences_are_taken_where_they_are_known_to_be_undone(predictor: int) -> None:
    # A floating-point predictor means nothing for integers.
    encoded = bytearray(tiff(samples(8, 3), photometric="rgb", compression="lzw", predictor=True))
    at = encoded.index(struct.pack("<HHI", 317, 3, 1)) + 8
    encoded[at : at + 2] = struct.pack("<H", predictor)
    seen = shown(bytes(encoded))
    if predictor == 3:
        assert seen is None
    else:
        np.testing.assert_array_equal(seen, samples(8, 3))
    with pytest.raises(images.BadImageError, match=r"RGB of 3 x 8 bit with differences .*; save it as PNG"):
        images.prepare(tiff(samples(8, 3), photometric="rgb", compression="packbits", predictor=True))


def test_a_large_tiff_in_the_other_byte_order_is_refused_by_name() -> None:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples(8, 3), bigtiff=True, byteorder=">", photometric="rgb")
    with pytest.raises(images.BadImageError, match=r"big-endian BigTIFF; save it as PNG") as error:
        images.prepare(buffer.getvalue())
    assert error.value.code == headers.UNSUPPORTED_MODE
