"""`finetune predictions`, on what a run left behind."""

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import click.testing
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tfx.dsl.component.experimental.annotations import OutputArtifact
from tfx.dsl.component.experimental.decorators import component
from tfx.orchestration import metadata
from tfx.orchestration import pipeline as tfx_pipeline

from cli import main
from components.model_evaluator import predictions
from components.model_evaluator.component import Predictions
from configs import schema
from pipeline import local_runner, place

COLUMNS = ("path", "label", "answer", "score", "best_labels", "best_scores", "baseline_answer", "baseline_score")
ROWS = [
    dict(zip(COLUMNS, values, strict=True))
    for values in (
        ('a/1, "x"\u2028.png', "a", "a", 0.75, ["a", "b"], [0.75, 0.25], "b", 0.5),
        ("b/2.png", "b", "a", 0.5, ["a", "b"], [0.5, 0.5], None, None),
    )
]


@component
def Evaluator(predictions: OutputArtifact[Predictions]) -> None:
    for number, row in enumerate(ROWS):
        pq.write_table(pa.Table.from_pylist([row], predictions_schema()), f"{predictions.uri}/predictions-{number}.parquet")


def predictions_schema() -> pa.Schema:
    return predictions.SCHEMA


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder in which a run kept predictions, moved since."""
    folder = tmp_path_factory.mktemp("project") / "before"
    folder.mkdir()
    connection = metadata.sqlite_metadata_connection_config(str(folder / "metadata.db"))
    with place.inside(str(folder)):
        pipeline = tfx_pipeline.Pipeline("small", "pipeline_root", connection, [Evaluator()])
        local_runner.run(pipeline, connection, lambda status: None, schema.Beam(), "17")
    return Path(shutil.move(folder, folder.with_name("after")))


def asked(project: Path, *arguments: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(main, ["predictions", "--output-dir", str(project), *arguments])


def printed(project: Path, capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    capfd.readouterr()
    assert asked(project, *arguments).exit_code == 0
    return capfd.readouterr().out


def test_a_picture_is_a_line_of_json_off_a_terminal(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--format", "json"], ["--run", "17"]):
        found: list[dict[str, Any]] = [json.loads(line) for line in printed(project, capfd, *arguments).splitlines()]
        assert found == ROWS


def test_csv_has_a_header_and_a_column_for_each_of_the_five_best(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.DictReader(io.StringIO(printed(project, capfd, "--format", "csv"))))
    assert [row["path"] for row in rows] == [row["path"] for row in ROWS]
    first = rows[0]
    assert (first["best_label_2"], first["best_score_2"], first["best_label_3"], first["best_score_5"]) == (
        "b",
        "0.25",
        "",
        "",
    )
    assert (first["baseline_answer"], rows[1]["baseline_answer"]) == ("b", "")


def test_the_table_tells_right_from_wrong_and_only_the_wrong_can_be_asked_for(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = printed(project, capfd, "--format", "table").splitlines()
    assert lines[0] == 'right  a  answer a 0.750  b 0.250  baseline b  a/1, "x"\\u2028.png'
    assert lines[1] == "wrong  b  answer a 0.500  b 0.500  b/2.png"
    assert printed(project, capfd, "--format", "table", "--wrong").splitlines() == lines[1:]


def test_a_folder_that_has_none_is_a_line_and_exit_code_2(project: Path, tmp_path: Path) -> None:
    done = asked(tmp_path)
    assert (done.exit_code, "no metadata.db here" in done.stderr) == (2, True)
    assert list(tmp_path.iterdir()) == []
    done = asked(project, "--run", "18")
    assert (done.exit_code, "no run 18 here has predictions" in done.stderr) == (2, True)


@pytest.mark.parametrize("form", ["json", "csv", "table"])
def test_predictions_that_were_removed_by_hand_are_a_line_with_their_folder_and_exit_code_2(
    project: Path, tmp_path: Path, form: str
) -> None:
    copy = shutil.copytree(project, tmp_path / "copy")
    shutil.rmtree(copy / "pipeline_root")
    done = asked(copy, "--format", form)
    assert (done.exit_code, "Traceback" in done.stderr) == (2, False)
    assert f"{copy}/pipeline_root/Evaluator/predictions/1: the predictions" in done.stderr
