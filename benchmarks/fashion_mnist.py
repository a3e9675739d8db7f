"""Write Fashion-MNIST as folders of PNGs, for the other benchmarks: the first training pictures, and all test pictures.

Its four files come from github.com/zalandoresearch/fashion-mnist, or with Debian's package dataset-fashion-mnist.

  .venv/bin/python -m benchmarks.fashion_mnist /usr/share/datasets/fashion-mnist .demo/fashion --train 2000
  .venv/bin/python -m benchmarks.time_to_accuracy --data .demo/fashion/train --test .demo/fashion/test --size 32
"""

from __future__ import annotations

import gzip
from pathlib import Path

import click
import numpy as np
from PIL import Image

_HEADER = {"images": 16, "labels": 8}
"""Bytes before the values, IDX's own."""


def read(source: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the pictures of a part (`train` or `t10k`), uint8 `[pictures, 28, 28]`, and their label ids."""
    images, labels = (
        np.frombuffer(
            gzip.decompress((source / f"{part}-{what}-idx{rank}-ubyte.gz").read_bytes())[_HEADER[what] :], np.uint8
        )
        for what, rank in (("images", 3), ("labels", 1))
    )
    return images.reshape(-1, 28, 28), labels


@click.command()
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("target", type=click.Path(file_okay=False, path_type=Path))
@click.option("--train", default=2000, show_default=True, help="How many of the 60,000 training pictures.")
def main(source: Path, target: Path, train: int) -> None:
    """Write SOURCE's pictures as TARGET/train/LABEL/NUMBER.png and TARGET/test/LABEL/NUMBER.png."""
    for part, split, most in (("train", "train", train), ("t10k", "test", None)):
        for number, (pixels, label) in enumerate(zip(*(found[:most] for found in read(source, part)), strict=True)):
            path = target / split / str(label) / f"{number:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


if __name__ == "__main__":
    main()
