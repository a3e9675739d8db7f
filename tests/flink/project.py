"""The pipeline that is run on both: its settings, its commands, and what it makes, in a form that can be compared."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.flink import binaries
from tests.flink.cluster import Cluster

CONFIG = """
name: colours
image: {height: 32, width: 32}
data:
  group: '(?P<group>series[0-9]+|[^/]+$)'
  near_copies: same_split
  unreadable: allow
  max_rejected_fraction: 0.5
model: {weights: null, dense_units: 16}
augmentation: {enabled: false}
training:
  cache: {views: 0}
  phases:
    - {name: head, epochs: 2, max_steps: 24, learning_rates: [["head/.*", 3.0e-3], [".*", null]]}
evaluation: {min_accuracy: null}
"""


def on(cluster: Cluster) -> list[str]:
    """Return the settings that have Beam's nodes run on a cluster."""
    return [
        "beam.runner=flink",
        f"beam.flink.master={cluster.master}",
        f"beam.flink.job_server_jar={cluster.job_server}",
        f"beam.flink.worker_pool={cluster.worker_pool}",
    ]


class Project:
    """Pictures, a configuration, and an output folder for each run.

    Args:
      folder: for all of it.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.pictures = folder / "pictures"
        (folder / "config.yaml").write_text(CONFIG)
        self._tmp = folder / "tmp"
        self._tmp.mkdir(exist_ok=True)
        self._started: list[subprocess.Popen[str]] = []

    def start(self, output: str, *command: str, settings: Sequence[str] = ()) -> subprocess.Popen[str]:
        """Start `finetune`, in a group of its own as in a terminal.

        Args:
          output: name of the output folder.
          command: `run`, or `data check`.
          settings: further ones, `KEY=VALUE`.
        """
        words = [sys.executable, "-m", "cli", *command, "--config", str(self.folder / "config.yaml")]
        words += ["--data", str(self.pictures), "--output-dir", str(self.folder / output)]
        words += [word for setting in settings for word in ("--set", setting)]
        with self._said(output).open("ab") as said:
            process = subprocess.Popen(
                words,
                stdout=said,
                stderr=said,
                text=True,
                env={**os.environ, "TMPDIR": str(self._tmp), "PYTHONPATH": str(binaries.ROOT)},
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def said(self, output: str) -> str:
        """Return what the commands with an output folder printed."""
        return self._said(output).read_text(errors="replace")

    def root(self, output: str) -> Path:
        """Return the folder of the artifacts in an output folder."""
        return self.folder / output / "pipeline_root"

    def stop(self) -> None:
        """End all commands that still run."""
        for process in self._started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _said(self, output: str) -> Path:
        return self.folder / f"{output}.txt"
