"""Decoding and augmentation alone: pictures a second of ours against ImageDataGenerator, each in a process of its own.

Both read the same JPEGs of 640 x 480, resize them to 224 x 224, augment them by the reference recipe in batches of 32, and
feed no model. ImageDataGenerator reads from a folder, as it would be used; ours decodes and resizes as Transform does, then
augments as Trainer does.

  .venv/bin/python -m benchmarks.input_pipeline
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks import ingest, reference
from configs import schema

SIZE, BATCH = 224, 32


def with_generator(folder: Path) -> float:
    """Read all pictures once with ImageDataGenerator; return its seconds."""
    generator = reference.augmenting_generator(schema.Augmentation())
    batches = generator.flow_from_directory(folder, (SIZE, SIZE), batch_size=BATCH, seed=1)
    started = time.perf_counter()
    for number in range(len(batches)):
        batches[number]
    return time.perf_counter() - started


def with_ours(folder: Path) -> float:
    """Read all pictures once as Transform and Trainer do; return the seconds."""
    import tensorflow as tf

    from modules import augmentation, preprocessing

    paths = sorted(str(path) for path in folder.rglob("*.jpg"))
    labels = tf.zeros([BATCH, 1])
    augment = augmentation.Augmenter(schema.Augmentation().model_dump(mode="json"))
    started = time.perf_counter()
    pictures = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths), seed=1)
    pictures = pictures.map(
        lambda path: preprocessing.decode_and_resize(tf.io.read_file(path), SIZE, SIZE), num_parallel_calls=tf.data.AUTOTUNE
    )
    batches = pictures.batch(BATCH, drop_remainder=True).enumerate()
    for _ in batches.map(
        lambda number, images: augment(images, labels, tf.stack([number, 1])), num_parallel_calls=tf.data.AUTOTUNE
    ).prefetch(tf.data.AUTOTUNE):
        pass
    return time.perf_counter() - started


WAYS = {"ImageDataGenerator": with_generator, "ours": with_ours}


@click.command()
@click.option("--pictures", default=1024, show_default=True, help="A multiple of 32.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where pictures are made and kept; else a temporary folder.")
@click.option("--only", type=click.Choice(list(WAYS)), hidden=True)
def main(pictures: int, folder: Path | None, only: str | None) -> None:
    """Print the rates of both ways, and their ratio."""
    if only is not None:
        print(json.dumps(WAYS[only](Path(str(folder)))))
        return
    table = Table("way", "pictures/s", "times ImageDataGenerator")
    first = 0.0
    with tempfile.TemporaryDirectory() as temporary:
        source = (folder or Path(temporary)) / str(pictures)
        if not source.is_dir():
            ingest.write_folder(source, pictures)
        for way in WAYS:
            command = [sys.executable, "-m", "benchmarks.input_pipeline", "--folder", str(source), "--only", way]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            rate = pictures / json.loads(done.stdout.splitlines()[-1])
            first = first or rate
            table.add_row(way, f"{rate:.0f}", f"{rate / first:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
