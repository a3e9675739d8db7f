"""From ingested pictures to the first one in the network: ours against a plain tf.data program, each in its own process.

The plain program decodes all pictures, resizes them to 224 x 224 and writes each once, on all cores, as whoever trains for
more than an epoch would; its imports do not count. Ours is a run of the pipeline: the clock starts when ImageExampleGen has
ended, and stops when the first batch is about to enter the network, so with all nodes in between and the start of Trainer.

  .venv/bin/python -m benchmarks.first_step                                    # about ten minutes
  .venv/bin/python -m benchmarks.first_step --pictures 500 --phone-pictures 20
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import click
import PIL.Image
from rich.console import Console
from rich.table import Table

from benchmarks import ingest
from configs import reading

SIZE = 224
PHONE = (4032, 3024)
"""Width and height of a photograph of 12 megapixels."""


def write_phone_photographs(folder: Path, count: int) -> None:
    """Write a folder of two classes with large JPEGs: photographs of `benchmarks.ingest`, enlarged."""
    paths = [folder / f"class{i % 2}" / f"{i:06d}.jpg" for i in range(count)]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    with futures.ProcessPoolExecutor() as pool:
        list(pool.map(_write_phone_photograph, paths, range(count)))


def _write_phone_photograph(path: Path, seed: int) -> None:
    picture = PIL.Image.fromarray(ingest.photograph(seed))
    picture.resize(PHONE, PIL.Image.Resampling.BICUBIC).save(path, "JPEG", quality=ingest.QUALITY)


def with_plain_program(source: Path, output: Path) -> float:
    """Decode, resize and write each picture once; return the seconds of it."""
    import tensorflow as tf

    started = time.perf_counter()

    def prepared(path: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_jpeg(tf.io.read_file(path), 3)
        return tf.io.serialize_tensor(tf.cast(tf.image.resize(image, [SIZE, SIZE]), tf.uint8))

    files = tf.data.Dataset.list_files(str(source / "*" / "*.jpg"), seed=1)
    pictures = files.map(prepared, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    with tf.io.TFRecordWriter(str(output / "pictures")) as writer:
        for picture in pictures.as_numpy_iterator():
            writer.write(picture)
    return time.perf_counter() - started


def with_pipeline(source: Path, output: Path) -> float:
    """Run the pipeline until the first batch is about to enter the network; say the seconds since ingestion, and end."""
    from modules import dataset
    from pipeline import local_runner, node

    ingested = 0.0

    def note(status: local_runner.NodeStatus) -> None:
        nonlocal ingested
        if status.state not in {local_runner.RUNNING}:
            print(f"{status.node_id} {status.state} after {status.seconds:.1f} s", file=sys.stderr)
        if status.node_id == "ImageExampleGen" and status.state == node.DONE:
            ingested = time.perf_counter()

    def ending(batches: Callable[..., Any], *args: Any, **options: Any) -> Iterator[Any]:
        next(iter(batches(*args, **options)))
        print(json.dumps(time.perf_counter() - ingested), flush=True)
        os._exit(0)

    dataset.view_batches = functools.partial(ending, dataset.view_batches)
    overrides = (f"image.height={SIZE}", f"image.width={SIZE}", "model.weights=null", f"data.source={source}")
    local_runner.run_locally(reading.load(None, overrides), output, note)
    raise AssertionError("nothing was trained")


WAYS = {"plain program": with_plain_program, "ours": with_pipeline}


@click.command()
@click.option("--pictures", "counts", type=int, multiple=True, default=(2_000, 20_000), show_default=True)
@click.option("--phone-pictures", default=300, show_default=True, help="Of 12 megapixels; 0 leaves them out.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where pictures are made and kept; else a temporary folder.")
@click.option("--only", type=click.Choice(list(WAYS)), hidden=True)
@click.option("--output", type=click.Path(path_type=Path), hidden=True)
def main(counts: tuple[int, ...], phone_pictures: int, folder: Path | None, only: str | None, output: Path | None) -> None:
    """Print the seconds of both ways, and their ratio."""
    if only is not None:
        assert folder is not None
        assert output is not None
        print(json.dumps(WAYS[only](folder, output)))
        return
    console = Console()
    table = Table("pictures", "way", "seconds", "times the plain program")
    with tempfile.TemporaryDirectory() as temporary:
        made = folder or Path(temporary)
        sources: list[tuple[str, Path, Callable[[Path, int], object], int]]
        sources = [(f"{count:,} of 640 x 480", made / str(count), ingest.write_folder, count) for count in counts]
        if phone_pictures:
            title, folder_name = f"{phone_pictures:,} of {PHONE[0]} x {PHONE[1]}", f"phone{phone_pictures}"
            sources.append((title, made / folder_name, write_phone_photographs, phone_pictures))
        for name, source, write, count in sources:
            if not source.is_dir():
                console.print(f"making {name} …")
                write(source, count)
            plain = 0.0
            for way in WAYS:
                with tempfile.TemporaryDirectory(dir=temporary) as out:
                    command = [sys.executable, "-m", "benchmarks.first_step", "--folder", str(source), "--only", way]
                    command += ["--output", out]
                    with (made / "first_step.log").open("a") as log:
                        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=log, text=True)
                seconds = json.loads(done.stdout.splitlines()[-1])
                plain = plain or seconds
                table.add_row(name, way, f"{seconds:.1f}", f"{seconds / plain:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
