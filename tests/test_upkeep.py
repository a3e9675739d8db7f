"""`finetune history` and `finetune clean`, on nights that left something behind, here and in a cluster's store."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import click.testing
import pytest
import yaml

import cli
from configs import schema
from kubeflow import folders
from pipeline import history, journal, report, retention
from tests.kubeflow import metadata_server
from tests.pipeline.nights import Nights


class Answer(NamedTuple):
    exit_code: int
    stdout: str
    stderr: str


Ask = Callable[..., Answer]


@pytest.fixture
def asked(capfd: pytest.CaptureFixture[str]) -> Ask:
    """Runs the command; what it writes past Python counts as well."""

    def ask(*arguments: str) -> Answer:
        capfd.readouterr()
        done = click.testing.CliRunner().invoke(cli.main, arguments)
        past = capfd.readouterr()
        return Answer(done.exit_code, past.out + done.stdout, past.err + done.stderr)

    return ask


@pytest.fixture
def nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nights:
    monkeypatch.chdir(tmp_path)
    found = Nights(tmp_path)
    found.run("monday")
    found.run("tuesday", rate="2")
    found.run("tuesday", rate="3", publish=False)
    found.run("broken", rate="3")
    found.run("thursday", rate="3", publish=False, ends=False)
    return found


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Nights, list[str]]]:
    """Nights of a cluster's project, and the words that name it."""
    monkeypatch.setattr(retention, "_SETTLE_SECONDS", 0.0)
    volume = tmp_path / "volume"
    (volume / "ours").mkdir(parents=True)
    monkeypatch.chdir(volume)
    config = {"name": "ours", "kubeflow": {"volume": {"claim": "finetune", "path": str(volume)}}, "keep_runs": 2}
    (tmp_path / "ours.yaml").write_text(yaml.safe_dump(config))
    with metadata_server.serving() as address:
        url = f"grpc://{address}"
        found = Nights(volume / "ours", folders.metadata_connection(url))
        found.root = "ours/pipeline_root"
        yield found, ["--config", str(tmp_path / "ours.yaml"), "--metadata", url]


def test_history_says_what_became_of_each_run_and_what_was_another(nights: Nights, asked: Ask) -> None:
    done = asked("history", "--output-dir", str(nights.folder), "--json")
    assert done.exit_code == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["verdict"] for line in lines] == ["published", "published", "refused", "failed", None]
    assert [line["data"] for line in lines] == ["monday", "tuesday", "tuesday", None, None]
    assert [line["live"] for line in lines] == [False, True, None, None, None]
    assert [line["changed"]["data"] for line in lines] == [None, True, False, None, None]
    changes = [line["changed"]["configuration"] for line in lines]
    assert changes == [None, {"training.batch_size": [1, 2]}, {"training.batch_size": [2, 3]}, {}, {}]
    assert [line["changed"]["code"] for line in lines] == [None, False, False, False, False]
    assert lines[1]["configuration"]["training"]["batch_size"] == 2
    assert "Ingest failed: ValueError: broken" in lines[3]["reason"]
    assert lines[4]["ended"] is None


def test_history_is_a_line_a_run_for_the_eye_too(nights: Nights, asked: Ask) -> None:
    done = asked("history", "--output-dir", str(nights.folder))
    header, *lines = done.stdout.splitlines()
    assert header.split() == ["begun", "verdict", "accuracy", "pictures", "version", "changed", "reason"]
    assert len(lines) == 5
    assert f"{nights.served.live} live  data, training.batch_size" in lines[1]
    assert lines[2].rstrip().endswith("not good enough")
    assert "not finished" in lines[4]
    last = asked("history", "--output-dir", str(nights.folder), "--last", "2").stdout.splitlines()
    assert last == [header, *lines[3:]] or len(last) == 3


def test_history_outlives_what_runs_made(nights: Nights, asked: Ask) -> None:
    before = asked("history", "--output-dir", str(nights.folder), "--json").stdout
    assert asked("clean", "--output-dir", str(nights.folder), "--keep-runs", "1").exit_code == 0
    assert asked("history", "--output-dir", str(nights.folder), "--json").stdout == before


def test_a_dry_run_says_just_what_would_go_and_deletes_nothing(nights: Nights, asked: Ask) -> None:
    for night in range(3):
        nights.run(f"day {night}")
    before = nights.bytes()
    words = ["clean", "--output-dir", str(nights.folder), "--keep-runs", "1"]
    dry = asked(*words, "--dry-run")
    assert dry.exit_code == 0, dry.stderr
    assert nights.bytes() == before
    for line in dry.stdout.splitlines():
        assert (nights.folder / line.split()[-1]).is_dir()
    wet = asked(*words)
    assert wet.stdout == dry.stdout
    assert "would be deleted: " in dry.stderr
    assert wet.stderr.rpartition("deleted: ")[2] == dry.stderr.rpartition("deleted: ")[2]
    assert nights.bytes() < before
    for line in wet.stdout.splitlines():
        assert not (nights.folder / line.split()[-1]).exists()
    assert asked(*words).stdout == ""


def test_without_a_configuration_what_the_newest_run_was_told_holds(nights: Nights, asked: Ask) -> None:
    for night in range(3):
        nights.run(f"day {night}")
    words = ["clean", "--output-dir", str(nights.folder), "--dry-run"]
    newest = schema.Config(name="ours", keep_runs=None, report=schema.Report(pictures=False))
    journal.note_start(nights.connection, "told null", history.start_of(newest))
    refused = asked(*words)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "keep_runs = null deletes nothing; give --keep-runs N" in refused.stderr
    journal.note_start(nights.connection, "told 2", history.start_of(newest.model_copy(update={"keep_runs": 2})))
    done = asked(*words)
    assert done.exit_code == 0, done.stderr
    assert done.stdout != ""
    earlier = next(iter(journal.read_starts(nights.connection, "ours")))
    assert not report.may_show_pictures(nights.connection, "ours", earlier)
    journal.note_start(nights.connection, "shown again", history.start_of(schema.Config(name="ours")))
    assert report.may_show_pictures(nights.connection, "ours", earlier)
    assert not report.may_show_pictures(nights.connection, "ours", "told 2")


def test_under_a_run_nothing_is_deleted_and_the_line_says_why(nights: Nights, asked: Ask) -> None:
    before = nights.bytes()
    with (nights.folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = asked("clean", "--output-dir", str(nights.folder), "--keep-runs", "1")
        assert asked("history", "--output-dir", str(nights.folder)).exit_code == 0
    assert done.exit_code == 1
    assert "another run is using this folder; it cleans up itself when it ends" in done.stderr
    assert nights.bytes() == before


@pytest.mark.parametrize("command", ["history", "clean"])
def test_a_folder_that_is_none_of_runs_and_no_folder_at_all(tmp_path: Path, asked: Ask, command: str) -> None:
    done = asked(command, "--output-dir", str(tmp_path))
    assert done.exit_code == 2
    assert f"{tmp_path}: no runs here; expected the --output-dir of one" in done.stderr
    assert not list(tmp_path.iterdir())
    assert asked(command, "--output-dir", str(tmp_path / "none")).exit_code == 2
    done = asked(command)
    assert done.exit_code == 2
    assert "--output-dir FOLDER, or --config FILE" in done.stderr


def test_a_configuration_of_another_pipeline_is_refused(nights: Nights, asked: Ask, tmp_path: Path) -> None:
    (tmp_path / "theirs.yaml").write_text("name: theirs\n")
    before = nights.bytes()
    done = asked("clean", "--output-dir", str(nights.folder), "--config", str(tmp_path / "theirs.yaml"))
    assert done.exit_code == 2
    assert "belongs to the pipeline ours" in done.stderr
    assert nights.bytes() == before


def test_both_work_on_the_store_of_a_cluster(there: tuple[Nights, list[str]], asked: Ask) -> None:
    nights, words = there
    for night in range(5):
        nights.run(f"day {night}")
    lines = [json.loads(line) for line in asked("history", *words, "--json").stdout.splitlines()]
    assert [line["data"] for line in lines] == [f"day {night}" for night in range(5)]
    assert [line["live"] for line in lines] == [False] * 4 + [True]
    done = asked("clean", *words)
    assert done.exit_code == 0, done.stderr
    assert len([*Path("ours/pipeline_root/Ingest/examples").iterdir()]) == 2
    assert asked("clean", *words).stdout == ""


def test_in_a_cluster_without_the_volume_nothing_is_deleted(
    there: tuple[Nights, list[str]], asked: Ask, tmp_path: Path
) -> None:
    nights, words = there
    nights.run("day 0")
    os.rename(tmp_path / "volume", tmp_path / "elsewhere")
    done = asked("clean", *words)
    assert done.exit_code == 2
    assert "is not here: run this where the volume is mounted" in done.stderr
    assert asked("history", *words).exit_code == 0


def test_a_store_that_does_not_answer_is_a_line(
    there: tuple[Nights, list[str]], asked: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, words = there
    monkeypatch.setattr(folders, "_CALL_SECONDS", 1.0)
    done = asked("history", *words[:2], "--metadata", "grpc://localhost:1")
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1, done.stderr
