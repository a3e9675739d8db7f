"""A small project on handwritten digits, with VGG16's real weights, and its first run."""

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from scripts import digits

CONFIG = """
name: small
image: {height: 32, width: 32}
augmentation: {rotation: 5, width_shift: 0.05, height_shift: 0.05, zoom: [0.95, 1.05], horizontal_flip: false}
data: {splits: {train: 6, eval: 1, test: 3}}
training:
  class_weights: balanced
  phases:
    - {name: head, epochs: 3, learning_rates: [["head/.*", 1.0e-3], [".*", null]]}
    - {name: finetune, epochs: 1, learning_rates: [["head/.*", 1.0e-4], ["block5_.*", 1.0e-5], [".*", null]]}
evaluation: {min_accuracy: 0.6, max_accuracy_drop: 0.0}
"""


class Finished(NamedTuple):
    code: int
    out: str
    err: str

    def state(self, node: str) -> str:
        """How a node ended."""
        return re.findall(rf"^{node} +(done|cached|failed) ", self.err, re.MULTILINE)[-1]


def finetune(*arguments: str) -> Finished:
    done = subprocess.run([sys.executable, "-m", "cli", *arguments], capture_output=True, text=True, check=False)
    return Finished(done.returncode, done.stdout, done.stderr)


class Project(NamedTuple):
    """A folder with pictures, a configuration and the runs on them."""

    root: Path

    @property
    def serving(self) -> Path:
        return self.root / "run" / "serving"

    def run(self, *overrides: str) -> Finished:
        return finetune("run", *self.arguments(*overrides))

    def arguments(self, *overrides: str) -> list[str]:
        """Of `finetune run`."""
        folders = ["--data", str(self.root / "digits"), "--output-dir", str(self.root / "run")]
        settings = [word for override in overrides for word in ("--set", override)]
        return ["--config", str(self.root / "small.yaml"), *folders, *settings]

    def versions(self) -> Sequence[str]:
        return sorted(path.name for path in self.serving.iterdir() if path.name.isdigit())

    def latest(self, pattern: str) -> Path:
        """The newest of the folders numbered by their execution."""
        return max((self.root / "run" / "pipeline_root").glob(pattern), key=lambda path: int(path.name))


def write_some_digits(everything: Path, target: Path) -> None:
    """Write all digits into one folder, and 80 of each of five into another, a folder a label."""
    digits.write_digits(everything)
    for label in "01234":
        (target / label).mkdir(parents=True)
        for path in sorted((everything / label).iterdir())[:80]:
            shutil.copy(path, target / label)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    root = tmp_path_factory.mktemp("project")
    write_some_digits(root / "all", root / "digits")
    # Some pictures under a wrong label: no model can be right on all of them.
    for path in sorted((root / "all" / "0").iterdir())[80:100]:
        shutil.copy(path, root / "digits" / "1")
    (root / "digits" / "2" / "broken.png").write_bytes(b"\x89PNG broken")
    (root / "small.yaml").write_text(CONFIG)
    return Project(root)


@pytest.fixture(scope="session")
def first(project: Project) -> Finished:
    """The first run of the project."""
    return project.run()
