from pathlib import Path

import pytest
from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.component.experimental.annotations import OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.orchestration import metadata
from tfx.orchestration import pipeline as tfx_pipeline
from tfx.types import standard_artifacts

from components.image_example_gen import rejects
from components.model_evaluator import gate
from configs import schema
from pipeline import local_runner, outcome, place

SUMMARY = rejects.Summary({("test", "cat"): 8}, 0, 0, (), {}, "report/rejects.jsonl")
EXAMPLES = gate.Check("test examples", 8, "at least 1 (evaluation.min_examples)", None, True)
NOTE = "on 4 of 8 test pictures; left out: owl (new)"


@pytest.mark.parametrize(
    ("checks", "baseline", "note"),
    [
        ([gate.Check("accuracy", 0.9, "", None, True, "with confidence 0.95")], None, ""),
        ([gate.Check("accuracy", 0.9, "", 0.8, True, "with confidence 0.95")], 0.8, ""),
        (
            [
                gate.Check("accuracy", 0.9, "", None, True),
                gate.Check("accuracy against the baseline", 0.7, "at least 0.6", 0.6, True, NOTE),
            ],
            0.6,
            NOTE,
        ),
        (
            [
                gate.Check("accuracy", 0.9, "", None, True),
                gate.Check("accuracy against the baseline", None, "", None, True, "no comparison"),
            ],
            None,
            "no comparison",
        ),
    ],
)
def test_the_end_of_a_run_says_what_was_compared(checks: list[gate.Check], baseline: float | None, note: str) -> None:
    found = outcome.Outcome(outcome.DataOutcome(SUMMARY, (), "findings.jsonl"), (*checks, EXAMPLES), True, (), "serving/17")
    ending = found.ending("images", "1", unchanged=False, look="")
    assert (ending.accuracy, ending.baseline_accuracy, ending.baseline_note) == (0.9, baseline, note)


@component
def ServingCheck(blessing: OutputArtifact[standard_artifacts.InfraBlessing]) -> None:
    blessing.set_int_custom_property("blessed", 1)
    (Path(blessing.uri) / "failures.json").write_text("[]")


@component
def InfraValidator(blessing: OutputArtifact[standard_artifacts.InfraBlessing], blessed: Parameter[int]) -> None:
    blessing.set_int_custom_property("blessed", blessed)


@component
def Evaluator(
    predictions: OutputArtifact[standard_artifacts.Examples], copy: OutputArtifact[standard_artifacts.Examples]
) -> None:
    for one in (predictions, copy):
        (Path(one.uri) / "rows").write_text("some")


def run_nodes(folder: Path, blessed: int, run_id: str) -> metadata_store_pb2.ConnectionConfig:
    """Run nodes whose outputs are of the same types; returns the connection of the metadata store."""
    connection = metadata.sqlite_metadata_connection_config(str(folder / "metadata.db"))
    pipeline = tfx_pipeline.Pipeline(
        pipeline_name="small",
        pipeline_root=str(folder / "root"),
        components=[ServingCheck(), InfraValidator(blessed=blessed), Evaluator()],
        enable_cache=True,
        metadata_connection_config=connection,
    )
    local_runner.run(pipeline, connection, lambda status: None, schema.Beam(), run_id)
    return connection


@pytest.mark.parametrize(
    ("blessed", "said"),
    [(1, []), (0, ["TensorFlow Serving's container does not serve it; the log of InfraValidator says why"])],
)
def test_outputs_of_one_type_are_told_apart_by_node_and_name_also_out_of_the_cache(
    blessed: int, said: list[str], tmp_path: Path
) -> None:
    for run_id in ("1", "2"):
        made = outcome.read_outputs(run_nodes(tmp_path, blessed, run_id), run_id)
        found = {key: Path(artifact.uri).parts[-3:-1] for key, artifact in made.items()}
        assert found == {
            ("ServingCheck", "blessing"): ("ServingCheck", "blessing"),
            ("InfraValidator", "blessing"): ("InfraValidator", "blessing"),
            ("Evaluator", "predictions"): ("Evaluator", "predictions"),
            ("Evaluator", "copy"): ("Evaluator", "copy"),
        }
        assert list(outcome._serving_failures(made)) == said


def test_the_predictions_are_those_of_the_run_that_is_asked_for_or_the_newest(tmp_path: Path) -> None:
    run_nodes(tmp_path, 1, "1")
    for deleted in (False, True):
        connection = outcome.read_only(tmp_path / "metadata.db")
        (folder,) = (tmp_path / "root" / "Evaluator" / "predictions").iterdir()
        expected = None if deleted else str(folder)
        assert [outcome.find_predictions(connection, run) for run in (None, "1", "2")] == [expected, expected, None]
        (folder / "rows").unlink(missing_ok=True)
        place.note_deleted(metadata.sqlite_metadata_connection_config(str(tmp_path / "metadata.db")), "small")
