import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import json_utils, path_utils, proto_utils

from components.model_evaluator import alignment, executor, gate, samples
from configs import schema
from modules import features, signatures
from pipeline import evaluation

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
    outputs = {"evaluation": [standard_artifacts.ModelEvaluation()], "blessing": [standard_artifacts.ModelBlessing()]}
    for name, (artifact,) in outputs.items():
        artifact.uri = str(folder / name)
    properties = {
        "eval_config": proto_utils.proto_to_json(evaluation.eval_config(config)),
        "example_splits": json_utils.dumps([features.TEST]),
        "limits": json.dumps({field.name: section[field.name] for field in dataclasses.fields(gate.Limits)}),
    }
    context = executor.Executor.Context(["--runner=FnApiRunner"], tmp_dir=str(folder / "tmp"), unique_id="1")
    executor.Executor(context).Do(inputs, outputs, properties)
    checks = gate.read(str(folder / "evaluation"))
    assert all(sample.labels == candidate.labels for sample in samples.read(str(folder / "evaluation")))
    blessed = outputs["blessing"][0].get_int_custom_property("blessed")
    assert blessed == all(check.passed for check in checks)
    assert (folder / "blessing" / ("BLESSED" if blessed else "NOT_BLESSED")).exists()
    return {check.metric: check for check in checks}


label_sets = st.lists(st.sampled_from("abcdef"), min_size=2, max_size=5, unique=True)


@hypothesis.settings(max_examples=4, deadline=None)
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


def test_without_a_baseline_nothing_is_compared(tmp_path: Path) -> None:
    candidate = Model(["a", "b"], np.array([[0.9, 0.1], [0.9, 0.1]]))
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
