"""Near copies: how many of each kind are found, how many pictures are flagged though they are distinct, and what it costs.

Copies are made of scikit-learn's sample images (whole, and in nine parts each), its digits, and synthetic photographs;
--data adds folders of pictures, and files of grey ones in the format of MNIST. The search is timed in a process of its own,
on signatures that lie on disk; one picture of a hundred is a copy of another.

  .venv/bin/python -m benchmarks.near_copies                                    # about five minutes
  .venv/bin/python -m benchmarks.near_copies --data photographs --data train-images-idx3-ubyte.gz
"""

from __future__ import annotations

import gzip
import io
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import click
import numpy as np
import PIL.Image
from rich.console import Console
from rich.table import Table

from benchmarks import ingest
from components.image_example_gen import near_copies, overlays, signatures

PHOTOGRAPHS = 150
FACTORS = (0.25, 0.33, 0.5, 0.61, 0.77, 1.3, 1.7, 2.0)
PLANTED = 100
Resampling = PIL.Image.Resampling
SMOOTH = (Resampling.BILINEAR, Resampling.BICUBIC, Resampling.LANCZOS, Resampling.BOX, Resampling.HAMMING)
Change = Callable[[PIL.Image.Image, np.random.Generator], PIL.Image.Image]


def _resized(picture: PIL.Image.Image, factor: float, smooth: Resampling) -> PIL.Image.Image:
    return picture.resize((max(1, round(picture.width * factor)), max(1, round(picture.height * factor))), smooth)


def _saved(picture: PIL.Image.Image, kind: str, quality: int) -> PIL.Image.Image:
    file = io.BytesIO()
    picture.save(file, kind, quality=quality)
    return PIL.Image.open(file).convert("RGB")


def _cropped(picture: PIL.Image.Image, down: float, right: float) -> PIL.Image.Image:
    width, height = round(picture.width * 0.95), round(picture.height * 0.95)
    left, top = round((picture.width - width) * right), round((picture.height - height) * down)
    return picture.crop((left, top, left + width, top + height))


def _any_resized(factor: float) -> Change:
    return lambda picture, random: _resized(picture, factor, SMOOTH[random.integers(len(SMOOTH))])


def _any_saved(kind: str, quality: int) -> Change:
    return lambda picture, _: _saved(picture, kind, quality)


CHANGES: dict[str, Change] = {
    **{f"resized by {factor}": _any_resized(factor) for factor in FACTORS},
    **{f"JPEG {quality}": _any_saved("JPEG", quality) for quality in (30, 50, 75, 95)},
    **{f"WebP {quality}": _any_saved("WEBP", quality) for quality in (30, 75)},
    "resized by 0.5, JPEG 50": lambda picture, _: _saved(_resized(picture, 0.5, Resampling.BICUBIC), "JPEG", 50),
    "5 % crop, centre": lambda picture, _: _cropped(picture, 0.5, 0.5),
    "5 % crop, anywhere": lambda picture, random: _cropped(picture, *random.random(2)),
    "5 % crop, JPEG 75": lambda picture, random: _saved(_cropped(picture, *random.random(2)), "JPEG", 75),
    "resized by 0.5, not smoothed": lambda picture, _: _resized(picture, 0.5, Resampling.NEAREST),
    "resized by 0.25, not smoothed": lambda picture, _: _resized(picture, 0.25, Resampling.NEAREST),
}


def embedded() -> dict[str, list[PIL.Image.Image]]:
    """Return sets of distinct pictures that need no file."""
    from sklearn import datasets

    samples: list[PIL.Image.Image] = []
    for pixels in datasets.load_sample_images().images:
        height, width, _ = pixels.shape
        parts = [
            pixels[row * height // 3 : (row + 1) * height // 3, column * width // 3 : (column + 1) * width // 3]
            for row in range(3)
            for column in range(3)
        ]
        samples.extend(PIL.Image.fromarray(np.ascontiguousarray(part)) for part in (pixels, *parts))
    grey = np.round(datasets.load_digits().images * (255 / 16)).astype(np.uint8)
    return {
        "synthetic": [PIL.Image.fromarray(ingest.photograph(seed)[:480, :640]) for seed in range(PHOTOGRAPHS)],
        "samples": samples,
        "digits": [PIL.Image.fromarray(pixels).convert("RGB") for pixels in grey],
        "flat": flat(),
    }


def flat() -> list[PIL.Image.Image]:
    """Return pictures of one colour, gradients, and noise about one colour."""
    random = np.random.default_rng(0)
    colours = [(level, level, level) for level in range(0, 256, 3)] + [*random.integers(0, 256, (100, 3))]
    solid = [np.full((150, 200, 3), colour) for colour in np.unique(colours, axis=0)]
    down, right = np.indices((150, 200))[..., None] / 200
    corners = random.integers(0, 256, (250, 3, 3))
    corners[200:] = corners[200:, :, :1]  # grey
    gradients = [first + (second - first) * 0.7 * right + (third - first) * 0.5 * down for first, second, third in corners]
    noise = [random.integers(0, 256, 3) + random.normal(0, random.uniform(1, 10), (150, 200, 3)) for _ in range(60)]
    return [PIL.Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)) for pixels in (*solid, *gradients, *noise)]


def read(path: Path) -> list[PIL.Image.Image]:
    """Return the pictures of a folder, or of a file of MNIST's format (magic number 0x803, gzipped)."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in {".jpg", ".jpeg", ".png"})
        return [PIL.Image.open(file).convert("RGB") for file in files]
    content = gzip.decompress(path.read_bytes())
    images: np.ndarray = np.frombuffer(content, np.uint8, offset=16).reshape(np.frombuffer(content, ">u4", 3, 4).tolist())
    return [PIL.Image.fromarray(pixels).convert("RGB") for pixels in images]


def small_photograph(seed: int) -> PIL.Image.Image:
    """Return what `ingest.photograph` would look like small, in a hundredth of its time."""
    random = np.random.default_rng(seed)
    pixels = np.zeros((60, 80, 3), np.float32)
    for level in range(5):
        layer = PIL.Image.fromarray(random.integers(0, 256, (60 >> level, 80 >> level, 3), dtype=np.uint8))
        pixels += np.asarray(layer.resize((80, 60), Resampling.BICUBIC), np.float32) * 2**level
    low, high = pixels.min(), pixels.max()
    return PIL.Image.fromarray(((pixels - low) * (255 / (high - low))).astype(np.uint8))


def signed(pictures: list[PIL.Image.Image]) -> np.ndarray:
    """Return their signatures."""
    return np.array([signatures.signature(np.asarray(picture)) for picture in pictures], signatures.SIGNATURE)


def named(count: int) -> np.ndarray:
    """Return as many ids."""
    return np.char.zfill(np.arange(count).astype("S8"), 8)


def recall(pictures: list[PIL.Image.Image], made: np.ndarray, change: Change, most: int) -> float:
    """Return the share of copies, of so many pictures at most, that are found among all pictures."""
    random = np.random.default_rng(0)
    chosen = random.permutation(len(pictures))[:most]
    copies = signed([change(pictures[number], random) for number in chosen])
    pairs = near_copies.pairs(np.concatenate([made, copies]), named(len(made) + len(copies)))
    found = {frozenset(pair) for pair in pairs.tolist()}
    return float(np.mean([frozenset((number, len(made) + copy)) in found for copy, number in enumerate(chosen.tolist())]))


def search(folder: Path, count: int) -> None:
    """Print what the search among so many pictures takes, as JSON."""
    given = np.load(folder / "signatures.npy", mmap_mode="r")[:count]
    confirmed, same = 0, overlays.same

    def counted(*arguments: np.ndarray) -> np.ndarray:
        nonlocal confirmed
        confirmed += len(arguments[0])
        return same(*arguments)

    started = time.perf_counter()
    with mock.patch.object(overlays, "same", counted):
        pairs = near_copies.pairs(given, named(count))
    seconds = time.perf_counter() - started
    planted = int((pairs[:, 1] - pairs[:, 0] == 1).sum())
    # Not getrusage: its peak is that of the process which started this one, if that was larger.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024 / 1e6  # type: ignore[index]
    print(json.dumps({"seconds": seconds, "peak": peak, "confirmed": confirmed, "pairs": len(pairs), "planted": planted}))


def timed(counts: tuple[int, ...], console: Console) -> Table:
    """Return a table of what the search takes."""
    table = Table(
        "pictures", "seconds", "ms each", "peak memory, MB", "pairs compared", "copies found", "of", "others flagged"
    )
    with tempfile.TemporaryDirectory() as folder:
        console.print(f"making {max(counts)} signatures …")
        made = []
        for number in range(max(counts)):
            if number % PLANTED:
                picture = small_photograph(number)
            else:
                picture = _saved(picture, "JPEG", 60) if number else small_photograph(number)
            made.append(signatures.signature(np.asarray(picture)))
        np.save(Path(folder) / "signatures.npy", np.array(made, signatures.SIGNATURE))
        del made
        for count in counts:
            command = [sys.executable, "-m", "benchmarks.near_copies", "--folder", folder, "--only", str(count)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            took = json.loads(done.stdout.splitlines()[-1])
            table.add_row(
                f"{count:,}",
                f"{took['seconds']:.1f}",
                f"{took['seconds'] / count * 1e3:.2f}",
                f"{took['peak']:.0f}",
                f"{took['confirmed']:,}",
                str(took["planted"]),
                str((count - 1) // PLANTED),
                str(took["pairs"] - took["planted"]),
            )
    return table


@click.command()
@click.option(
    "--data", multiple=True, type=click.Path(exists=True, path_type=Path), help="A folder, or a file like MNIST's."
)
@click.option("--copies", default=200, show_default=True, help="How many pictures of a set are changed, at most.")
@click.option("--pictures", "counts", type=int, multiple=True, default=(25_000, 50_000, 100_000), show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
@click.option("--only", type=int, hidden=True)
def main(data: tuple[Path, ...], copies: int, counts: tuple[int, ...], folder: Path | None, only: int | None) -> None:
    """Print recall by kind of change, false flags by set, and the search's time and memory."""
    if only is not None:
        search(Path(str(folder)), only)
        return
    console = Console(width=140)
    sets = embedded() | {path.name: read(path) for path in data}
    flags = Table("distinct pictures", "number", "pairs", "pictures flagged, %", "seconds")
    made = {}
    for name, pictures in sets.items():
        made[name] = signed(pictures)
        started = time.perf_counter()
        pairs = near_copies.pairs(made[name], named(len(pictures)))
        seconds = time.perf_counter() - started
        share = 100 * len(np.unique(pairs)) / len(pictures)
        flags.add_row(name, f"{len(pictures):,}", str(len(pairs)), f"{share:.3f}", f"{seconds:.1f}")
    console.print(flags)
    changed = {name: pictures for name, pictures in sets.items() if name != "flat"}
    kinds = Table("found, %", *changed)
    for kind, change in CHANGES.items():
        shares = (recall(pictures[:5000], made[name][:5000], change, copies) for name, pictures in changed.items())
        kinds.add_row(kind, *(f"{100 * share:.1f}" for share in shares))
    console.print(kinds)
    pixels = ingest.photograph(0)[:480, :640].copy()
    took = []
    for _ in range(100):
        started = time.perf_counter()
        signatures.signature(pixels)
        took.append(time.perf_counter() - started)
    console.print(
        f"a signature of 640 x 480 pixels takes {np.median(took) * 1e3:.2f} ms, and {signatures.SIGNATURE.itemsize} bytes"
    )
    console.print(timed(counts, console))


if __name__ == "__main__":
    main()
