"""ServingCheck on real SavedModels, each judged in processes of their own, and through TFX's launcher with its cache."""

import errno
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import tensorflow as tf
from tfx.dsl.components.common import importer
from tfx.orchestration import metadata
from tfx.orchestration import pipeline as tfx_pipeline
from tfx.types import standard_artifacts
from tfx.utils import path_utils

from components.model_evaluator import samples
from components.serving_check import executor
from components.serving_check.component import ServingCheck
from configs import schema
from modules import devices, features, signatures
from pipeline import exit_codes, failures, local_runner, node, outcome
from serving import check, fresh
from tests.conftest import random_picture

LABELS = ["dark", "light"]


class Classifier(tf.Module):
    """`dark` or `light` by the mean of the pixels, plus an offset that nobody judged."""

    def __init__(self, offset: float = 0.0):
        super().__init__()
        self.offset = tf.Variable(offset)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image")])
    def classify(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        light = tf.map_fn(_mean, image, fn_output_signature=tf.float32) + self.offset
        probabilities = tf.stack([1 - light, light], axis=1)
        names = tf.constant(LABELS)
        return {
            signatures.LABEL: tf.gather(names, tf.argmax(probabilities, axis=1)),
            signatures.SCORE: tf.reduce_max(probabilities, axis=1),
            signatures.PROBABILITIES: probabilities,
            signatures.ALL_CLASSES: tf.broadcast_to(names, tf.shape(probabilities)),
        }

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def classify_examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        parsed = tf.io.parse_example(examples, {features.IMAGE: tf.io.FixedLenFeature([], tf.string)})
        return self.classify(parsed[features.IMAGE])


def _mean(encoded: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.cast(tf.io.decode_png(encoded, channels=3), tf.float32)) / 255


def write_model(folder: Path, offset: float = 0.0, only: str | None = None) -> Path:
    """Write a SavedModel where Trainer would; returns its folder."""
    model = Classifier(offset)
    both = {signatures.SERVING_DEFAULT: model.classify, signatures.EXAMPLES: model.classify_examples}
    path = Path(path_utils.serving_model_path(str(folder)))
    tf.saved_model.save(model, str(path), {name: one for name, one in both.items() if only in {None, name}})
    return path


def write_evaluation(folder: Path) -> Path:
    """Write what an Evaluator keeps of the test pictures; returns the folder."""
    folder.mkdir()
    model = Classifier()
    with devices.full_float32(), tf.io.TFRecordWriter(str(folder / samples.SAMPLES_FILE)) as writer:
        for seed in range(3):
            picture, path = random_picture(seed), f"{seed}.png".encode()
            feature = {features.IMAGE: features.bytes_feature(picture), features.PATH: features.bytes_feature(path)}
            example = tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
            said = {key: value.numpy() for key, value in model.classify_examples(tf.constant([example])).items()}
            for _, record in samples._samples({"input": [example], "predictions": said}):
                writer.write(record)
    return folder


class Given(NamedTuple):
    """The artifacts of a model and of its evaluation."""

    model: Path
    evaluation: Path

    @property
    def saved_model(self) -> Path:
        return Path(path_utils.serving_model_path(str(self.model)))

    def judged(self) -> list[str]:
        """What is wrong with the model."""
        return executor._judge(str(self.saved_model), str(self.evaluation))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Given:
    folder = tmp_path_factory.mktemp("good")
    write_model(folder / "model")
    return Given(folder / "model", write_evaluation(folder / "evaluation"))


@pytest.fixture
def given(good: Given, tmp_path: Path) -> Given:
    """A copy that may be changed."""
    return Given(*(Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in good))


def damage_graph(given: Given) -> None:
    (given.saved_model / "saved_model.pb").write_bytes(b"no graph")


def damage_variables(given: Given) -> None:
    for path in (given.saved_model / "variables").glob("variables.data*"):
        path.write_bytes(b"")


def remove_graph(given: Given) -> None:
    (given.saved_model / "saved_model.pb").unlink()


def answer_otherwise(given: Given) -> None:
    shutil.rmtree(given.model)
    write_model(given.model, offset=0.001)


def leave_out_a_signature(given: Given) -> None:
    shutil.rmtree(given.model)
    write_model(given.model, only=signatures.SERVING_DEFAULT)


def test_a_model_that_answers_as_it_was_judged_has_nothing_wrong(good: Given) -> None:
    assert good.judged() == []


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (damage_graph, "the model can't be loaded: "),
        (damage_variables, "the model can't be loaded: "),
        (remove_graph, "the model can't be loaded: "),
        (
            answer_otherwise,
            "signature serving_default, batch of 1: probabilities differ by 0.001 from those that were judged",
        ),
        (leave_out_a_signature, "signature examples is missing; there are ['serving_default']"),
    ],
)
def test_a_broken_model_is_refused_with_what_is_wrong(damage: Callable[[Given], None], said: str, given: Given) -> None:
    damage(given)
    assert given.judged()[0].startswith(said)


def child(folder: Path, monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """Let a script stand for Python: it knows the arguments that a process of the check is started with."""
    script = folder / "python"
    script.write_text("\n".join(["#!/bin/sh", *lines]))
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))


REAL = f'exec {sys.executable} "$@"'


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["kill -KILL $$"], "ended from outside by SIGKILL"),
        (["kill -TERM $$"], "ended from outside by SIGTERM"),
        # Who is asked to load a model of ours as well can't.
        (['case "$*" in *--reference*) echo "no room" >&2; exit 1;; esac', "kill -SEGV $$"], "does not load here either"),
        (["kill -SEGV $$"], "does not load here either"),
        (['echo \'{"not_judged": "no memory"}\''], "no memory"),
        (["echo 'what():  std::bad_alloc' >&2", "kill -ABRT $$"], "had no memory left"),
        (['case "$*" in *--reference*) kill -KILL $$;; esac', "exit 1"], "ended from outside by SIGKILL"),
    ],
)
def test_a_process_that_something_else_ends_is_no_verdict(
    lines: list[str], said: str, good: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child(tmp_path, monkeypatch, *lines)
    with pytest.raises(fresh.NotJudgedError, match=said) as raised:
        good.judged()
    assert failures.exit_code(node.NodeError("ServingCheck failed")) == exit_codes.MAY_PASS
    assert failures.exit_code(raised.value) == exit_codes.MAY_PASS


def test_a_process_that_crashes_once_is_asked_again_and_its_second_answer_counts(
    good: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child(tmp_path, monkeypatch, 'case "$*" in *--reference*) ;; *) kill -SEGV $$;; esac', REAL)
    assert good.judged() == []


def test_a_model_that_crashes_its_process_again_beside_one_of_ours_is_refused(
    good: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = 'case "$*" in *--reference*) echo \'{"reference": true}\';; esac'
    child(tmp_path, monkeypatch, said, "echo 'check failed' >&2", "kill -ABRT $$")
    assert good.judged() == ["the process that loads it ended with SIGABRT: check failed"]


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (tf.errors.ResourceExhaustedError(None, None, "no memory"), fresh.NotJudgedError),
        (MemoryError(), fresh.NotJudgedError),
        (OSError(errno.EIO, "Input/output error"), fresh.NotJudgedError),
        (OSError(errno.ENOENT, "No such file"), check.BrokenError),
        (OSError("SavedModel file does not exist"), check.BrokenError),
        (tf.errors.InvalidArgumentError(None, None, "no such op"), check.BrokenError),
        (KeyError("weights"), check.BrokenError),
    ],
)
def test_what_says_something_of_the_machine_says_nothing_of_the_model(error: Exception, raised: type[Exception]) -> None:
    def work() -> None:
        raise error

    with pytest.raises(raised, match=r"^loading: "):
        check._guarded("loading", work)


def test_an_evaluation_that_can_not_be_read_is_no_fault_of_the_model(given: Given) -> None:
    (given.evaluation / samples.SAMPLES_FILE).write_bytes(b"damaged" * 10)
    with pytest.raises(fresh.NotJudgedError, match="DataLossError"):
        given.judged()


def run(given: Given, folder: Path) -> tuple[str, bool]:
    """Run the check by TFX's launcher, with a metadata store; returns how it ended and whether it blessed the model."""
    connection = metadata.sqlite_metadata_connection_config(str(folder / "metadata.db"))
    model, evaluation = (
        importer.Importer(str(path), artifact_type=kind).with_id(kind.TYPE_NAME)
        for path, kind in ((given.model, standard_artifacts.Model), (given.evaluation, standard_artifacts.ModelEvaluation))
    )
    asked = ServingCheck(model=model.outputs["result"], evaluation=evaluation.outputs["result"], code_fingerprint="1")
    pipeline = tfx_pipeline.Pipeline(
        pipeline_name="small",
        pipeline_root=str(folder / "root"),
        components=[model, evaluation, asked],
        enable_cache=True,
        metadata_connection_config=connection,
    )
    states: dict[str, str] = {}

    def note(status: local_runner.NodeStatus) -> None:
        states[status.node_id] = status.state

    run_id = local_runner.new_run_id()
    local_runner.run(pipeline, connection, note, schema.Beam(), run_id)
    blessing = outcome.read_outputs(connection, run_id)["ServingCheck", "blessing"]
    return states["ServingCheck"], bool(blessing.custom_properties["blessed"].int_value)


def test_a_timeout_fails_the_node_and_the_model_is_asked_again_and_only_an_answer_is_kept(
    good: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        # Less than TensorFlow takes to be imported.
        patched.setattr(executor, "_SECONDS", 0.2)
        with pytest.raises(
            local_runner.RunError, match=r"ServingCheck failed: NotJudgedError: no answer within 0\.2 s"
        ) as raised:
            run(good, tmp_path)
    assert not raised.value.refused
    assert failures.exit_code(raised.value) == exit_codes.MAY_PASS
    assert run(good, tmp_path) == (node.DONE, True)
    assert run(good, tmp_path) == (node.CACHED, True)


def test_a_refusal_is_an_answer_and_is_kept(given: Given, tmp_path: Path) -> None:
    answer_otherwise(given)
    assert run(given, tmp_path) == (node.DONE, False)
    assert run(given, tmp_path) == (node.CACHED, False)


def test_the_process_that_loads_the_model_sees_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert fresh.ask("tests.components.says_gpus", seconds=60).said == {"gpus": "-1"}
