import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from modules import batches as sources
from modules import callbacks, checkpoint, dataset, devices, fitting, progress, trainer
from tests.modules import trainings

ON_THE_FLY = {"training": {"cache": {"views": 0}}}
MANY_OPTIONS = {
    "training": {"optimizer": {"ema_momentum": 0.8, "clip_norm": 1.0, "weight_decay": 0.01}, "label_smoothing": 0.1},
    "augmentation": {"mix": "mixup", "random_erasing": 0.5},
}
RECIPES = {"kept features": {}, "XLA": {"training": {"xla": "auto"}}, "on the fly": ON_THE_FLY, "many options": MANY_OPTIONS}
# Two batches of the eval split; a single batch of the train split.
RECIPES |= {"small batches": {"training": {"batch_size": 4}}, "one batch": {"training": {"batch_size": 20}}}
_HEAD, _FINETUNE = trainings.BASE["training"]["phases"]
RECIPES |= {"few steps": {"training": {"phases": [_HEAD | {"max_steps": 2}, _FINETUNE]}}}
# Three steps an epoch, four epochs: the first step, the end of an epoch, the middle of the second phase, and the very end.
MOMENTS = [("kept features", 1), ("kept features", 3), ("kept features", 8), ("kept features", 12), ("XLA", 8)]
MOMENTS += [("on the fly", 1), ("on the fly", 8), ("many options", 3), ("many options", 8)]
MOMENTS += [("few steps", 2)]


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


class SignalInEvaluation(callbacks.SaveState):
    """Sends this process a signal in the first batch of an evaluation, and counts those that follow."""

    evaluation = 0
    batches_after = 0

    def on_test_begin(self, logs: Any = None) -> None:
        SignalInEvaluation.evaluation -= 1

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        SignalInEvaluation.batches_after += SignalInEvaluation.evaluation <= 0
        if SignalInEvaluation.evaluation == 0 and batch == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        super().on_test_batch_end(batch, logs)


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
    ("recipe", "evaluation"),
    [
        ("small batches", 1),
        ("small batches", 4),
        ("many options", 2),
        ("one batch", 1),
        ("one batch", 3),
        ("on the fly", 2),
        ("few steps", 1),
    ],
)
def test_an_evaluation_ends_with_its_next_batch_and_training_goes_on_as_if_nothing_had_happened(
    recipe: str,
    evaluation: int,
    undisturbed: dict[str, list[np.ndarray]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(callbacks, "SaveState", SignalInEvaluation)
        SignalInEvaluation.evaluation, SignalInEvaluation.batches_after = evaluation, 0
        with pytest.raises(KeyboardInterrupt):
            trainings.train(tmp_path, RECIPES[recipe])
    assert SignalInEvaluation.batches_after == 1
    with caplog.at_level("INFO", progress.logger.name):
        again = trainings.train(tmp_path, RECIPES[recipe]).classifier.get_weights()
    phase, epochs, steps = (
        ("head", "finetune")[(evaluation - 1) // 2],
        (evaluation - 1) % 2,
        {"small batches": 4, "one batch": 0, "few steps": 1},
    )
    where = f"goes on where it was interrupted: {phase}, {epochs} epochs and {steps.get(recipe, 2)} steps done"
    assert where in caplog.text, "the epoch's last step and its evaluation are all that is done again"
    assert_equal(again, undisturbed[recipe])


def test_a_state_of_another_precision_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As where a pod comes back on another GPU.
    short = {"training": {"phases": [_HEAD | {"epochs": 1}]}}
    with monkeypatch.context() as patched:
        patched.setattr(devices, "precision", lambda setting: "mixed_float16")
        patched.setattr(callbacks, "SaveState", SignalAt)
        SignalAt.left = 2
        with pytest.raises(KeyboardInterrupt):
            trainings.train(tmp_path, short)
    assert list(tmp_path.rglob("state-*.npz"))
    monkeypatch.setattr(devices, "precision", lambda setting: "float32")
    found = trainings.train(tmp_path, short).classifier.get_weights()
    assert_equal(found, trainings.train(tmp_path / "undisturbed", short).classifier.get_weights())


class FailMidway(callbacks.SaveState):
    """Ends the training without a word in an epoch's second step, once a state is on the disk."""

    folder = Path()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        super().on_train_batch_end(batch, logs)
        deadline = time.monotonic() + 30
        while batch == 1 and time.monotonic() < deadline:
            if list(FailMidway.folder.rglob("state-*.npz")):
                raise MemoryError
            time.sleep(0.01)


def test_within_an_epoch_the_state_is_saved_by_time(
    undisturbed: dict[str, list[np.ndarray]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(callbacks, "SaveState", FailMidway)
        FailMidway.folder = tmp_path
        with pytest.raises(MemoryError):
            trainings.train(tmp_path, {"training": {"save_seconds": 1e-9}})
    with caplog.at_level("INFO", progress.logger.name):
        # How often it is saved does not make it another training.
        again = trainings.train(tmp_path).classifier.get_weights()
    assert "goes on where it was interrupted: head, 0 epochs and 1 steps done" in caplog.text
    assert_equal(again, undisturbed["kept features"])


@pytest.mark.parametrize(
    "moment",
    [
        "view 1 at block5_pool: 8 of 20",
        "plain view: 8 of 20",
        "head epoch 1/2, step 2/3",
        "finetune epoch 1/2: ",
        "finetune epoch 2/2",
    ],
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


def test_each_view_is_made_in_its_epoch_also_in_the_middle_of_a_phase(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    phases = [{"name": "head", "epochs": 5, "learning_rates": [["head/.*", 1e-3], [".*", None]]}]
    with caplog.at_level("INFO", progress.logger.name):
        trainings.train(tmp_path, {"training": {"phases": phases, "cache": {"views": 2}}})
    said = [re.match(r"(plain view|view 1|head epoch \d/5): ", line) for line in caplog.messages]
    epochs = [f"head epoch {number}/5" for number in range(1, 6)]
    assert list(dict.fromkeys(one[1] for one in said if one)) == ["view 1", *epochs[:2], "plain view", *epochs[2:]]


def test_patience_counts_over_the_epochs_in_which_views_are_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    phases = [{"name": "head", "epochs": 6, "learning_rates": [["head/.*", 1e-3], [".*", None]]}]
    stopping = {"patience": 3, "min_delta": 100.0}  # nothing counts as better than the first epoch
    with caplog.at_level("INFO", progress.logger.name):
        trainings.train(tmp_path, {"training": {"phases": phases, "cache": {"views": 3}, "early_stopping": stopping}})
    epochs = {one[1] for line in caplog.messages if (one := re.match(r"head epoch (\d)/6: ", line))}
    assert epochs == {"1", "2", "3", "4"}


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
    with pytest.raises(callbacks.TrainingError, match=r"phase wild, epoch \d, by step \d.*lower learning_rates.*clip_norm"):
        trainings.train(tmp_path, {"training": {"phases": phases}})


def test_batch_statistics_are_those_of_the_data_after_both_phases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # At next to no learning rate, with all pictures in each batch, they have a value to arrive at, in some dozen steps.
    monkeypatch.setattr(callbacks.BestWeights, "put_back", lambda self: None)
    rates = [[["head/.*", 1e-9], [".*", None]], [["head/.*", 1e-9], ["block5_.*", 1e-9], [".*", None]]]
    phases = [{"name": f"phase{i}", "epochs": 25, "learning_rates": rules} for i, rules in enumerate(rates)]
    changes = {"training": {"phases": phases, "batch_size": 20, "cache": {"views": 1}}, "augmentation": {"enabled": False}}
    classifier = trainings.train(tmp_path, changes).classifier
    head = classifier.get_layer("head")
    inputs = classifier.get_layer("block5_pool").output
    dense = keras.Model(classifier.input, head.get_layer("dense")(head.get_layer("flatten")(inputs)))
    images = next(iter(dataset.pictures(trainings.inputs(tmp_path).train).batch(20)))[0]
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
    head, finetune = trainings.BASE["training"]["phases"]
    phases = [head, finetune | {"epochs": 1}]
    changes = {"training": {"precision": "mixed_bfloat16", "phases": phases, "cache": {"views": 1}}}
    trained = trainings.train(tmp_path, changes)
    assert {layer.compute_dtype for layer in trained.classifier.layers} == {"float32"}
    changes["training"]["precision"] = "float32"
    assert trained.score == pytest.approx(trainings.train(tmp_path / "exact", changes).score, abs=0.2)


class SmallGradients(keras.callbacks.Callback):
    """Looks, before training, for gradients of `block5_conv1` that are zero where the loss is as small as later on."""

    def __init__(self, batches: sources.Batches, phase: dict[str, Any]):
        super().__init__()
        self._features, self._labels = next(iter(batches.training(phase, 0, 0)[0]))
        self.lost, self.lost_unscaled = 1.0, 1.0

    def on_train_begin(self, logs: Any = None) -> None:
        self.lost = self._zeros(self.model.optimizer.scale_loss)
        self.lost_unscaled = self._zeros(lambda loss: loss)

    def _zeros(self, scaled: Callable[[tf.Tensor], tf.Tensor]) -> float:
        with tf.GradientTape() as tape:
            losses = keras.losses.categorical_crossentropy(self._labels, self.model(self._features, training=True))
            loss = scaled(1e-4 * tf.reduce_mean(losses))
        return float(np.mean(tape.gradient(loss, self.model.get_layer("block5_conv1").kernel.value).numpy() == 0))


@pytest.mark.parametrize("views", [0, 1])
def test_small_gradients_are_not_lost_in_float16(views: int, tmp_path: Path) -> None:
    rules = [["head/.*", 1e-3], ["block5_.*", 1e-4], [".*", None]]
    phases = [{"name": "all", "epochs": 1, "learning_rates": rules, "max_steps": 1}]
    training = {"phases": phases, "cache": {"views": views}}
    config = trainings.config(tmp_path, {"training": training, "model": {"dropout": 0.0}})
    inputs, found = trainings.inputs(tmp_path), {}
    for policy in ("float32", "mixed_float16"):
        classifier = trainer.build(inputs.train, config, policy)
        source = sources.prepare(classifier, inputs.train, inputs.evaluation, config, tmp_path / policy)
        assert (source.kept is None) == (views == 0)
        found[policy] = SmallGradients(source, config["training"]["phases"][0])
        options = fitting.Options(callbacks=(found[policy],))
        fitting.fit(classifier, source, inputs.train.contents.counts, config["training"], options)
    exact, ours = found["float32"], found["mixed_float16"]
    assert ours.lost == pytest.approx(exact.lost, abs=0.002)
    assert ours.lost_unscaled > exact.lost + 0.02, "they would be"


ON_DEVICES = {
    "kept features": {"training": {"cache": {"views": 1}}},
    "on the fly": {"training": {"cache": {"views": 0}}},
    "kept features, clipped": {"training": {"cache": {"views": 1}, "optimizer": {"clip_norm": 0.05}}},
    "kept features, the head first": {
        "training": {
            "cache": {"views": 1},
            "phases": [
                {"name": "head", "epochs": 2, "learning_rates": [["head/.*", 1e-3], [".*", None]]},
                {"name": "all", "epochs": 1, "learning_rates": [["head/.*", 1e-3], ["block5_.*", 1e-4], [".*", None]]},
            ],
        }
    },
    "on the fly, clipped": {"training": {"cache": {"views": 0}, "optimizer": {"clip_norm": 0.05}}},
}


def weights_on_devices(folder: Path, name: str) -> list[np.ndarray]:
    """Train without dropout, which each device draws for itself."""
    rules = [["head/.*", 1e-3], ["block5_.*", 1e-4], [".*", None]]
    phases = [{"name": "all", "epochs": 2, "learning_rates": rules}]
    base = {"training": {"precision": "float32", "batch_size": 10, "phases": phases}, "model": {"dropout": 0.0}}
    return trainings.train(folder, trainings.merged(base, ON_DEVICES[name])).classifier.get_weights()


@pytest.fixture(scope="module")
def on_devices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What trainings end with on one device and on two: logical processors, as MirroredStrategy takes either."""
    folder = tmp_path_factory.mktemp("devices")
    program = """
import sys, numpy as np, tensorflow as tf
from pathlib import Path
processor = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
from modules import devices
from tests.modules import test_fitting
one, two = tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert two.num_replicas_in_sync == 2
for count, strategy in enumerate((one, two), 1):
    devices.strategy = lambda *_: strategy
    for name in test_fitting.ON_DEVICES:
        folder = Path(sys.argv[1], str(count), name)
        np.savez(f"{folder}.npz", *test_fitting.weights_on_devices(folder, name))
"""
    # With oneDNN's kernels TensorFlow 2.21 confuses the convolutions of two processors.
    environment = os.environ | {"TF_ENABLE_ONEDNN_OPTS": "0"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", ON_DEVICES)
def test_two_devices_learn_what_one_does(name: str, on_devices: Path, tmp_path: Path) -> None:
    before = trainer.build(trainings.inputs(tmp_path).train, trainings.config(tmp_path), "float32").get_weights()
    with np.load(on_devices / "1" / f"{name}.npz") as alone, np.load(on_devices / "2" / f"{name}.npz") as together:
        for start, one, two in zip(before, alone.values(), together.values(), strict=True):
            moved, apart = np.linalg.norm(one - start), np.linalg.norm(two - one)
            assert apart <= 0.01 * moved
        assert sum((one != start).any() for start, one in zip(before, alone.values(), strict=True)) == 6 + 8


def test_on_two_devices_an_overflow_on_either_is_seen(tmp_path: Path) -> None:
    program = """
import keras, numpy as np, tensorflow as tf
processor = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
from modules import optimizers
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    variable = keras.Variable([1.0])
    groups = keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.5), {})
    optimizer = optimizers.LossScaling(optimizers.GroupOptimizer(groups, 1.0), initial_scale=8.0)
    optimizer.build([variable])

@tf.function
def step(gradients):
    def on_device():
        own = tf.gather(gradients, tf.distribute.get_replica_context().replica_id_in_sync_group)
        optimizer.apply([own[None]], [variable])
    strategy.run(on_device)

for gradients in ([1.0, np.inf], [np.inf, 1.0], [0.5, 0.5], [40.0, 8.0]):
    step(tf.constant(gradients))
    print(variable.numpy().item(), optimizer.dynamic_scale.numpy().item())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [tuple(map(float, line.split())) for line in done.stdout.splitlines()]
    # Two steps are left out, one takes (0.5 + 0.5) / 2 of it, and the next is clipped, unscaled, to a norm of 1.
    assert lines == [(1.0, 4.0), (1.0, 2.0), (0.75, 2.0), (0.25, 2.0)]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_mixed_picture_weighs_by_its_shares(smoothing: float) -> None:
    random = np.random.default_rng(0)
    images, shares = random.normal(size=(5, 4)).astype(np.float32), random.dirichlet(np.ones(3), 5).astype(np.float32)
    shares[0] = [0, 1, 0]
    shares[1] = [0.51, 0, 0.49]
    class_weights = np.array([0.2, 3.0, 1.5], np.float32)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax", use_bias=False)])
    model.compile(keras.optimizers.SGD(1.0), keras.losses.CategoricalCrossentropy(label_smoothing=smoothing))
    kernel = model.get_weights()[0]
    inputs, labels, weights = fitting._weighed(tf.constant(images), tf.constant(shares), class_weights.tolist())
    found = model.train_on_batch(inputs, labels, sample_weight=weights)
    logits = images @ kernel
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    # Of a picture of class c: w (-log p), smoothed; of a mixed one that by shares.
    smoothed = (1 - smoothing) * np.eye(3) + smoothing / 3
    of_class = class_weights * (-log_p @ smoothed.T)
    assert found == pytest.approx((shares * of_class).sum(-1).mean(), rel=1e-5)
    targets = (shares * class_weights) @ smoothed
    gradient = images.T @ (np.exp(log_p) * targets.sum(-1, keepdims=True) - targets) / len(images)
    np.testing.assert_allclose(kernel - model.get_weights()[0], gradient, rtol=1e-4, atol=1e-6)


def test_class_weights_reach_the_loss_of_mixed_pictures_and_no_evaluation(tmp_path: Path) -> None:
    phases = [{"name": "one", "epochs": 1, "learning_rates": [["head/.*", 1e-12], [".*", None]], "max_steps": 1}]
    training = {"phases": phases, "class_weights": "balanced", "precision": "float32", "cache": {"views": 0}}
    changes = {"training": training, "augmentation": {"mix": "mixup"}, "model": {"dropout": 0.0}}
    config, inputs = trainings.config(tmp_path, changes), trainings.inputs(tmp_path)
    counts, measured = [2, 8, 10], {}
    classifier = trainer.build(inputs.train, config, "float32")
    source = sources.FromPictures(classifier, inputs.train, inputs.evaluation, config)
    images, shares = next(source.training(config["training"]["phases"][0], 0, 0)[0].as_numpy_iterator())
    expected = {
        "loss": (shares * [20 / (3 * count) for count in counts] * -np.log(classifier(images, training=True)))
        .sum(-1)
        .mean(),
    }
    for layer in (classifier.get_layer("head").get_layer("normalization"),):
        layer.moving_mean.assign(np.zeros(layer.moving_mean.shape))
        layer.moving_variance.assign(np.ones(layer.moving_variance.shape))
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: measured.update(logs))
    fitting.fit(classifier, source, counts, config["training"], fitting.Options(callbacks=(watch,)))
    assert measured["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    evaluated = [
        -np.log(np.asarray(classifier(images)))[labels == 1] for images, labels in source.evaluation().as_numpy_iterator()
    ]
    assert measured["val_loss"] == pytest.approx(np.concatenate(evaluated).mean(), rel=1e-3)


class NoNumber(keras.callbacks.Callback):
    """Spoils the weights before the evaluation of an epoch."""

    def __init__(self, epoch: int):
        super().__init__()
        self._epoch, self._now = epoch, -1

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._now = epoch

    def on_test_begin(self, logs: Any = None) -> None:
        if self._now == self._epoch:
            self.model.layers[-1].get_layer("normalization").moving_mean.assign([np.nan] * 16)


@pytest.mark.parametrize("epoch", [0, 1])
def test_an_evaluation_that_is_no_number_ends_training_and_says_what_to_try(epoch: int, tmp_path: Path) -> None:
    config, inputs = trainings.config(tmp_path), trainings.inputs(tmp_path)
    classifier = trainer.build(inputs.train, config, "float32")
    source = sources.FromPictures(classifier, inputs.train, inputs.evaluation, config)
    options = fitting.Options(callbacks=(NoNumber(epoch),))
    with pytest.raises(
        callbacks.TrainingError,
        match=rf"the eval loss is no longer finite in phase head, epoch {epoch + 1}, .*learning_rates",
    ):
        fitting.fit(classifier, source, inputs.train.contents.counts, config["training"], options)


class Told(keras.callbacks.Callback):
    """Notes at which steps it is told what was measured."""

    def __init__(self) -> None:
        super().__init__()
        self.of_training: list[list[str]] = []
        self.of_evaluation: list[list[str]] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.of_training.append(sorted(logs))

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self.of_evaluation.append(sorted(logs))


@pytest.mark.parametrize(("seconds", "between"), [(1e9, []), (0.0, ["accuracy", "loss"])])
def test_the_device_is_waited_for_at_an_epochs_ends_and_now_and_then(
    seconds: float, between: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "_SECONDS_BETWEEN_LOOKS", seconds)
    config, inputs = trainings.config(tmp_path, {"training": {"batch_size": 4}}), trainings.inputs(tmp_path)
    classifier = trainer.build(inputs.train, config, "float32")
    source = sources.prepare(classifier, inputs.train, inputs.evaluation, config, tmp_path)
    told = Told()
    fitting.fit(classifier, source, inputs.train.contents.counts, config["training"], fitting.Options(callbacks=(told,)))
    all_of_it = ["accuracy", "loss"]
    assert told.of_training == [all_of_it, between, between, all_of_it, all_of_it] * 4
    assert told.of_evaluation == [[], []] * 4


def test_no_state_is_saved_whose_loss_nobody_has_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    monkeypatch.setattr(callbacks, "_SECONDS_BETWEEN_LOOKS", 1e9)
    monkeypatch.setattr(checkpoint.Checkpoint, "begin", lambda _, state: steps.append(state.position.step))
    trainings.train(tmp_path, {"training": {"batch_size": 4, "save_seconds": 1e-9}})
    assert [step for step in steps if step] == [1, 4] * 4


@pytest.mark.parametrize("monitor", ["loss", "accuracy"])
def test_what_is_no_number_is_never_the_best(monitor: str) -> None:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    best = callbacks.BestWeights(model, monitor)
    best.on_test_end({monitor: float("nan")})
    assert best.value is None
    best.on_test_end({monitor: 0.5})
    weights = model.get_weights()
    best.on_test_end({monitor: float("nan")})
    assert abs(best.value or 0.0) == 0.5
    assert_equal(best.weights or [], weights)


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


def test_a_head_learns_the_same_from_what_block_5_made_once_as_with_block_5_in_each_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    head, finetune = trainings.BASE["training"]["phases"]
    frozen_but_for_a_name = [["head/.*", 1e-12], ["block5_.*", 1e-12], [".*", None]]
    phases = [head | {"epochs": 4}, finetune | {"epochs": 1, "learning_rates": frozen_but_for_a_name}]
    changes = {"training": {"phases": phases, "precision": "float32", "cache": {"views": 1}}, "model": {"dropout": 0.0}}
    config = trainings.config(tmp_path, changes)
    initial = trainer.build(trainings.inputs(tmp_path).train, config, "float32").get_layer("head").get_weights()
    with caplog.at_level(logging.INFO, progress.logger.name):
        once = trainings.train(tmp_path / "once", changes)
    assert "view 1 at block5_pool: 20 pictures" in caplog.text
    caplog.clear()
    monkeypatch.setattr(sources.FromFeatures, "begin", lambda self, *_: self.model)
    with caplog.at_level(logging.INFO, progress.logger.name):
        each = trainings.train(tmp_path / "each", changes)
    assert "at block5_pool" not in caplog.text
    assert once.score == pytest.approx(each.score, rel=0.01)
    heads = (trained.classifier.get_layer("head").get_weights() for trained in (once, each))
    for before, one, other in zip(initial, *heads, strict=True):
        assert np.linalg.norm(one - other) <= 0.05 * np.linalg.norm(other - before)
