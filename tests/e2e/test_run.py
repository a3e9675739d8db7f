"""Whole runs of the command, on handwritten digits with VGG16's real weights: trained, judged and published for real."""

import functools
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_analysis as tfma
import tensorflow_transform as tft

from components.cross_validator import suspects
from components.model_evaluator import gate
from modules import dataset, features, signatures
from serving import versions
from tests import web
from tests.e2e.conftest import Finished, Project, finetune

INGESTION = ("ImageExampleGen", "StatisticsGen", "SchemaGen", "ExampleValidator", "Transform")


def test_the_first_run_trains_and_pushes_a_model(project: Project, first: Finished) -> None:
    assert first.code == 0, first.err
    accuracy = float(re.findall(r"test accuracy +([\d.]+)", first.out)[0])
    assert 0.6 <= accuracy < 1.0
    assert "none: no other model was live" in first.out
    assert re.search(r"gate +blessed", first.out)
    (version,) = project.versions()
    assert re.findall(r"^model +(\S+)", first.out, re.MULTILINE) == [str(project.serving / version)]
    for node in (*INGESTION, "Trainer", "Resolver", "Evaluator", "Pusher"):
        assert first.state(node) == "done"
    assert "2/broken.png" in first.err
    assert "head epoch 3/3" in first.err
    assert "Traceback" not in first.err
    assert list((project.root / "run" / "logs").iterdir())
    assert list(project.latest("Trainer/model_run/*").rglob("events.out.tfevents.*"))


def test_folds_are_a_bound_of_the_gate_and_name_the_labels_that_are_wrong(project: Project, first: Finished) -> None:
    folds = ("evaluation.folds=2", "evaluation.min_fold_accuracy=0.995")
    refused = project.run(*folds)
    assert refused.code == 1, refused.err
    (line,) = re.findall(r"^refused +(accuracy over 2 folds .*)$", refused.out, re.MULTILINE)
    assert re.fullmatch(r"accuracy over 2 folds 0\.\d+ on 2\d\d pictures \(95 %: .*\), asked for: at least 0\.995 .*", line)
    assert [refused.state(node) for node in ("Transform", "CrossValidator", "Trainer")] == ["cached", "done", "cached"]
    (path,) = re.findall(r"^suspects +\d+ labels may be wrong: (\S+)$", refused.out, re.MULTILINE)
    found = suspects.read(str(Path(path).parent))
    # Twenty zeros lie under 1, of which some are in test.
    assert sum((one.label, one.suggested_label) == ("1", "0") for one in found[:12]) >= 6
    again = project.run(*folds)
    assert again.state("CrossValidator") == "cached"


def test_statistics_never_saw_the_bytes_of_a_picture(project: Project, first: Finished) -> None:
    (statistics,) = project.latest("StatisticsGen/statistics/*").glob("Split-train/*")
    content = statistics.read_bytes()
    assert b"height" in content
    assert b"PNG\r\n" not in content


def test_the_evaluation_holds_every_class_and_the_confusion_matrix(project: Project, first: Finished) -> None:
    by_slice = {
        tuple(key.bytes_value for key in metrics.slice_key.single_slice_keys): {
            item.key.name: item.value
            for item in metrics.metric_keys_and_values
            if item.key.model_name in {"", tfma.CANDIDATE_KEY} and not item.key.is_diff
        }
        for metrics in tfma.load_metrics(str(project.latest("Evaluator/evaluation/*")))
    }
    assert by_slice.keys() == {(), (b"0",), (b"1",), (b"2",), (b"3",), (b"4",)}
    for values in by_slice.values():
        assert {"accuracy", "cross_entropy", "confusion_matrix", "example_count"} <= values.keys()
    overall = by_slice[()]
    (matrix,) = overall["confusion_matrix"].multi_class_confusion_matrix_at_thresholds.matrices
    right = sum(entry.num_weighted_examples for entry in matrix.entries if entry.actual_class_id == entry.predicted_class_id)
    count = overall["example_count"].double_value.value
    assert sum(entry.num_weighted_examples for entry in matrix.entries) == count > 100
    assert right / count == pytest.approx(overall["accuracy"].double_value.value)


def test_what_was_said_of_each_test_picture_is_what_the_gate_judged(project: Project, first: Finished) -> None:
    rows = [json.loads(line) for line in finetune("predictions", "--output-dir", str(project.root / "run")).out.splitlines()]
    checks = {check.metric: check for check in gate.read(str(project.latest("Evaluator/evaluation/*")))}
    assert len({row["path"] for row in rows}) == len(rows) == checks["test examples"].value
    assert all((project.root / "digits" / row["path"]).is_file() for row in rows)
    right = sum(row["answer"] == row["label"] for row in rows)
    assert right / len(rows) == pytest.approx(checks["accuracy"].value)
    assert all(row["label"] in row["path"] and sum(row["best_scores"]) == pytest.approx(1, abs=1e-3) for row in rows)


def test_a_second_run_finds_everything_done(project: Project, first: Finished) -> None:
    again = project.run()
    assert again.code == 0
    assert again.out == first.out
    for node in (*INGESTION, "Trainer", "Evaluator", "ServingCheck"):
        assert again.state(node) == "cached"
    assert len(project.versions()) == 1


# What sets a bound, the key that its line names, and the threshold, which for a change follows from the baseline.
BOUNDS = [
    ("min_accuracy=0.9999", "min_accuracy", "0.9999"),
    ("max_accuracy_drop=0", "max_accuracy_drop", None),
    ("max_accuracy_drop_relative=0", "max_accuracy_drop_relative", None),
    ("min_recall=0.9999", "min_recall", "0.9999"),
    ("min_recall_of={'1': 0.999}", "min_recall_of.1", "0.999"),
    ("min_top_k_accuracy={2: 0.9999}", "min_top_k_accuracy.2", "0.9999"),
    ("min_examples=100000", "min_examples", "100000"),
    ("max_model_megabytes=1", "max_model_megabytes", "1"),
]


def test_whoever_wants_to_know_is_told_how_a_run_ended(project: Project, first: Finished) -> None:
    posted: list[dict[str, Any]] = []

    def answer(method: str, path: str, body: bytes, headers: Any) -> tuple[int, Any]:
        posted.append(json.loads(body))
        return 200, {}

    with web.serving(answer) as address:
        same = project.run(f"notify.url={address}/hook")
        refused = project.run(f"notify.url={address}/hook", "data.min_images_per_class=1000")
    assert (same.code, refused.code) == (0, 1)
    assert [(one["verdict"], one["node"]) for one in posted] == [("up to date", None), ("refused", "DataGate")]
    assert posted[0]["version"] == int(project.versions()[0])
    assert posted[0]["text"].startswith("small: up to date; version ")
    assert "the data are refused, nothing was trained" in posted[1]["reason"]
    assert str(project.root / "run" / "logs") in posted[1]["look"]
    # Nobody there changes nothing.
    assert project.run(f"notify.url={address}/hook").code == 0


def test_a_worse_model_is_refused_by_every_bound_and_not_pushed(project: Project, first: Finished) -> None:
    worse = project.run(
        "augmentation.rotation=6",
        "training.phases.0.max_steps=1",
        "training.phases.1.epochs=0",
        *(f"evaluation.{setting}" for setting, _, _ in BOUNDS),
    )
    assert worse.code == 1, worse.err
    for node in INGESTION:
        assert worse.state(node) == "cached"
    for node in ("Trainer", "Evaluator", "Pusher"):
        assert worse.state(node) == "done"
    accuracy, baseline = (float(re.findall(rf"{what} +([\d.]+)", worse.out)[0]) for what in ("test accuracy", "baseline"))
    assert accuracy < baseline
    refused = [check for check in gate.read(str(project.latest("Evaluator/evaluation/*"))) if not check.passed]
    for _, key, bound in BOUNDS:
        named = re.compile(
            rf"at (least|most) {bound or f'{baseline:.4f}'} \(evaluation\.{re.escape(key)}[ )]",
        )
        lines = [check.line for check in refused if named.match(check.threshold)]
        assert lines, key
        for line in lines:
            assert re.match(r"[\w -]+ [\d.]+( on \d+ pictures)?( \(95 %: [\d.]+ to [\d.]+\))?, asked for: ", line)
            assert f"refused        {line}" in worse.out
    assert re.search(r"gate +refused", worse.out)
    assert "not published" in worse.out
    assert len(project.versions()) == 1


def test_a_model_that_is_not_surely_good_enough_is_refused_and_not_pushed(project: Project, first: Finished) -> None:
    accuracy = float(re.findall(r"test accuracy +([\d.]+)", first.out)[0])
    bound = round(accuracy - 0.005, 3)
    refused = project.run(f"evaluation.min_accuracy={bound}", "evaluation.confidence=0.95")
    assert refused.code == 1
    assert refused.state("Trainer") == "cached"
    (line,) = re.findall(
        r"refused +accuracy ([\d.]+) on .*, asked for: at least ([\d.]+) \(evaluation\.min_accuracy\) (.*)", refused.out
    )
    assert float(line[0]) == pytest.approx(accuracy, abs=1e-4)
    assert float(line[1]) == bound
    low = float(re.findall(r"with confidence 0.95 at least ([\d.]+)\)", line[2])[0])
    assert low < bound < accuracy
    assert len(project.versions()) == 1


def test_a_new_picture_is_taken_in_and_without_bounds_even_a_worse_model_is_pushed_until_it_is_rolled_back(
    project: Project, first: Finished
) -> None:
    shutil.copy(max((project.root / "all" / "3").iterdir()), project.root / "digits" / "3" / "new.png")
    settings = (
        "augmentation.rotation=7",
        "training.phases.0.max_steps=1",
        "training.phases.1.epochs=0",
        "evaluation.min_accuracy=null",
        "evaluation.max_accuracy_drop=null",
    )
    pushed = project.run(*settings)
    assert pushed.code == 0, pushed.err
    assert pushed.state("ImageExampleGen") == pushed.state("Transform") == "done"
    examples = [example for split in features.SPLITS for example in raw_examples(project, split)]
    assert len(examples) == 5 * 80 + 20 + 1
    assert any(b"3/new.png" in example for example in examples)
    before, worse = project.versions()

    assert finetune("models", "rollback", "--serving-dir", str(project.serving)).out == f"{before} is live\n"
    again = project.run(*settings)
    assert again.code == 1, again.err
    assert again.state("Trainer") == "cached"
    assert f"version {worse} was rolled back" in again.err
    assert "not published" in again.out
    assert project.versions() == [before, worse]
    assert versions.Versions(str(project.serving)).live == int(before)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_an_interrupted_training_goes_on_in_the_next_run(project: Project, first: Finished, signum: signal.Signals) -> None:
    overrides = [f"augmentation.rotation={3 + signum / 100}", "evaluation.min_accuracy=null"]
    command = [sys.executable, "-m", "cli", "run", *project.arguments(*overrides)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("finetune: frozen" in line for line in process.stderr)
        process.send_signal(signum)
        rest = process.stderr.read()
    assert process.returncode == (-signal.SIGKILL if signum == signal.SIGKILL else 1)
    assert "Traceback" not in rest
    again = project.run(*overrides)
    assert "training goes on where it was interrupted: " in again.err
    assert "head epoch 1/3" not in again.err
    assert "finetune epoch 1/1" in again.err
    assert "view 1" not in again.err, "the kept features are found"
    assert re.search(r"gate +(blessed|refused)", again.out)


def test_a_search_finds_what_training_takes(project: Project, first: Finished) -> None:
    overrides = ["tuning.trials=2", "training.phases.1.epochs=0", "training.phases.0.max_steps=20"]
    found = project.run(*overrides, "evaluation.min_accuracy=null")
    assert found.code in {0, 1}, found.err
    for node in ("Tuner", "Trainer", "Evaluator"):
        assert found.state(node) == "done"
    assert "trial 1: learning_rate_factor" in found.err
    (best,) = project.latest("Tuner/best_hyperparameters/*").iterdir()
    factor = json.loads(best.read_text())["values"]["learning_rate_factor"]
    assert f"head: learning rate {1e-3 * factor:g}:" in found.err.split("Trainer ")[-2]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_so_and_pushes_nothing(project: Project, tmp_path: Path, signum: signal.Signals) -> None:
    command = [sys.executable, "-m", "cli", "run", "--data", str(project.root / "digits"), "--output-dir", str(tmp_path)]
    # A shell's background jobs, and so perhaps these tests, ignore SIGINT and have their children ignore it.
    default = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=default) as process:  # noqa: PLW1509
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        assert next(line for line in lines if line.startswith("ImageExampleGen"))
        process.send_signal(signum)
        rest = list(lines)
        assert process.wait(60) == 1
    assert rest[-1].startswith("finetune: interrupted; ")
    assert not any("Traceback" in line for line in rest)
    assert not (tmp_path / "serving").exists()


def test_predictions_come_from_the_pushed_model_and_a_bad_file_spoils_no_other(project: Project, first: Finished) -> None:
    version = project.serving / project.versions()[0]
    pictures = [str(next((project.root / "digits" / label).iterdir())) for label in "034"]
    bad = str(project.root / "digits" / "2" / "broken.png")
    answer = finetune("predict", "--model", str(version), "--top", "2", pictures[0], bad, "missing.png", *pictures[1:])
    assert answer.code == 1
    lines = [json.loads(line) for line in answer.out.splitlines()]
    assert [line["file"] for line in lines] == [pictures[0], bad, "missing.png", *pictures[1:]]
    assert "not a picture" in lines[1]["error"]
    assert "No such file" in lines[2]["error"]
    served = tf.saved_model.load(str(version))
    for path, line in zip(pictures, [lines[0], *lines[3:]], strict=True):
        expected = served.signatures["serving_default"](image=tf.constant([Path(path).read_bytes()]))
        assert line["label"] == expected["label"][0].numpy().decode()
        assert line["score"] == pytest.approx(float(expected["score"][0]), abs=1e-5)
        assert line["top"][0]["label"] == line["label"]
        assert len(line["top"]) == 2


def raw_examples(project: Project, split: str) -> list[bytes]:
    files = [str(path) for path in project.latest("ImageExampleGen/examples/*").glob(f"Split-{split}/*")]
    return list(tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator())


def test_both_signatures_agree(project: Project, first: Finished) -> None:
    records = raw_examples(project, features.TEST)[:8]
    pictures = [tf.train.Example.FromString(record).features.feature["image"].bytes_list.value[0] for record in records]
    served = tf.saved_model.load(str(project.serving / project.versions()[0]))
    of_examples = served.signatures["examples"](examples=tf.constant(records))
    of_pictures = served.signatures["serving_default"](image=tf.constant(pictures))
    assert of_examples.keys() == of_pictures.keys() == {"label", "score", "probabilities", "all_classes"}
    for key in ("probabilities", "score"):
        np.testing.assert_allclose(of_examples[key], of_pictures[key], atol=1e-6)
    np.testing.assert_array_equal(of_examples["label"], of_pictures["label"])
    assert of_pictures["all_classes"].shape == of_pictures["probabilities"].shape == (8, 5)
    np.testing.assert_allclose(np.sum(of_pictures["probabilities"], axis=1), 1.0, atol=1e-5)
    names = of_pictures["all_classes"].numpy()[0]
    assert sorted(names) == [b"0", b"1", b"2", b"3", b"4"]
    assert list(of_pictures["label"].numpy()) == [names[i] for i in np.argmax(of_pictures["probabilities"], axis=1)]


def test_a_picture_has_the_same_pixels_in_training_and_through_the_exported_signature(
    project: Project, first: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A model whose "probabilities" are the pixels it was given, exported as the real one is, with a label for each.
    images = keras.Input((32, 32, 3))
    model = keras.Model(images, keras.layers.Flatten()(images))
    transform_output = tft.TFTransformOutput(str(project.latest("Transform/transform_graph/*")))
    monkeypatch.setattr(transform_output, "vocabulary_by_name", lambda _: [b"%d" % i for i in range(32 * 32 * 3)])
    signatures.export(model, transform_output, str(tmp_path / "probe"))
    probe = tf.saved_model.load(str(tmp_path / "probe"))

    raw = raw_examples(project, features.EVAL)
    served = probe.signatures["examples"](examples=tf.constant(raw))["probabilities"].numpy().reshape(-1, 32, 32, 3)
    files = sorted(map(str, project.latest("ImageExampleGen/examples/*").glob("Split-eval/*")))
    split = dataset.read(files, 32, 32, [str(label) for label in range(5)])
    trained = np.concatenate([batch for batch, _ in dataset.evaluation_batches(split, 64).as_numpy_iterator()])
    assert len(served) == len(trained) > 10
    np.testing.assert_array_equal(served, trained)
