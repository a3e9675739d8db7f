"""What is a near copy of a picture, what isn't, and what finding them costs."""

import io
from pathlib import Path
from types import ModuleType

import hypothesis
import imagehash
import numpy as np
import PIL.Image
import pytest
import scipy.fft
import scipy.sparse.csgraph
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from components.image_example_gen import near_copies, overlays, signatures
from components.image_example_gen.signatures import SIDE, SIGNATURE

HEIGHT, WIDTH = 240, 320
PHOTOGRAPHS = 24
Resampling = PIL.Image.Resampling


def photograph(seed: int) -> PIL.Image.Image:
    """Blobs of all sizes, the larger the stronger."""
    random = np.random.default_rng(seed)
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    for level in range(7):
        layer = PIL.Image.fromarray(random.integers(0, 256, (HEIGHT >> level, WIDTH >> level, 3), dtype=np.uint8))
        pixels += np.asarray(layer.resize((WIDTH, HEIGHT), Resampling.BICUBIC), np.float32) * 2**level
    low, high = pixels.min(), pixels.max()
    return PIL.Image.fromarray(((pixels - low) * (255 / (high - low))).astype(np.uint8))


@pytest.fixture(scope="module")
def photographs() -> list[PIL.Image.Image]:
    return [photograph(seed) for seed in range(PHOTOGRAPHS)]


def signed(pictures: list) -> np.ndarray:
    return np.array([signatures.signature(np.asarray(picture)) for picture in pictures], SIGNATURE)


def ids(count: int) -> np.ndarray:
    return np.array([b"%08d" % number for number in range(count)], "S8")


def found_in(pictures: list) -> set[tuple[int, int]]:
    return {(int(first), int(second)) for first, second in near_copies.pairs(signed(pictures), ids(len(pictures)))}


def resized(picture: PIL.Image.Image, factor: float, filtered: int = Resampling.BICUBIC) -> PIL.Image.Image:
    return picture.resize((round(picture.width * factor), round(picture.height * factor)), filtered)


def saved(picture: PIL.Image.Image, kind: str, quality: int = 75) -> PIL.Image.Image:
    file = io.BytesIO()
    picture.save(file, kind, quality=quality)
    return PIL.Image.open(file).convert("RGB")


def cropped(
    picture: PIL.Image.Image, down: float, right: float, rows: float = 0.05, columns: float = 0.05
) -> PIL.Image.Image:
    width, height = round(picture.width * (1 - columns)), round(picture.height * (1 - rows))
    left, top = round((picture.width - width) * right), round((picture.height - height) * down)
    return picture.crop((left, top, left + width, top + height))


COPIES = {
    "a quarter of the size": lambda picture: resized(picture, 0.25, Resampling.BOX),
    "a third": lambda picture: resized(picture, 0.33, Resampling.LANCZOS),
    "a bit smaller": lambda picture: resized(picture, 0.77, Resampling.BILINEAR),
    "without smoothing": lambda picture: resized(picture, 0.5, Resampling.NEAREST),
    "twice the size": lambda picture: resized(picture, 2.0),
    "poor JPEG": lambda picture: saved(picture, "JPEG", 30),
    "JPEG": lambda picture: saved(picture, "JPEG", 95),
    "WebP": lambda picture: saved(picture, "WEBP"),
    "small and JPEG": lambda picture: saved(resized(picture, 0.4), "JPEG", 50),
    "crop of the middle": lambda picture: cropped(picture, 0.5, 0.5),
    "crop of a corner": lambda picture: cropped(picture, 1, 0),
    "crop of a side": lambda picture: cropped(picture, 0, 0.3, rows=0),
}


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_is_found_and_nothing_else(photographs: list, kind: str) -> None:
    copies = [COPIES[kind](picture) for picture in photographs]
    expected = {(number, PHOTOGRAPHS + number) for number in range(PHOTOGRAPHS)}
    assert found_in(photographs + copies) == expected


share = st.floats(0, 1)


@hypothesis.settings(deadline=None, max_examples=20)
@hypothesis.given(share, share, share, share, st.floats(0.25, 2), st.integers(30, 95), st.booleans())
def test_a_crop_is_found_wherever_it_is_cut_and_however_it_is_saved(
    photographs: list, down: float, right: float, rows: float, columns: float, factor: float, quality: int, first: bool
) -> None:
    crop = cropped(photographs[0], down, right, 0.05 * rows, 0.05 * columns)
    copy = saved(resized(crop, factor), "JPEG", quality)
    assert found_in([copy, *photographs] if first else [*photographs, copy]) == {(0, 1) if first else (0, PHOTOGRAPHS)}


def brighter(picture: PIL.Image.Image) -> PIL.Image.Image:
    return picture.point(lambda level: min(255, level + 12))


def moved(picture: PIL.Image.Image) -> PIL.Image.Image:
    """Another frame of a burst: a fifteenth of the picture shows something else."""
    other = picture.copy()
    other.paste(picture.crop((200, 100, 270, 170)), (60, 90))
    return other


OTHERS = {
    "another exposure": brighter,
    "less contrast": lambda picture: picture.point(lambda level: 128 + (level - 128) * 3 // 4),
    "another frame": moved,
    "other colours": lambda picture: PIL.Image.merge("RGB", [picture.getchannel(channel) for channel in "GRB"]),
    "grey": lambda picture: picture.convert("L").convert("RGB"),
    "mirrored": lambda picture: picture.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT),
    "squeezed": lambda picture: picture.resize((WIDTH * 9 // 10, HEIGHT)),
    "half of it": lambda picture: cropped(picture, 0.5, 0.5, 0.5, 0.5),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_another_picture_is_no_copy(photographs: list, kind: str) -> None:
    assert found_in([*photographs, *map(OTHERS[kind], photographs)]) == set()


def test_digits_that_look_alike_are_no_copies() -> None:
    grey = np.round(load_digits().images * (255 / 16)).astype(np.uint8)
    assert found_in([*np.repeat(grey[..., None], 3, -1)]) == set()


def ramp(low: int, high: int, upright: bool = False) -> np.ndarray:
    row = np.round(np.linspace(low, high, 160)).astype(np.uint8)
    pixels = np.broadcast_to(row[:, None], (160, 160, 3))
    return pixels.transpose(1, 0, 2) if upright else pixels


def test_pictures_without_structure_are_no_copies_of_each_other() -> None:
    random = np.random.default_rng(0)
    solid = [np.full((120, 160, 3), level, np.uint8) for level in range(0, 256, 2)]
    colours = [np.full((120, 160, 3), (200, level, 90), np.uint8) for level in range(0, 256, 4)]
    ramps = [ramp(low, high, upright) for low in range(0, 80, 8) for high in range(120, 250, 8) for upright in (False, True)]
    noise = [np.clip(random.normal(100, 3, (480, 640, 3)), 0, 255).astype(np.uint8) for _ in range(12)]
    assert found_in([*solid, *colours, *ramps, *noise]) == set()


def test_noise_that_a_small_picture_does_not_show_is_not_taken_for_the_same() -> None:
    random = np.random.default_rng(0)
    smooth = np.full((480, 640, 3), 100, np.uint8)
    first, second = (np.clip(random.normal(100, 3, smooth.shape), 0, 255).astype(np.uint8) for _ in range(2))
    made = signed([first, smooth, smooth, second, second, smooth])
    made["luma"], made["chroma"] = made["luma"][1], made["chroma"][1]
    whole = np.tile(np.array(signatures.WHOLE, np.float32), (3, 1))
    assert overlays.same(made[0::2], made[1::2], whole).tolist() == [False, False, False]
    assert overlays.same(made[1:2], made[2:3], whole[:1]).tolist() == [True]


def test_a_picture_without_structure_is_a_copy_where_its_pixels_are_the_same() -> None:
    solid = [np.full((height, height * 4 // 3, 3), (30, 40, 50), np.uint8) for height in (120, 240)]
    assert found_in(solid) == {(0, 1)}


@hypothesis.settings(deadline=None, max_examples=8)
@hypothesis.given(st.permutations(range(2 * PHOTOGRAPHS)), st.data())
def test_the_order_of_pictures_does_not_matter(photographs: list, order: list[int], data: st.DataObject) -> None:
    copies = [*COPIES.values()]
    given = signed([*photographs, *(copies[number % 3](picture) for number, picture in enumerate(photographs))])
    named = ids(len(given))
    sizes = data.draw(st.integers(0, len(given)))
    here = np.array(order[:sizes], int)
    alone = np.sort(here)
    pairs = near_copies.pairs(given[here], named[here])
    assert [tuple(named[here][pair]) for pair in pairs] == [
        tuple(named[alone][pair]) for pair in near_copies.pairs(given[alone], named[alone])
    ]


def test_copies_are_connected_by_as_few_pairs_as_it_takes(photographs: list) -> None:
    copies = [
        resized(saved(picture, "JPEG", 60 + 5 * number), 0.5 + 0.1 * number)
        for picture in photographs[:3]
        for number in range(6)
    ]
    pairs = near_copies.pairs(signed([*photographs, *copies]), ids(PHOTOGRAPHS + len(copies)))
    assert pairs.shape == (len(copies), 2)
    assert (pairs[:, 0] < pairs[:, 1]).all()
    graph = scipy.sparse.coo_array((np.ones(len(pairs)), tuple(pairs.T)), shape=(PHOTOGRAPHS + len(copies),) * 2)
    groups = scipy.sparse.csgraph.connected_components(graph, directed=False)[1]
    assert (groups[PHOTOGRAPHS:].reshape(3, 6) == groups[:3, None]).all()
    assert len({*groups}) == PHOTOGRAPHS


def one_hash(count: int, levels: float) -> np.ndarray:
    """Signatures with the same hash and different details."""
    random = np.random.default_rng(0)
    spectrum = scipy.fft.dctn(random.normal(0, levels, (count, SIDE, SIDE)), axes=(1, 2), norm="ortho")
    spectrum[:, :7, :7] = 0
    pictures = np.zeros(count, SIGNATURE)
    shown = np.asarray(photograph(0).convert("L").resize((SIDE, SIDE)), np.float32) / 2 + 64
    pictures["luma"] = np.round(shown + scipy.fft.idctn(spectrum, axes=(1, 2), norm="ortho"))
    pictures["height"], pictures["width"] = HEIGHT, WIDTH
    return pictures


def counted(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str) -> list[int]:
    """Stand before a function; how many pairs each of its calls is given, from whichever thread, is appended to a list."""
    lengths: list[int] = []
    function = getattr(module, name)

    def standing_before(*arguments: np.ndarray) -> np.ndarray:
        lengths.append(len(arguments[0]))
        return function(*arguments)

    monkeypatch.setattr(module, name, standing_before)
    return lengths


@pytest.mark.parametrize(("levels", "copies"), [(0.5, True), (20, False)])
def test_work_grows_with_the_pictures_where_all_have_one_hash(
    monkeypatch: pytest.MonkeyPatch, levels: float, copies: bool
) -> None:
    confirmed = counted(monkeypatch, overlays, "same")
    pairs = near_copies.pairs(one_hash(300, levels), ids(300))
    assert len(pairs) == (299 if copies else 0)
    assert sum(confirmed) <= 18 * 300


def test_each_picture_meets_a_few_of_those_with_its_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    met = counted(monkeypatch, near_copies, "_distance")
    counts = []
    for count in (200, 800):
        met.clear()
        near_copies.pairs(one_hash(count, 20), ids(count))
        counts.append(sum(met) / count)
    assert counts[1] <= 1.5 * counts[0]


def test_signatures_are_small_and_can_be_stored(photographs: list, tmp_path: Path) -> None:
    made = signed([*photographs, COPIES["JPEG"](photographs[3])])
    assert SIGNATURE.itemsize < 1000
    (tmp_path / "signatures").write_bytes(b"".join(one.tobytes() for one in made))
    stored = np.memmap(tmp_path / "signatures", SIGNATURE, "r")
    assert near_copies.pairs(stored, ids(len(stored))).tolist() == [[3, PHOTOGRAPHS]]


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_pictures_have_no_copies(photographs: list, count: int) -> None:
    assert near_copies.pairs(signed(photographs[:count]), ids(count)).shape == (0, 2)


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (2, 3), (400, 1)])
def test_a_picture_of_a_few_pixels_has_a_signature(size: tuple[int, int]) -> None:
    pixels = np.arange(size[0] * size[1] * 3, dtype=np.uint8).reshape(*size, 3)
    assert len(near_copies.pairs(signed([pixels, pixels]), ids(2))) == 1


def test_the_hash_is_that_of_imagehash(photographs: list) -> None:
    made = signed(photographs)["luma"]
    expected = [imagehash.phash(PIL.Image.fromarray(luma), hash_size=7, highfreq_factor=4).hash for luma in made]
    assert (signatures.hashes(made) == np.reshape(expected, (PHOTOGRAPHS, -1))).all()
