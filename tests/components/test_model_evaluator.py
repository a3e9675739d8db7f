import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import hypothesis
import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import tensorflow_model_analysis as tfma
from hypothesis import strategies as st
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import json_utils, path_utils, proto_utils

from components.model_evaluator import alignment, executor, extractors, gate, predictions, samples
from components.model_evaluator.component import Predictions
from configs import schema
from modules import devices, features, signatures
from pipeline import evaluation
from pipeline.beam import arguments

TOP_K = 2


class Model(NamedTuple):
    """Labels in the order of its probabilities, and those of each picture."""

    labels: list[str]
    probabilities: np.ndarray

    def ranked(self) -> np.ndarray:
        """The labels of each picture, the most probable first."""
        return np.array(self.labels)[np.argsort(-self.probabilities, axis=1)]


def write_model(model: Model, folder: Path) -> standard_artifacts.Model:
    """Write a SavedModel that takes a picture for the number of its answer."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def examples(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        parsed = tf.io.parse_example(serialized, {features.IMAGE: tf.io.FixedLenFeature([], tf.string)})
        rows = tf.gather(model.probabilities, tf.strings.to_number(parsed[features.IMAGE], tf.int32))
        names = tf.repeat(tf.constant([model.labels]), tf.shape(rows)[0], axis=0)
        return {signatures.PROBABILITIES: rows, signatures.ALL_CLASSES: names}

    artifact = standard_artifacts.Model()
    artifact.uri = str(folder)
    served = tf.Module()
    served.examples = examples
    tf.saved_model.save(served, path_utils.serving_model_path(str(folder)), signatures={signatures.EXAMPLES: examples})
    return artifact


def write_examples(truth: Sequence[str], folder: Path) -> standard_artifacts.Examples:
    artifact = standard_artifacts.Examples()
    artifact.uri, artifact.split_names = str(folder), artifact_utils.encode_split_names([features.TEST])
    (folder / "Split-test").mkdir(parents=True)
    with tf.io.TFRecordWriter(str(folder / "Split-test" / "records.gz"), "GZIP") as writer:
        for number, label in enumerate(truth):
            feature = {
                features.IMAGE: features.bytes_feature(str(number).encode()),
                features.LABEL: features.bytes_feature(label.encode()),
                features.PATH: features.bytes_feature(f"{label}/ä {number}.png".encode()),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    return artifact


def judged(folder: Path, truth: Sequence[str], candidate: Model, baseline: Model | None) -> dict[str, gate.Check]:
    """Run the Evaluator's executor; return its rows by metric."""
    bounds = {"min_top_k_accuracy": {TOP_K: 0.0}, "min_recall": 0.0, "min_accuracy": 0.0, "max_accuracy_drop": 0.0}
    config = schema.Evaluation(**bounds)
    section = config.model_dump(mode="json")
    inputs = {"examples": [write_examples(truth, folder / "examples")], "model": [write_model(candidate, folder / "new")]}
    if baseline:
        inputs["baseline_model"] = [write_model(baseline, folder / "old")]
    outputs = {
        "evaluation": [standard_artifacts.ModelEvaluation()],
        "blessing": [standard_artifacts.ModelBlessing()],
        "predictions": [Predictions()],
    }
    for name, (artifact,) in outputs.items():
        artifact.uri = str(folder / name)
    properties = {
        "eval_config": proto_utils.proto_to_json(evaluation.eval_config(config)),
        "example_splits": json_utils.dumps([features.TEST]),
        "limits": json.dumps({field.name: section[field.name] for field in dataclasses.fields(gate.Limits)}),
    }
    trains_in = devices.computes_in()
    context = executor.Executor.Context(arguments(schema.Beam()), tmp_dir=str(folder / "tmp"), unique_id="1")
    executor.Executor(context).Do(inputs, outputs, properties)
    assert devices.computes_in() == trains_in == devices.TENSOR_FLOAT32
    checks = gate.read(str(folder / "evaluation"))
    for sample in samples.read(str(folder / "evaluation")):
        assert (sample.labels, sample.computed_in) == (candidate.labels, devices.FLOAT32)
    check_predictions(list(predictions.read(str(folder / "predictions"))), truth, candidate, baseline)
    blessed = outputs["blessing"][0].get_int_custom_property("blessed")
    assert blessed == all(check.passed for check in checks)
    assert (folder / "blessing" / ("BLESSED" if blessed else "NOT_BLESSED")).exists()
    return {check.metric: check for check in checks}


def check_predictions(rows: list[dict[str, Any]], truth: Sequence[str], candidate: Model, baseline: Model | None) -> None:
    """There is a row for each picture, with what the models say of it."""
    by_path = {row["path"]: row for row in rows}
    assert len(by_path) == len(rows) == len(truth)
    for number, label in enumerate(truth):
        row, names = by_path[f"{label}/ä {number}.png"], candidate.ranked()[number]
        scores = -np.sort(-candidate.probabilities[number])
        assert (row["label"], row["answer"]) == (label, names[0])
        assert (row["best_labels"], row["best_scores"]) == (list(names[:5]), pytest.approx(scores[:5]))
        assert row["score"] == row["best_scores"][0]
        before = (baseline.ranked()[number][0], baseline.probabilities[number].max()) if baseline else (None, None)
        assert (row["baseline_answer"], row["baseline_score"]) == (before[0], before[1] and pytest.approx(before[1]))


label_sets = st.lists(st.sampled_from("abcdef"), min_size=2, max_size=5, unique=True)


@hypothesis.settings(max_examples=4)
@hypothesis.example(["a", "b", "c"], ["a", "b"], 0)  # one is new
@hypothesis.example(["b", "a"], ["a", "c", "b"], 1)  # one is gone, the others stand in another order
@hypothesis.example(["a", "b"], ["c", "d"], 2)  # all were renamed
@hypothesis.given(label_sets, label_sets, st.integers(0, 1000))
def test_models_are_compared_by_the_names_of_the_labels_that_both_know(
    tmp_path_factory: pytest.TempPathFactory, new: list[str], old: list[str], seed: int
) -> None:
    random = np.random.default_rng(seed)
    truth = np.array([*new, *random.choice(new, 12)])
    candidate, baseline = (Model(names, random.dirichlet([1.0] * len(names), len(truth))) for names in (new, old))
    rows = judged(tmp_path_factory.mktemp("evaluation"), truth, candidate, baseline)

    right = [model.ranked()[:, 0] == truth for model in (candidate, baseline)]
    in_top = [(model.ranked()[:, :TOP_K] == truth[:, None]).any(axis=1) for model in (candidate, baseline)]
    shared = np.isin(truth, old)
    whole = shared.all()
    assert rows["accuracy"].value == pytest.approx(right[0].mean())
    assert rows["top-2 accuracy"].value == pytest.approx(in_top[0].mean())
    assert rows["accuracy"].baseline == (pytest.approx(right[1].mean()) if whole else None)
    assert rows["top-2 accuracy"].baseline == (pytest.approx(in_top[1].mean()) if whole else None)
    for label in new:
        row, pictures = rows[f"recall of {label}"], truth == label
        assert row.value == pytest.approx(right[0][pictures].mean())
        assert row.baseline == (pytest.approx(right[1][pictures].mean()) if label in old else None)
    against = rows["accuracy against the baseline"]
    if not shared.any():
        assert (against.value, against.baseline, against.passed) == (None, None, True)
        assert "no comparison" in against.note
        return
    ours, theirs = right[0][shared].mean(), right[1][shared].mean()
    assert (against.value, against.baseline) == (pytest.approx(ours), pytest.approx(theirs))
    assert against.passed == (ours >= theirs - 1e-9)
    if not whole:
        top = rows["top-2 accuracy against the baseline"]
        assert (top.value, top.baseline) == tuple(pytest.approx(one[shared].mean()) for one in in_top)
    for label in set(new) ^ set(old):
        assert label in against.note.partition("left out: ")[2]


def test_without_a_baseline_nothing_is_compared_and_five_labels_are_kept_of_many(tmp_path: Path) -> None:
    names = list("abcdefg")
    candidate = Model(names, np.array([[0.4, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03]] * 2))
    rows = judged(tmp_path, ["a", "b"], candidate, None)
    assert rows["accuracy"].value == 0.5
    assert gate.comparison(list(rows.values())) is None


@hypothesis.given(st.permutations("abcd"), st.permutations("abcdef"), st.integers(0, 9))
def test_probabilities_keep_their_labels_in_another_order(labels: list[str], order: list[str], seed: int) -> None:
    rows = np.random.default_rng(seed).random((3, 4), np.float32)
    found = alignment.aligned(rows, labels, order)
    assert (found.shape, found.dtype) == ((3, 6), np.float32)
    for label, column in zip(order, found.T, strict=True):
        assert (column == (rows[:, labels.index(label)] if label in labels else 0)).all()


def test_who_predicts_elsewhere_is_told_to_do_so_in_full_float32() -> None:
    with devices.full_float32():
        tf.config.experimental.enable_tensor_float_32_execution(True)
        with beam.Pipeline(runner="FnApiRunner") as pipeline:
            _ = (
                pipeline
                | beam.Create([devices.FLOAT32])
                | beam.ParDo(extractors._InFullFloat32())
                | beam.Map(_check_computes)
            )
        assert devices.computes_in() == devices.FLOAT32


def _check_computes(expected: str) -> None:
    assert devices.computes_in() == expected


def test_no_more_rows_than_a_row_group_has_are_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "_ROWS", 3)
    paths = [f"a/{number}.png" for number in range(10)]
    examples = [
        tf.train.Example(features=tf.train.Features(feature={"path": features.bytes_feature(path.encode())}))
        for path in paths
    ]
    batch = {
        tfma.INPUT_KEY: [example.SerializeToString() for example in examples],
        tfma.PREDICTIONS_KEY: {
            signatures.PROBABILITIES: np.full((10, 1), 1.0, np.float32),
            signatures.ALL_CLASSES: np.full((10, 1), b"a", object),
        },
    }
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        _ = pipeline | beam.Create([batch]) | predictions.keeping(str(tmp_path))
    (file,) = tmp_path.iterdir()
    written = pq.ParquetFile(file).metadata
    assert [written.row_group(number).num_rows for number in range(written.num_row_groups)] == [3, 3, 3, 1]
    assert [row["path"] for row in predictions.read(str(tmp_path))] == paths
