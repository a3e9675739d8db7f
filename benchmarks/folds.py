"""What cross-validation says of few pictures, and how many labels that were swapped it finds.

Each run is a whole one in a process of its own: as the pictures are, and with some labels swapped at random for another one.
Beside the accuracy over the folds stands what the test split alone says, each with its 95 % interval; beside the seconds of
cross-validation those of Trainer, which comes after it and finds its features. As many suspects are looked at as labels were
swapped in train and eval: precision and recall are then the same number, unless fewer are suspected.

  .venv/bin/python -m scripts.digits .demo/digits
  .venv/bin/python -m benchmarks.folds --data .demo/digits --size 48 --set augmentation.horizontal_flip=false
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table


def copy(data: Path, target: Path, per_class: int | None, swapped: float, seed: int) -> set[str]:
    """Link some pictures of a folder of classes into another, a part of them under another label; return those paths."""
    random = np.random.default_rng(seed)
    classes = sorted(path.name for path in data.iterdir() if path.is_dir())
    pictures = [path for name in classes for path in sorted((data / name).iterdir())[:per_class]]
    chosen = set(random.choice(len(pictures), round(swapped * len(pictures)), replace=False).tolist())
    wrong = set()
    for number, path in enumerate(pictures):
        own = classes.index(path.parent.name)
        label = classes[(own + random.integers(1, len(classes))) % len(classes)] if number in chosen else classes[own]
        name = f"{label}/{path.parent.name}-{path.name}"
        (target / label).mkdir(parents=True, exist_ok=True)
        os.link(path, target / name)
        if number in chosen:
            wrong.add(name)
    return wrong


def run(source: Path, output: Path, settings: tuple[str, ...]) -> dict[str, Any]:
    """Run the pipeline with folds, and return what it found."""
    from components.model_evaluator import gate
    from configs import reading
    from pipeline import local_runner, node

    seconds = {}

    def note(status: local_runner.NodeStatus) -> None:
        print(status, file=sys.stderr)
        if status.state == node.DONE:
            seconds[status.node_id] = status.seconds

    local_runner.run_locally(reading.load(None, (*settings, f"data.source={source}")), output, note)
    root = output / "pipeline_root"
    (found,) = root.glob("CrossValidator/cross_validation/*/scores.json")
    (evaluation,) = root.glob("Evaluator/evaluation/*")
    (accuracy,) = (check for check in gate.read(str(evaluation)) if check.metric == gate.ACCURACY)
    return {
        "scores": json.loads(found.read_text()),
        "folder": str(found.parent),
        "test": [accuracy.value, accuracy.pictures],
        "seconds": seconds,
    }


@click.command()
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--size", default=64, show_default=True, help="Height and width in pixels.")
@click.option("--per-class", type=int, help="So many pictures of each class; else all.")
@click.option("--folds", default=5, show_default=True)
@click.option("--swapped", default=0.05, show_default=True, help="Share of labels that are swapped in the second run.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Of the configuration.")
@click.option("--only", is_flag=True, hidden=True)
@click.option("--output", type=click.Path(path_type=Path), hidden=True)
def main(
    data: Path,
    size: int,
    per_class: int | None,
    folds: int,
    swapped: float,
    settings: tuple[str, ...],
    only: bool,
    output: Path | None,
) -> None:
    """Print what is found, as the labels are and with some swapped."""
    if only:
        assert output is not None
        print(json.dumps(run(data, output, settings)))
        return
    import pyarrow.parquet

    from components.cross_validator import executor, suspects
    from components.model_evaluator import gate

    bounds = ("evaluation.min_accuracy=null", "evaluation.min_examples=1", "data.min_images_per_class=1")
    settings = (f"image.height={size}", f"image.width={size}", f"evaluation.folds={folds}", *bounds, *settings)
    columns = ("over the folds", "on the test split", "suspects", "swapped", "found", "cross-validation, s", "Trainer, s")
    table = Table("labels", *columns)

    def shown(accuracy: float, pictures: int) -> str:
        low, high = gate.interval(accuracy, pictures, 0.95)
        return f"{accuracy:.4f} ({low:.3f} to {high:.3f}) on {pictures:,}"

    with tempfile.TemporaryDirectory(dir=data.parent) as temporary:  # on one file system, to link
        for name, share in (("as they are", 0.0), (f"{swapped:.0%} swapped", swapped)):
            source, made = Path(temporary, f"data{share}"), Path(temporary, f"run{share}")
            wrong = copy(data, source, per_class, share, seed=1)
            command = [sys.executable, "-m", "benchmarks.folds", "--only", "--data", str(source), "--output", str(made)]
            command += [word for setting in settings for word in ("--set", setting)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            answers = pyarrow.parquet.read_table(Path(found["folder"], executor.ANSWERS_FILE))
            wrong &= set(answers["path"].to_pylist())
            suspected = [one.path for one in suspects.read(found["folder"])]
            first = suspected[: len(wrong)]
            hits = len(wrong.intersection(first))
            scores = found["scores"]
            table.add_row(
                name,
                shown(scores["right"] / scores["pictures"], scores["pictures"]),
                shown(*found["test"]),
                str(len(suspected)),
                str(len(wrong)),
                f"{hits} ({hits / len(wrong):.0%})" if wrong else "-",
                f"{found['seconds']['CrossValidator']:.0f}",
                f"{found['seconds']['Trainer']:.0f}",
            )
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
