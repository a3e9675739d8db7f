"""Answers from the exported graph, on encoded pictures, against the Keras model on pictures that are decoded already.

A run on synthetic photographs (JPEGs of 640 x 480) exports a model of the reference size, 224 x 224, float32. Then requests
of the batch sizes 1 and 8 alternate between its signature `serving_default`, in this process, and the same architecture in
Keras, which is given float32 images. What the signature takes longer is decoding, resizing and label names.

  .venv/bin/python -m benchmarks.serving
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import ingest
from configs import reading

SIZE, PICTURES = 224, 400
BATCH_SIZES = (1, 8)


def export(folder: Path, pictures: Path) -> Path:
    """Have a run export a model after one step of training, and return the folder that it is published in."""
    settings = {
        "model.weights": "null",
        "training.phases.0.max_steps": "1",
        "training.phases.1.epochs": "0",
        "training.cache.views": "0",
        "evaluation.min_accuracy": "null",
    }
    command = [sys.executable, "-m", "cli", "run", "--data", str(pictures), "--output-dir", str(folder)]
    subprocess.run([*command, *(word for item in settings.items() for word in ("--set", "=".join(item)))], check=True)
    return folder / "serving"


def alternate(ways: dict[str, Callable[[list[bytes]], object]], batches: Iterator[list[bytes]], requests: int) -> dict:
    """Return the seconds of each request by way; the ways take turns, so that what else the machine does hits all."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for batch in itertools.islice(batches, requests):
        for way, ask in ways.items():
            started = time.perf_counter()
            ask(batch)
            seconds[way].append(time.perf_counter() - started)
    return seconds


@click.command()
@click.option("--requests", default=40, show_default=True, help="Requests of each way and batch size.")
@click.option("--model", type=click.Path(path_type=Path), help="A version of that size; else a run exports one.")
def main(requests: int, model: Path | None) -> None:
    """Print requests a second and quantiles of both ways, and what the signature adds."""
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / "pictures"
        ingest.write_folder(source, PICTURES)
        published = model or export(Path(temporary) / "run", source)
        encoded = [path.read_bytes() for path in sorted(source.rglob("*.jpg"))]
        rows = list(measure(published, encoded, requests))
    table = Table("batch", "way", "requests/s", "pictures/s", "p50 ms", "p99 ms", "overhead")
    for size, way, seconds, overhead in rows:
        middle, high = np.quantile(seconds, [0.5, 0.99]) * 1000
        rate = len(seconds) / sum(seconds)
        table.add_row(
            str(size), way, f"{rate:.2f}", f"{rate * size:.2f}", f"{middle:.0f}", f"{high:.0f}", f"{overhead:+.1%}"
        )
    Console().print(table)


def measure(published: Path, encoded: list[bytes], requests: int) -> Iterator[tuple[int, str, list[float], float]]:
    """Yield batch size, way, seconds of each request, and overhead of the median against Keras."""
    import tensorflow as tf

    from modules import model, preprocessing
    from serving import local

    exported = local.LocalModel(published)
    classes = len(exported.ask(encoded[:1]).labels)
    config = reading.load().model.model_dump(mode="json")
    classifier = model.build_model(classes, SIZE, SIZE, config, None, "float32")
    decoded = {
        content: preprocessing.decode_and_resize(tf.constant(content), SIZE, SIZE).numpy().astype(np.float32)
        for content in encoded
    }
    ways: dict[str, Callable[[list[bytes]], object]] = {
        "Keras, decoded": lambda batch: classifier.predict_on_batch(np.stack([decoded[content] for content in batch])),
        "exported, encoded": exported.ask,
    }
    for size in BATCH_SIZES:
        endless = itertools.cycle(encoded)
        batches = _batches(endless, size)
        alternate(ways, batches, 2)
        seconds = alternate(ways, batches, requests)
        first = float(np.median(seconds["Keras, decoded"]))
        for way, found in seconds.items():
            yield size, way, found, float(np.median(found)) / first - 1.0


def _batches(pictures: Iterator[bytes], size: int) -> Iterator[list[bytes]]:
    while True:
        yield list(itertools.islice(pictures, size))


if __name__ == "__main__":
    main()
