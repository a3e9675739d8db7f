"""The life of a project: what changes between its runs, and what is live, compared and told after each."""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import lxml.html
import numpy as np
import PIL.Image

from serving import versions
from tests.e2e.conftest import Finished, finetune

CONFIG = """
name: life
image: {height: 32, width: 32}
model: {weights: null, dense_units: 8}
data: {max_label_drift: null}
training:
  batch_size: 16
  cache: {views: 1}
  phases:
    - {name: head, epochs: 3, learning_rates: [["head/.*", 1.0e-2], [".*", null]]}
evaluation: {min_accuracy: 0.0, max_accuracy_drop: 1.0, min_examples: 1}
report: {pictures: false}
"""


def draw(folder: Path, labels: tuple[str, ...], count: int = 40) -> None:
    """Pictures of noise, with a colour that tells the labels apart; those that are there stay as they are."""
    for index, label in enumerate(labels):
        (folder / label).mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(index)
        for number in range(count):
            pixels = random.integers(0, 80, (32, 32, 3))
            pixels[..., index % 3] += 150
            if not (path := folder / label / f"{number}.png").exists():
                PIL.Image.fromarray(pixels.astype(np.uint8)).save(path)


class Life:
    """A project's folder, which may move."""

    def __init__(self, root: Path):
        self.root, self.folder = root, root / "out"
        (root / "life.yaml").write_text(CONFIG)
        draw(root / "photos", ("cat", "dog"))

    def arguments(self, *overrides: str) -> list[str]:
        settings = [word for override in overrides for word in ("--set", override)]
        places = ["--data", str(self.root / "photos"), "--output-dir", str(self.folder)]
        return ["run", "--config", str(self.root / "life.yaml"), *places, *settings]

    def run(self, *overrides: str) -> Finished:
        return finetune(*self.arguments(*overrides))

    @property
    def verdict(self) -> str:
        """The first sentence of the page of the last run."""
        found = lxml.html.document_fromstring((self.folder / "report.html").read_bytes().decode())
        assert "could not be made" not in found.text_content()
        return " ".join(found.get_element_by_id("verdict").text_content().split())

    @property
    def store(self) -> versions.Versions:
        return versions.Versions(str(self.folder / "serving"))


def test_the_life_of_a_project(tmp_path: Path) -> None:  # noqa: PLR0915 one life, year by year
    life = Life(tmp_path)

    first = life.run()
    assert first.code == 0, first.err
    assert "baseline       none" in first.out
    born = life.store.live
    assert life.verdict.startswith(f"Version {born} is published and live: accuracy ")

    # A class is added, and allowed.
    draw(life.root / "photos", ("cat", "dog", "bird"))
    grown = life.run("data.new_labels=allow")
    assert grown.code == 0, grown.err
    assert re.search(r"^baseline +\d", grown.out, re.MULTILINE)
    assert life.store.live > born

    # One is renamed.
    (life.root / "photos" / "dog").rename(life.root / "photos" / "hound")
    refused = life.run()
    assert refused.code == 1
    assert "hound" in refused.err
    before = life.store.live
    assert life.verdict.startswith("Nothing was published: the data are refused")
    assert "hound" in life.verdict
    assert life.verdict.endswith(f"Version {before} stays live.")
    renamed = life.run("data.new_labels=allow", "data.missing_labels=allow")
    assert renamed.code == 0, renamed.err
    assert life.store.live > before

    # And one removed.
    shutil.rmtree(life.root / "photos" / "bird")
    removed = life.run("data.missing_labels=allow")
    assert removed.code == 0, removed.err
    assert re.search(r"^baseline +\d", removed.out, re.MULTILINE)
    kept = life.store.live

    # A model that learns nothing is refused, and what was live stays so.
    worse = life.run("evaluation.max_accuracy_drop=0", 'training.phases.0.learning_rates=[["head/.*",1.0e-9],[".*",null]]')
    assert worse.code == 1, worse.out
    assert "evaluation.max_accuracy_drop" in worse.out
    assert life.store.live == kept
    assert life.verdict.startswith("Nothing was published: ")
    assert "evaluation.max_accuracy_drop" in life.verdict

    # The way back draws no findings: what was refused is nothing to compare with.
    back = life.run()
    assert back.code == 0, back.err
    assert life.store.live == kept
    assert life.verdict.startswith(f"Version {kept} is published as it was and live: ")
    assert finetune("report", "--output-dir", str(life.folder), "--output", str(life.root / "again.html")).code == 0
    assert f"Version {kept} is published as it was and live: " in (life.root / "again.html").read_text()

    # Killed in the middle, it goes on, and publishes.
    command = [sys.executable, "-m", "cli", *life.arguments("training.seed=2")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "epoch 2/3" in line:
                process.send_signal(signal.SIGKILL)
    revived = life.run("training.seed=2")
    assert revived.code == 0, revived.err
    assert "training goes on where it was interrupted" in revived.err
    reborn = life.store.live
    assert reborn > kept

    # The folder moves: everything is found, and the server is told of the new place. A copy is a project of its own.
    shutil.copytree(life.folder, life.root / "copy")
    life.folder = life.folder.rename(life.root / "moved")
    moved = life.run("training.seed=2")
    assert moved.code == 0, moved.err
    assert moved.state("Trainer") == moved.state("Evaluator") == "cached"
    assert life.store.live == reborn
    assert str(life.folder / "serving") in (life.folder / "serving" / versions.CONFIG_FILE).read_text()
    life.folder, original = life.root / "copy", life.folder
    hidden = original.rename(life.root / "hidden")
    copied = life.run("training.seed=2")
    assert copied.code == 0, copied.err
    assert copied.state("Trainer") == "cached"
    life.folder = hidden.rename(original)

    # Rolled back, it stays so.
    assert finetune("models", "rollback", "--serving-dir", str(life.folder / "serving")).code == 0
    again = life.run("training.seed=2")
    assert again.code == 1
    assert life.store.live == kept

    # All artifacts and the metadata are deleted: the new model is compared with what is served.
    shutil.rmtree(life.folder / "pipeline_root")
    (life.folder / "metadata.db").unlink()
    anew = life.run("training.seed=3")
    assert anew.code == 0, anew.err
    assert f"compared with version {kept}, which is served" in anew.err
    assert re.search(r"^baseline +\d", anew.out, re.MULTILINE)
    assert life.store.live > reborn

    # Another pipeline does not get the folder.
    other = life.run("name=other")
    assert other.code == 2
    assert "belongs to the pipeline life" in other.err
    assert life.store.name == "life"


def test_of_runs_that_are_over_only_what_is_needed_stays_and_their_history_does(tmp_path: Path) -> None:
    life = Life(tmp_path)

    def copies() -> int:
        return len([*(life.folder / "pipeline_root" / "ImageExampleGen" / "examples").iterdir()])

    worse = ["evaluation.max_accuracy_drop=0", 'training.phases.0.learning_rates=[["head/.*",1.0e-9],[".*",null]]']
    assert life.run("keep_runs=1").code == 0
    draw(life.root / "photos", ("cat", "dog"), count=44)
    grown = life.run("keep_runs=1")
    assert grown.code == 0, grown.err
    assert "that nothing needs any more (keep_runs = 1)" in grown.err
    assert copies() == 1
    live = life.store.live
    draw(life.root / "photos", ("cat", "dog"), count=46)
    assert life.run("keep_runs=1", *worse).code == 1
    assert copies() == 2  # the live model's, and those of the last run
    assert finetune("clean", "--output-dir", str(life.folder), "--keep-runs", "1").out == ""

    # The pictures are those again that the live model has learnt from.
    for number in range(44, 46):
        for label in ("cat", "dog"):
            (life.root / "photos" / label / f"{number}.png").unlink()
    back = life.run("keep_runs=1")
    assert back.code == 0, back.err
    assert {back.state(node) for node in ("ImageExampleGen", "Trainer", "Evaluator")} == {"cached"}
    assert life.store.live == live
    assert copies() == 1

    told = finetune("history", "--output-dir", str(life.folder), "--json")
    assert told.code == 0, told.err
    lines = [json.loads(line) for line in told.out.splitlines()]
    assert [line["verdict"] for line in lines] == ["published", "published", "refused", "up to date"]
    assert [line["pictures"] for line in lines] == [80, 88, 92, 88]
    assert [line["live"] for line in lines] == [False, True, None, True]
    assert [line["changed"]["data"] for line in lines] == [None, True, True, True]
    assert [*lines[2]["changed"]["configuration"]] == [
        "evaluation.max_accuracy_drop",
        "training.phases.0.learning_rates",
    ]
    assert "evaluation.max_accuracy_drop" in lines[2]["reason"]
    assert all(line["accuracy"] is not None and line["code"] and line["revision"] for line in lines)


def test_metadata_that_can_not_be_read_are_named_with_what_to_do(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.folder.mkdir()
    (life.folder / "metadata.db").write_bytes(b"garbage" * 100)
    done = life.run()
    assert done.code == 2
    assert "metadata.db can't be read" in done.err
    assert "move it away" in done.err


def test_a_folder_whose_metadata_are_gone_is_its_own_by_the_name_that_is_served(tmp_path: Path) -> None:
    life = Life(tmp_path)
    serving = life.folder / "serving"
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "saved_model.pb").write_bytes(b"graph")
    versions.Versions(str(serving)).publish(str(tmp_path / "exported"), lambda folder, number: None, "animals")
    theirs = life.run()
    assert theirs.code == 2
    assert "belongs to the pipeline animals" in theirs.err
    # The model may be served under another name than the pipeline's.
    ours = life.run("serving.model_name=animals", "data.min_images_per_class=1000")
    assert "belongs to" not in ours.err
    assert "the data are refused" in ours.err
