"""What the tasks write for Kubeflow Pipelines, against what its launcher reads: strict JSON."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
import tensorflow_model_analysis as tfma
from ml_metadata.proto import metadata_store_pb2

from components.model_evaluator import gate, samples
from kubeflow import outputs
from modules import signatures
from pipeline import outcome
from tests.kubeflow import harness

LABELS = ["cat", "dog"]
ROWS = [[3, 1], [0, 4]]
CHECKS = [
    gate.Check("accuracy", 0.875, "at least 0.9 (evaluation.min_accuracy)", math.nan, False),
    gate.Check("accuracy against the baseline", 0.9, "", 0.8, True, "on 4 of 8 test pictures; left out: [owl] (new)"),
    gate.Check("recall of cat", math.nan, "at least 0.5 (evaluation.min_recall)", None, False),
    gate.Check("latency in ms", math.inf, "at most 50 (evaluation.max_latency_ms)", None, False),
    gate.Check("model size in MB", -math.inf, "", None, True),
    gate.Check("recall of owl", None, "at least 0.5 (evaluation.min_recall_of.owl)", None, False),
    gate.Check("test examples", 8, "at least 1 (evaluation.min_examples)", None, True),
]


def evaluation(folder: Path) -> metadata_store_pb2.Artifact:
    """An evaluation as the Evaluator leaves it, of two labels."""
    folder.mkdir()
    gate.write(str(folder), CHECKS)
    sample = tf.train.Example()
    sample.features.feature[samples._EXAMPLE].bytes_list.value.append(b"")
    sample.features.feature[signatures.ALL_CLASSES].bytes_list.value.extend(label.encode() for label in LABELS)
    metrics = tfma.proto.metrics_for_slice_pb2.MetricsForSlice()
    matrix = metrics.metric_keys_and_values.add(key={"name": "confusion_matrix"})
    entries = matrix.value.multi_class_confusion_matrix_at_thresholds.matrices.add(threshold=0.5).entries
    for truth, row in enumerate(ROWS):
        for prediction, count in enumerate(row):
            entries.add(actual_class_id=truth, predicted_class_id=prediction, num_weighted_examples=count)
    for name, record in ((samples.SAMPLES_FILE, sample), ("metrics-00000-of-00001.tfrecord", metrics)):
        with tf.io.TFRecordWriter(str(folder / name)) as writer:
            writer.write(record.SerializeToString())
    return metadata_store_pb2.Artifact(uri=str(folder))


def task(folder: Path) -> dict[str, Any]:
    """What Kubeflow Pipelines says to the Evaluator's task; none of the folders is there yet."""
    made = {
        key: {"artifacts": [{"name": key, "uri": str(folder / "made" / key)}]} for key in ("metrics", "confusion", "gate")
    }
    parameters = {"blessing": {"outputFile": str(folder / "parameters" / "blessing")}}
    return {
        "outputs": {"artifacts": made, "parameters": parameters, "outputFile": str(folder / "said" / "executor_output.json")}
    }


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with what an Evaluator wrote whose gate measured what no JSON can say."""
    made = {
        (outputs.EVALUATOR, "evaluation"): evaluation(tmp_path / "evaluation"),
        (outputs.EVALUATOR, "blessing"): metadata_store_pb2.Artifact(),
    }
    monkeypatch.setattr(outcome, "read_outputs", lambda connection, run_id: made)
    outputs.write(outputs.EVALUATOR, task(tmp_path), metadata_store_pb2.ConnectionConfig(), "17")
    return tmp_path


def test_metrics_that_are_no_numbers_are_left_out_and_the_rest_is_strict_json(written: Path) -> None:
    said = harness.strict_json((written / "said" / "executor_output.json").read_text())["artifacts"]
    (metrics,) = said["metrics"]["artifacts"]
    assert metrics["metadata"] == {"accuracy": 0.875, "accuracy_against_the_baseline": 0.9, "test_examples": 8}
    assert metrics["uri"] == str(written / "made" / "metrics")
    assert said.keys() == {"metrics", "confusion", "gate"}


def test_the_confusion_matrix_has_truths_as_rows(written: Path) -> None:
    said = json.loads((written / "said" / "executor_output.json").read_text())["artifacts"]
    (confusion,) = said["confusion"]["artifacts"]
    matrix = confusion["metadata"]["confusionMatrix"]
    assert [one["displayName"] for one in matrix["annotationSpecs"]] == LABELS
    assert [row["row"] for row in matrix["rows"]] == ROWS


def test_the_table_of_the_gate_shows_every_row_and_the_blessing_is_a_word(written: Path) -> None:
    table = (written / "made" / "gate").read_text()
    for check in CHECKS:
        assert check.metric in table
    assert "baseline: on 4 of 8 test pictures; left out: [owl] (new)" in table
    assert (written / "parameters" / "blessing").read_text() == "refused"


@pytest.mark.parametrize(("up_to_date", "word"), [(True, "yes"), (False, "no")])
def test_whether_anything_is_due_is_a_word(up_to_date: bool, word: str, tmp_path: Path) -> None:
    path = tmp_path / "parameters" / "up_to_date"
    outputs.write_up_to_date({"outputs": {"parameters": {"up_to_date": {"outputFile": str(path)}}}}, up_to_date)
    assert path.read_text() == word
