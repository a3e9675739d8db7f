import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import click
import numpy as np
import pytest
import tensorflow as tf
import yaml
from click.testing import CliRunner, Result

import cli
from cli import run
from components.data_gate import findings
from components.image_example_gen import preparation, rejects, sources
from components.model_evaluator import gate
from configs import schema
from pipeline import outcome
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


HEAVY = ("tensorflow", "tfx", "keras", "apache_beam", "ml_metadata", "PIL", "numpy")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "empty"], "empty: no pictures found"),
        (["--data", "nowhere"], "nowhere: no such file or folder"),
        (["--data", "photos", "--set", "model.dropuot=1"], "did you mean dropout?"),
        (["--data", "photos", "--set", "model.weights="], "model.weights has no value"),
        (["--data", "splits"], "look like splits"),
        (["--data", "photos/all.csv"], "no column label"),
        (["--data", "photos", "--set", "model.weights=nothing.h5"], "nothing.h5: no such file; expected imagenet, null or"),
        (["--data", "photos/{SPAN}"], "no span found"),
        (["--data", ""], "data.source = '': String should have at least 1 character"),
        (["--data", "file://"], "file:// names no file or folder"),
        (["--data", "photos", "--output-dir", "photos/runs"], "lies inside the pictures"),
        (["--data", b"caf\xe9"], "--data caf\\xe9: the name is not UTF-8"),
        (["--data", "photos", "--output-dir", b"caf\xe9"], "--output-dir caf\\xe9: the name is not UTF-8"),
        (
            ["--data", "photos", "--output-dir", "runs [1]"],
            "runs [1]: Apache Beam takes [ and ] in the name of",
        ),
        (["--data", "photos \U0001f600"], "photos \U0001f600: no such file or folder"),
    ],
)
def test_wrong_usage_is_answered_before_anything_heavy_is_imported(
    tmp_path: Path, picture_folder: Callable[..., Path], arguments: list[str | bytes], said: str
) -> None:
    picture_folder({"cat/1.png": b"x", "dog/2.png": b"x", "all.csv": b"path\n"}, "photos")
    picture_folder({"test/cat/1.png": b"x", "val/cat/2.png": b"x"}, "splits")
    (tmp_path / "empty").mkdir()
    code = (
        "import sys, cli\ntry: cli.main(['run', *sys.argv[1:]])\n"
        f"finally: print(*[name for name in {HEAVY!r} if name in sys.modules])"
    )
    output = [] if "--output-dir" in arguments else ["--output-dir", "out"]
    command = [sys.executable, "-c", code, *arguments, *output]
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == "\n"
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "splits", "empty"}
    assert not (tmp_path / "photos" / "runs").exists()


def test_the_output_may_lie_beside_the_pictures_and_beside_a_manifest(
    tmp_path: Path, picture_folder: Callable[..., Path]
) -> None:
    folder = picture_folder({"cat/1.png": b"x", "all.csv": b"path,label\ncat/1.png,cat\n"})
    (tmp_path / "way in").symlink_to(folder)
    inside = [folder, folder / "runs", tmp_path / "way in" / "a" / "b", tmp_path / "out" / ".." / "pictures" / "x"]
    assert all(sources.holds(str(folder), str(path)) for path in inside)
    outside = [tmp_path, tmp_path / "out", tmp_path / "pictures2", folder / ".." / "x"]
    assert not any(sources.holds(str(folder), str(path)) for path in outside)
    assert not sources.holds(str(folder / "all.csv"), str(folder / "runs"))


def summary_of(counts: dict[str, int], **others: Any) -> rejects.Summary:
    return rejects.Summary({("train", label): count for label, count in counts.items()}, 0, 0, (), {}, "x", **others)


def test_labels_are_printed_with_their_counts_the_longest_first_and_folded(capsys: pytest.CaptureFixture[str]) -> None:
    run._print_data(outcome.DataOutcome(summary_of({"b": 1, "猫\u200b": 30}, others={"xml": 2}), (), "f"))
    assert capsys.readouterr().out.splitlines() == [
        "pictures       31 of 2 labels: 31 train, 0 eval, 0 test",
        "               猫\\u200b      30: 30 train, 0 eval, 0 test",
        "               b              1: 1 train, 0 eval, 0 test",
        "               2 other files: 2 .xml; no pictures, passed over",
    ]
    run._print_data(outcome.DataOutcome(summary_of({f"p{number:03d}": 300 - number for number in range(200)}), (), "f"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 22
    assert [line.split()[0] for line in (lines[1], lines[10], lines[12], lines[21])] == ["p000", "p009", "p190", "p199"]
    assert lines[11].split() == ["…", "180", "more", "labels", "…"]


def test_one_is_counted_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    reject = rejects.Reject("a", "damaged", "is damaged")
    one = summary_of({"cat": 1})._replace(rejected=1, duplicates=1, first=(reject,), codes={"damaged": 1}, others={"xml": 1})
    run._print_data(outcome.DataOutcome(one, (), "f"))
    said = capsys.readouterr().out
    assert "1 of 1 label:" in said
    assert "1 copy left out" in said
    assert "1 file rejected, named in x" in said
    assert "1 other file: 1 .xml" in said


def test_many_findings_are_summed_up_with_where_all_of_them_are(capsys: pytest.CaptureFixture[str]) -> None:
    many = tuple(findings.Finding("refused", f"{n} is bad", "bad: {count} labels", str(n)) for n in range(9))
    run._print_findings(outcome.DataOutcome(summary_of({"a": 1}), many, "folder/findings.jsonl"))
    assert capsys.readouterr().out.splitlines() == [
        "refused        bad: 9 labels: 0, 1, 2, 3, 4 and 4 more",
        "               all 9 findings, a line each, are in folder/findings.jsonl",
    ]


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
    ingestion, probe = preparation.PrepareImages(settings, "", str(tmp_path), 1, 1), Probe()
    paths, expected = [], []
    for number, (make, *_) in enumerate(corpus.VALID.values()):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(make(number))
        paths.append(str(path))
        file = sources.ImageFile(path.name, str(path), "cat", "", 0, path.stat().st_size, path.stat().st_mtime_ns)
        _, record, _ = ingestion._prepare_file(file)
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
