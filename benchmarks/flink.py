"""What Beam's nodes cost on a Flink of this machine, with one task manager and with two, against the same run without it.

Each run is in a process of its own and starts from nothing. A task manager and its Python keep to a core of their own, so
that two against one shows what scaling there is; the local run has all cores. The network is small and trained for a step:
only Beam's nodes are measured. A node's seconds are the pipeline's own, with planning, upload and, in the first, the look at
the workers. What a new worker needs for its imports is shown apart, and is in the seconds wherever one is started.

  .venv/bin/python -m benchmarks.flink                      # 3,000 and 20,000 pictures, about ten minutes
  .venv/bin/python -m benchmarks.flink --pictures 500
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks import ingest

NODES = ("ImageExampleGen", "StatisticsGen", "Transform", "Evaluator")
SETTINGS = (
    *("image.height=32", "image.width=32", "model.weights=null", "model.dense_units=16", "augmentation.enabled=false"),
    *("training.cache.views=0", "evaluation.min_accuracy=null", "data.max_rejected_fraction=0.5"),
    'training.phases=[{"name": "head", "epochs": 1, "max_steps": 1, "learning_rates": [["head/.*", 1.0e-3], [".*", null]]}]',
)
IMPORTS = "import components.image_example_gen.executor, components.model_evaluator.executor, modules.preprocessing"


def run(source: Path, output: Path, settings: tuple[str, ...]) -> dict[str, float]:
    """Run the pipeline and return the seconds of each node."""
    from configs import reading
    from pipeline import local_runner, node

    seconds: dict[str, float] = {}

    def note(status: local_runner.NodeStatus) -> None:
        if status.state == node.DONE:
            seconds[status.node_id] = status.seconds

    local_runner.run_locally(reading.load(None, (*SETTINGS, f"data.source={source}", *settings)), output, note)
    return seconds


@contextlib.contextmanager
def flink(task_managers: int) -> Iterator[tuple[str, ...]]:
    """Bring a Flink up, and yield the settings that have Beam's nodes run on it."""
    command = [sys.executable, "-m", "tests.flink.cluster", "--pinned", "--task-managers", str(task_managers)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = json.loads(process.stdout.readline())
            keys = ("master", "job_server_jar", "worker_pool")
            yield ("beam.runner=flink", *(f"beam.flink.{key}={found[key]}" for key in keys))
        finally:
            process.terminate()


def seconds_of_imports() -> float:
    """Return what a worker needs on one core before it can work."""
    code = f"import os; os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}}); {IMPORTS}"
    took = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, stderr=subprocess.DEVNULL)
        took.append(time.perf_counter() - started)
    return statistics.median(took)


def measure(source: Path, temporary: str, settings: tuple[str, ...]) -> dict[str, float]:
    """Run in a process of its own; return the seconds of each node."""
    with tempfile.TemporaryDirectory(dir=temporary) as output, Path(temporary, "flink.log").open("a") as log:
        command = [sys.executable, "-m", "benchmarks.flink", "--only", str(source), output, *settings]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=log, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


@click.command()
@click.option("--pictures", "counts", type=int, multiple=True, default=(3_000, 20_000), show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="Where pictures are made and kept; else a temporary folder.")
@click.option("--only", is_flag=True, hidden=True)
@click.argument("words", nargs=-1)
def main(counts: tuple[int, ...], folder: Path | None, only: bool, words: tuple[str, ...]) -> None:
    """Print the seconds of each node, and what they are in the mean over those of the local run."""
    if only:
        print(json.dumps(run(Path(words[0]), Path(words[1]), words[2:])))
        return
    console = Console()
    table = Table("pictures", "way", *NODES, "mean over local", "sum")
    with tempfile.TemporaryDirectory() as temporary:
        for count in counts:
            source = (folder or Path(temporary)) / str(count)
            if not source.is_dir():
                console.print(f"making {count} pictures …")
                ingest.write_folder(source, count)
            local = measure(source, temporary, ())
            rows = [("local", local)]
            for task_managers in (1, 2):
                with flink(task_managers) as settings:
                    rows.append(
                        (
                            f"Flink, {task_managers} task manager{'s'[: task_managers - 1]}",
                            measure(source, temporary, settings),
                        )
                    )
            for way, took in rows:
                over = statistics.mean(took[name] - local[name] for name in NODES)
                seconds = (f"{took[name]:.1f}" for name in NODES)
                table.add_row(f"{count:,}", way, *seconds, f"{over:+.1f}", f"{sum(took[name] for name in NODES):.1f}")
    console.print(table)
    console.print(f"imports of a worker, on one core: {seconds_of_imports():.1f} s")


if __name__ == "__main__":
    main()
