import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import click
import numpy as np
import pytest
import tensorflow as tf
import yaml
from click.testing import CliRunner, Result

import cli
from cli import run
from components.image_example_gen import preparation, sources
from components.model_evaluator import gate
from configs import schema
from serving import client, pictures
from tests import corpus
from tests.conftest import random_picture


def finetune(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, arguments)


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command that does something."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


@pytest.mark.parametrize("command", [(), *commands(cli.main)], ids=" ".join)
def test_every_command_explains_itself_with_examples_that_can_be_copied(command: tuple[str, ...]) -> None:
    result = finetune(*command, "--help")
    assert result.exit_code == 0
    _, examples = re.split(r"^  Examples?:$", result.output.split("Options:")[0], flags=re.MULTILINE)
    lines = examples.strip("\n").splitlines()
    assert all(line.startswith(f"    {' '.join(('finetune', *command))}") for line in lines if line), lines


def test_help_imports_no_heavy_library() -> None:
    code = "import sys, cli; cli.main(['--help'], standalone_mode=False); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.splitlines()[-1]
    assert "'click'" in loaded
    assert not any(f"'{name}'" in loaded for name in ("tensorflow", "tfx", "keras", "apache_beam", "pydantic"))


def test_the_effective_configuration_is_shown() -> None:
    result = finetune("config", "show", "--set", "training.batch_size=16")
    assert result.exit_code == 0
    assert schema.Config.model_validate(yaml.safe_load(result.stdout)).training.batch_size == 16


def test_the_json_schema_describes_every_key() -> None:
    described = json.loads(finetune("config", "schema").stdout)
    assert set(described["properties"]) == set(schema.Config.model_fields)
    assert "degrees" in described["$defs"]["Augmentation"]["properties"]["rotation"]["description"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "nowhere"], "/nowhere: no such file or folder"),
        ([], "give --data SOURCE"),
        (["--data", "x", "--set", "model.dropuot=1"], "did you mean dropout?"),
        (["--config", "nothing.yaml"], "nothing.yaml: No such file"),
        (
            ["--data", "x", "--set", "model.weights=nothing.h5"],
            "nothing.h5: no such file; expected imagenet, null or the path",
        ),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(tmp_path: Path, arguments: list[str], said: str) -> None:
    output = tmp_path / "run"
    result = finetune("run", "--output-dir", str(output), *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not output.exists()


def test_a_folder_with_one_class_is_refused(tmp_path: Path, picture_folder: Callable[..., Path]) -> None:
    folder = picture_folder({"cat/1.png": b"x"})
    result = finetune("run", "--data", str(folder), "--output-dir", str(tmp_path / "run"))
    assert result.exit_code == 2
    assert result.stderr == f"Error: {folder}: only one class, cat; a classifier needs pictures of at least two\n"


def test_predict_without_a_model_is_wrong_usage(tmp_path: Path) -> None:
    result = finetune("predict", "--model", str(tmp_path), "x.png")
    assert result.exit_code == 2
    assert "no SavedModel here" in result.stderr


class Probe:
    """Stands where a model would, and keeps the pictures that it is given."""

    preparation: ClassVar[dict] = {"background": [0, 128, 255], "max_pixels": 1000}

    def __init__(self) -> None:
        self.given: list[bytes] = []

    def ask(self, values: Sequence[bytes], signature: str = "") -> client.Answer:
        self.given += values
        return client.Answer(np.ones((len(values), 1), np.float32), ["cat"])


def test_predict_prepares_every_kind_of_file_as_ingestion_does(tmp_path: Path) -> None:
    settings = preparation.Settings((0, 128, 255), 1000, "image", "label", "")
    ingestion, probe = preparation.PrepareImages(settings, str(tmp_path), 1), Probe()
    paths, expected = [], []
    for number, (make, *_) in enumerate(corpus.VALID.values()):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(make(number))
        paths.append(str(path))
        file = sources.ImageFile(path.name, str(path), "cat", "", 0, path.stat().st_size, 0)
        _, record = ingestion._prepare_file(file)
        expected += tf.train.Example.FromString(record).features.feature["image"].bytes_list.value
    answers = list(pictures.answers(probe, paths, probe.preparation, 1, 32, 1))
    assert [answer["label"] for answer in answers] == ["cat"] * len(corpus.VALID)
    assert probe.given == expected


def test_predict_refuses_every_bad_file_with_its_reason_and_answers_the_others(tmp_path: Path) -> None:
    for number, (content, _) in enumerate(corpus.BAD.values()):
        (tmp_path / f"{number}.jpg").write_bytes(content)
    (tmp_path / "good.png").write_bytes(random_picture(1))
    paths = sorted(str(path) for path in tmp_path.iterdir())
    answers = list(pictures.answers(Probe(), paths, {}, 1, 32, 1))
    assert [answer["file"] for answer in answers if "error" not in answer] == [str(tmp_path / "good.png")]
    assert len(answers) == len(corpus.BAD) + 1


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (None, "none: no other model was live"),
        ((0.9, 0.8, ""), "0.8000 (the model that was live, on the same pictures)"),
        ((0.7, 0.6, "on 4 of 8"), "0.6000 (the model that was live; this one 0.7000; on 4 of 8)"),
        ((None, None, "no comparison: …"), "no comparison: …"),
    ],
)
def test_a_run_says_what_its_model_was_compared_with(row: tuple | None, said: str) -> None:
    compared = row and gate.Check("accuracy against the baseline", row[0], "", row[1], True, row[2])
    assert run._baseline(compared) == said
