"""ImageExampleGen against a plain Python loop that does the same checks and writes the same TFRecords.

Each is run in a process of its own, on the same generated JPEGs, which the page cache holds. Rates are those of the work
itself, after imports; memory is the peak resident set of the whole process. Read is what its calls asked the system for, its
ended children's with it, by `/proc/self/io`, against the bytes of the pictures: those put aside are read a second time.

  .venv/bin/python -m benchmarks.ingest                      # 2,000 and 20,000 pictures, about five minutes
  .venv/bin/python -m benchmarks.ingest --pictures 500 --pictures 1000
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import click
import numpy as np
import PIL.Image
from rich.console import Console
from rich.table import Table

HEIGHT, WIDTH, QUALITY = 480, 640, 95
CLASSES = 10
SPLITS = {"train": 8, "eval": 1, "test": 1}


def photograph(seed: int) -> np.ndarray:
    """Return pixels with about the spectrum of a photograph, larger than what is cut out of them: amplitude 1 / frequency.

    Source: Field, "Relations between the statistics of natural images and the response properties of cortical cells", 1987.
    """
    random = np.random.default_rng(seed)
    height, width = HEIGHT * 5 // 4, WIDTH * 5 // 4
    pixels = np.zeros((height, width, 3), np.float32)
    for level in range(8):
        layer = PIL.Image.fromarray(random.integers(0, 256, (height >> level, width >> level, 3), dtype=np.uint8))
        pixels += np.asarray(layer.resize((width, height), PIL.Image.Resampling.BICUBIC), np.float32) * 2**level
    low, high = pixels.min(), pixels.max()
    return ((pixels - low) * (255 / (high - low))).astype(np.uint8)


def write_photographs(paths: list[Path], seed: int) -> None:
    """Write JPEGs that differ from each other: windows of a few photographs, each seen through one of another."""
    random = np.random.default_rng(seed)
    pool = [photograph(seed + i) for i in range(4)]

    def window(number: int) -> np.ndarray:
        top, left = random.integers(0, HEIGHT // 4), random.integers(0, WIDTH // 4)
        found = pool[number][top : top + HEIGHT, left : left + WIDTH]
        return found[:: random.choice([-1, 1]), :: random.choice([-1, 1])]

    for path in paths:
        one, other = (window(number).astype(np.uint16) for number in random.permutation(len(pool))[:2])
        PIL.Image.fromarray(((one + other) // 2).astype(np.uint8)).save(path, "JPEG", quality=QUALITY)


def write_folder(folder: Path, count: int) -> int:
    """Write a folder of classes and return its size in bytes."""
    for label in range(CLASSES):
        (folder / f"class{label}").mkdir(parents=True)
    paths = [folder / f"class{i % CLASSES}" / f"{i:06d}.jpg" for i in range(count)]
    portions = [paths[start : start + 500] for start in range(0, count, 500)]
    with futures.ProcessPoolExecutor() as pool:
        list(pool.map(write_photographs, portions, range(0, 10 * len(portions), 10)))
    return sum(path.stat().st_size for path in paths)


def bytes_read() -> int:
    """Return what this process has read so far, files and all else, and its children that have ended."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text(encoding="ascii").splitlines())
    return int(fields["rchar"])


@contextlib.contextmanager
def measuring() -> Iterator[dict[str, float]]:
    """Measure what is done meanwhile: `seconds`, and bytes that were `read`; they are there at its end."""
    started, before, measured = time.perf_counter(), bytes_read(), dict[str, float]()
    yield measured
    measured |= {"seconds": time.perf_counter() - started, "read": bytes_read() - before}


def with_loop(source: str, output: str) -> dict[str, float]:
    """Ingest with a plain loop; return what was measured."""
    import tensorflow as tf

    from components.image_example_gen import near_copies, preparation, signatures, sources, splits
    from components.image_example_gen.spans import Location
    from modules import images

    with measuring() as measured:
        options = tf.io.TFRecordOptions("GZIP", compression_level=0)
        writers = {split: tf.io.TFRecordWriter(os.path.join(output, f"{split}.gz"), options) for split in SPLITS}
        seen: dict[str, np.ndarray] = {}
        for file in sources.list_files(Location(source)):
            if not isinstance(file, sources.ImageFile):
                continue
            picture = images.prepare(Path(file.uri).read_bytes())
            if picture.content_hash in seen:
                continue
            seen[picture.content_hash] = signatures.signature(picture.pixels)
            split = splits.split_of(picture.content_hash, SPLITS)
            writers[split].write(preparation.to_example(file, picture).SerializeToString())
        for writer in writers.values():
            writer.close()
        near_copies.pairs(np.stack([*seen.values()]), np.array([*seen], "S64"))
    return measured


def with_component(source: str, output: str) -> dict[str, float]:
    """Ingest with ImageExampleGen's driver and executor; return what was measured."""
    from tfx.proto import example_gen_pb2, range_config_pb2
    from tfx.types import standard_artifacts
    from tfx.utils import proto_utils

    from components.image_example_gen import component, driver, executor
    from configs import schema
    from pipeline import beam

    spec = component.ImageExampleGen(source, SPLITS).spec
    protos = (example_gen_pb2.Input, range_config_pb2.RangeConfig)
    properties = {
        key: proto_utils.proto_to_json(given) if isinstance(given, protos) else given
        for key, given in spec.exec_properties.items()
    }
    examples, rejects = standard_artifacts.Examples(), component.Rejects()
    examples.uri, rejects.uri = os.path.join(output, "examples", "1"), os.path.join(output, "rejects", "1")
    context = executor.Executor.Context(beam.arguments(schema.Beam()), tmp_dir=os.path.join(output, "tmp"), unique_id="1")
    with measuring() as measured:
        properties |= driver.resolve(properties, examples.uri)
        executor.Executor(context).Do({}, {"examples": [examples], "rejects": [rejects]}, properties)
    return measured


WAYS = {"plain loop": with_loop, "ImageExampleGen": with_component}


@click.command()
@click.option("--pictures", "counts", type=int, multiple=True, default=(2_000, 20_000), show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="Where pictures are made and kept; else a temporary folder.")
@click.option("--only", type=click.Choice(list(WAYS)), hidden=True)
@click.option("--output", hidden=True)
def main(counts: tuple[int, ...], folder: Path | None, only: str | None, output: str | None) -> None:
    """Print rates, peak memory and what was read of both ways, and their ratios."""
    if only is not None:
        measured = WAYS[only](str(folder), str(output))
        measured["megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
        print(json.dumps(measured))
        return
    console = Console()
    table = Table(
        "pictures", "way", "seconds", "pictures/s", "peak memory, MB", "read, times the pictures", "rate against the loop"
    )
    with tempfile.TemporaryDirectory() as temporary:
        for count in counts:
            source = (folder or Path(temporary)) / str(count)
            if not source.is_dir():
                console.print(f"making {count} pictures …")
                console.print(f"{write_folder(source, count) / count / 1e3:.1f} kB each on average")
            size = sum(path.stat().st_size for path in source.rglob("*.jpg"))
            loop_rate = 0.0
            for way in WAYS:
                with tempfile.TemporaryDirectory(dir=temporary) as out:
                    command = [
                        sys.executable,
                        "-m",
                        "benchmarks.ingest",
                        "--folder",
                        str(source),
                        "--only",
                        way,
                        "--output",
                        out,
                    ]
                    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
                measured = json.loads(done.stdout.splitlines()[-1])
                rate = count / measured["seconds"]
                loop_rate = loop_rate or rate
                row = (
                    f"{measured['seconds']:.1f}",
                    f"{rate:.0f}",
                    f"{measured['megabytes']:.0f}",
                    f"{measured['read'] / size:.2f}",
                    f"{rate / loop_rate:.2f}",
                )
                table.add_row(str(count), way, *row)
    console.print(table)


if __name__ == "__main__":
    main()
