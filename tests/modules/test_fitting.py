import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from modules import callbacks, progress, trainer
from tests.modules import trainings

ON_THE_FLY = {"training": {"cache": {"views": 0}}}
MANY_OPTIONS = {
    "training": {"optimizer": {"ema_momentum": 0.8, "clip_norm": 1.0, "weight_decay": 0.01}, "label_smoothing": 0.1},
    "augmentation": {"mix": "mixup", "random_erasing": 0.5},
}
RECIPES = {"kept features": {}, "XLA": {"training": {"xla": "auto"}}, "on the fly": ON_THE_FLY, "many options": MANY_OPTIONS}
# Three steps an epoch, four epochs: the first step, the end of an epoch, the middle of the second phase, and the very end.
MOMENTS = [("kept features", 1), ("kept features", 3), ("kept features", 8), ("kept features", 12), ("XLA", 8)]
MOMENTS += [("on the fly", 1), ("on the fly", 8), ("many options", 3), ("many options", 8)]


def assert_equal(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


class SignalAt(callbacks.SaveState):
    """Sends this process a signal after so many steps."""

    left = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        SignalAt.left -= 1
        if SignalAt.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        super().on_train_batch_end(batch, logs)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[np.ndarray]]:
    """The weights that each recipe ends with."""
    return {
        name: trainings.train(tmp_path_factory.mktemp("undisturbed"), recipe).classifier.get_weights()
        for name, recipe in RECIPES.items()
    }


@pytest.mark.parametrize(("recipe", "step"), MOMENTS)
def test_a_training_that_was_asked_to_end_goes_on_as_if_nothing_had_happened(
    recipe: str, step: int, undisturbed: dict[str, list[np.ndarray]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(callbacks, "SaveState", SignalAt)
        SignalAt.left = step
        with pytest.raises(KeyboardInterrupt):
            trainings.train(tmp_path, RECIPES[recipe])
    assert_equal(trainings.train(tmp_path, RECIPES[recipe]).classifier.get_weights(), undisturbed[recipe])


@pytest.mark.parametrize(
    "moment", ["view 2: 8 of 20", "head epoch 1/2, step 2/3", "finetune epoch 1/2: ", "finetune epoch 2/2"]
)
def test_a_killed_training_goes_on_as_if_nothing_had_happened(
    moment: str, undisturbed: dict[str, list[np.ndarray]], tmp_path: Path
) -> None:
    # A program of its own is killed as soon as it says that it has come so far.
    command = [sys.executable, "-m", "tests.modules.trainings", str(tmp_path), json.dumps({})]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        assert any(line.startswith(moment) for line in killed.stdout)
        killed.kill()
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "weights.npz").exists()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with np.load(tmp_path / "weights.npz") as found:
        assert_equal(list(found.values()), undisturbed["kept features"])


def test_a_finished_training_is_found_finished(
    undisturbed: dict[str, list[np.ndarray]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = trainings.train(tmp_path)
    caplog.clear()
    with caplog.at_level("INFO", progress.logger.name):
        again = trainings.train(tmp_path)
    assert "after its last epoch" in caplog.text
    assert "epoch 1" not in caplog.text
    assert again.score == first.score
    assert_equal(again.classifier.get_weights(), first.classifier.get_weights())


def test_another_seed_gives_another_model(undisturbed: dict[str, list[np.ndarray]], tmp_path: Path) -> None:
    other = trainings.train(tmp_path, {"training": {"seed": 2}}).classifier.get_weights()
    assert any((one != another).any() for one, another in zip(other, undisturbed["kept features"], strict=True))


def test_a_loss_that_is_no_number_ends_training_and_says_what_to_try(tmp_path: Path) -> None:
    phases = [{"name": "wild", "epochs": 3, "learning_rates": [["head/.*", 1e30], [".*", None]]}]
    with pytest.raises(callbacks.TrainingError, match=r"phase wild, epoch \d, step \d.*lower learning_rates.*clip_norm"):
        trainings.train(tmp_path, {"training": {"phases": phases}})


def test_batch_statistics_are_those_of_the_data_after_both_phases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # At next to no learning rate, with all pictures in each batch, they have a value to arrive at, in some dozen steps.
    monkeypatch.setattr(callbacks.BestWeights, "put_back", lambda self, model: None)
    rates = [[["head/.*", 1e-9], [".*", None]], [["head/.*", 1e-9], ["block5_.*", 1e-9], [".*", None]]]
    phases = [{"name": f"phase{i}", "epochs": 25, "learning_rates": rules} for i, rules in enumerate(rates)]
    changes = {"training": {"phases": phases, "batch_size": 20, "cache": {"views": 1}}, "augmentation": {"enabled": False}}
    classifier = trainings.train(tmp_path, changes).classifier
    head = classifier.get_layer("head")
    inputs = classifier.get_layer("block5_pool").output
    dense = keras.Model(classifier.input, head.get_layer("dense")(head.get_layer("flatten")(inputs)))
    images = next(iter(trainings.inputs(tmp_path).train.data.examples().batch(20)))[0]
    outputs = dense(np.asarray(images, np.float32)).numpy()
    normalization = head.get_layer("normalization")
    assert outputs.mean(0).max() > 1
    np.testing.assert_allclose(normalization.moving_mean, outputs.mean(0), rtol=0.02, atol=0.02)
    np.testing.assert_allclose(normalization.moving_variance, outputs.var(0), rtol=0.03, atol=0.05)


def test_a_head_that_is_frozen_keeps_its_batch_statistics(tmp_path: Path) -> None:
    learning, frozen = trainings.BASE["training"]["phases"]
    frozen = frozen | {"learning_rates": [["block5_.*", 1e-4], [".*", None]]}
    heads = []
    for name, phases in (("one", [learning]), ("two", [learning, frozen])):
        # On the fly, so that both compute the same.
        changes = {"training": {"phases": phases, "cache": {"views": 0}}}
        heads.append(trainings.train(tmp_path / name, changes).classifier.get_layer("head").get_weights())
    assert_equal(*heads)


def test_in_mixed_precision_a_float32_model_comes_out(tmp_path: Path) -> None:
    phases = [trainings.BASE["training"]["phases"][0] | {"epochs": 1}]
    changes = {"training": {"precision": "mixed_bfloat16", "phases": phases, "cache": {"views": 1}}}
    trained = trainings.train(tmp_path, changes)
    assert {layer.compute_dtype for layer in trained.classifier.layers} == {"float32"}
    changes["training"]["precision"] = "float32"
    assert trained.score == pytest.approx(trainings.train(tmp_path / "exact", changes).score, abs=0.2)


def test_two_devices_share_each_batch(tmp_path: Path) -> None:
    # Two logical processors stand in for two GPUs: MirroredStrategy takes either.
    program = """
import sys, tensorflow as tf
processor = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
from pathlib import Path
from modules import devices
from tests.modules import trainings
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
devices.strategy = lambda batch_size: strategy
changes = {"training": {"xla": False, "batch_size": 10}}
score = trainings.train(Path(sys.argv[1]), changes).score
print("replicas", strategy.num_replicas_in_sync, "score", score)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "replicas 2" in done.stdout
    alone = trainings.train(tmp_path / "alone", {"training": {"batch_size": 10}})
    assert float(done.stdout.split()[-1]) == pytest.approx(alone.score, abs=0.5)


def test_the_best_epoch_is_kept_though_later_ones_are_worse(tmp_path: Path) -> None:
    spoil = {"name": "spoil", "epochs": 2, "learning_rates": [["head/.*", 1.0], [".*", None]]}
    good = trainings.train(tmp_path / "good", {"training": {"phases": trainings.BASE["training"]["phases"][:1]}})
    phases = [*trainings.BASE["training"]["phases"][:1], spoil]
    spoiled = trainings.train(tmp_path / "spoiled", {"training": {"phases": phases}})
    assert spoiled.score <= good.score
    if spoiled.score == good.score:
        assert_equal(spoiled.classifier.get_weights(), good.classifier.get_weights())


def test_training_is_the_same_function_of_its_inputs_for_the_pipeline_and_for_the_search(tmp_path: Path) -> None:
    config = trainings.config(tmp_path)
    inputs = trainings.inputs(tmp_path)
    name = trainer.identity(inputs, config)
    assert name == trainer.identity(inputs, config | {"work_dir": "elsewhere"})
    assert name != trainer.identity(inputs, trainings.config(tmp_path, {"training": {"seed": 5}}))
