"""Decoding and augmentation alone: pictures a second of ours against ImageDataGenerator, each in a process of its own.

Both read the same JPEGs of 640 x 480, resize them to 224 x 224, augment them by the reference recipe in batches of 32, and
feed no model. The first row of each is like for like: every picture is decoded and augmented. That is what an epoch takes
ImageDataGenerator; Trainer keeps what fits into 2 GiB decoded, as these pictures do: the last row is an epoch of `--epochs`.

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


def with_generator(folder: Path, epochs: int) -> dict[str, float]:
    """Read all pictures once with ImageDataGenerator, whose epochs are all alike; return seconds of each row."""
    generator = reference.augmenting_generator(schema.Augmentation())
    batches = generator.flow_from_directory(folder, (SIZE, SIZE), batch_size=BATCH, seed=1)
    started = time.perf_counter()
    for number in range(len(batches)):
        batches[number]
    return {"decoding and augmenting": time.perf_counter() - started}


def with_ours(folder: Path, epochs: int) -> dict[str, float]:
    """Decode and augment all pictures; then as Trainer does, epoch after epoch.

    Returns:
      Seconds of each row.
    """
    import tensorflow as tf

    from modules import augmentation, autotuning, dataset, preprocessing

    paths = sorted(str(path) for path in folder.rglob("*.jpg"))
    augment = schema.Augmentation().model_dump(mode="json")
    shuffled = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths), seed=1)
    pictures = shuffled.map(
        lambda path: preprocessing.decode_and_resize(tf.io.read_file(path), SIZE, SIZE), num_parallel_calls=tf.data.AUTOTUNE
    )
    augmenter, numbers = augmentation.Augmenter(augment), tf.range(BATCH, dtype=tf.int64)
    augmented = (
        pictures.batch(BATCH)
        .enumerate()
        .map(lambda number, batch: augmenter(batch, numbers, tf.stack([1, number])), num_parallel_calls=tf.data.AUTOTUNE)
    )
    iterator = iter(autotuning.off(augmented.prefetch(tf.data.AUTOTUNE)))
    next(iterator)  # It is compiled meanwhile.
    started = time.perf_counter()
    for _ in iterator:
        pass
    rows = {"decoding and augmenting": (time.perf_counter() - started) * len(paths) / (len(paths) - BATCH)}
    with tempfile.TemporaryDirectory() as temporary:
        encoded = [Path(path).read_bytes() for path in paths]
        split = reference.write_split(Path(temporary) / "Split-train", encoded, [0] * len(paths), SIZE, 1)
        started = time.perf_counter()
        for _ in dataset.training_batches(split, BATCH, 1, augment).take(epochs * len(paths) // BATCH):
            pass
        each = (time.perf_counter() - started) / epochs
    return rows | {f"an epoch of {epochs}, decoded in the first": each}


WAYS = {"ImageDataGenerator": with_generator, "ours": with_ours}


@click.command()
@click.option("--pictures", default=2048, show_default=True, help="A multiple of 32.")
@click.option("--epochs", default=8, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="Where pictures are made and kept; else a temporary folder.")
@click.option("--only", type=click.Choice(list(WAYS)), hidden=True)
def main(pictures: int, epochs: int, folder: Path | None, only: str | None) -> None:
    """Print the rates of both ways, and their ratio."""
    if only is not None:
        print(json.dumps(WAYS[only](Path(str(folder)), epochs)))
        return
    table = Table("way", "", "pictures/s", "times ImageDataGenerator")
    first = 0.0
    with tempfile.TemporaryDirectory() as temporary:
        source = (folder or Path(temporary)) / str(pictures)
        if not source.is_dir():
            ingest.write_folder(source, pictures)
        for way in WAYS:
            command = [sys.executable, "-m", "benchmarks.input_pipeline", "--epochs", str(epochs)]
            command += ["--folder", str(source), "--only", way]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            for row, seconds in json.loads(done.stdout.splitlines()[-1]).items():
                first = first or pictures / seconds
                table.add_row(way, row, f"{pictures / seconds:.0f}", f"{pictures / seconds / first:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
