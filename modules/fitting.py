"""Fits a model in the phases of the configuration, and goes on where an interrupted training was."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from modules import batches as sources
from modules import callbacks, checkpoint, dataset, devices, interrupts, optimizers, progress

_WHEN_INTERRUPTED = "ends with the batch at hand, its state saved; once more ends it at once"


class Options(NamedTuple):
    """How to fit, apart from the recipe."""

    log_dir: str | None = None
    """Folder for TensorBoard's logs, a subfolder a phase; None writes none."""
    state_dir: Path | None = None
    """Folder where the state is kept, and where that of an interrupted training is found; None keeps nothing."""
    callbacks: tuple[keras.callbacks.Callback, ...] = ()
    """Further ones."""


def fit(
    classifier: keras.Model,
    batches: sources.Batches,
    label_counts: Sequence[int],
    config: Mapping[str, Any],
    options: Options,
) -> float:
    """Fit a classifier in phases and leave it with the best epoch's weights.

    Args:
      classifier: from images in 0 to 255 to probabilities.
      batches: what it, or its part that is trained, is fed with.
      label_counts: pictures of each label in the train split.
      config: the `training` section of the configuration.
      options: how, apart from the recipe.

    Returns:
      The best epoch's loss or accuracy on the eval split, whichever `early_stopping.monitor` says.

    Raises:
      TrainingError: the loss is no longer finite.
      KeyboardInterrupt: the process was asked to end; the state is saved.
    """
    best = callbacks.BestWeights(batches.model, config["early_stopping"]["monitor"])
    with checkpoint.Checkpoint(options.state_dir) as saved, interrupts.noted(_WHEN_INTERRUPTED) as interrupted:
        state, first = saved.newest(), 0
        if state is not None:
            progress.logger.info("training goes on where it was interrupted: %s", _where(state.position, config))
            first = state.position.phase
            best.value, best.weights = state.position.best, state.put_back(batches.model, None)
        epochs_before = 0
        for number, phase in enumerate(config["phases"]):
            if number >= first and phase["epochs"]:
                _Phase(classifier, batches, label_counts, config, number, epochs_before, best, saved, options).run(
                    state if number == first else None, interrupted
                )
            epochs_before += phase["epochs"]
    best.put_back()
    return abs(best.value or 0.0)


class _Phase:
    """One phase of a training."""

    def __init__(
        self,
        classifier: keras.Model,
        batches: sources.Batches,
        label_counts: Sequence[int],
        config: Mapping[str, Any],
        number: int,
        epochs_before: int,
        best: callbacks.BestWeights,
        saved: checkpoint.Checkpoint,
        options: Options,
    ):
        self._classifier, self._batches, self._config, self._options = classifier, batches, config, options
        self._number, self._epochs_before, self._best, self._saved = number, epochs_before, best, saved
        self._phase = config["phases"][number]
        self._steps = math.ceil(sum(label_counts) / config["batch_size"])
        self._class_weights: list[float] | None = None
        if config["class_weights"] == "balanced":
            self._class_weights = list(dataset.balanced_class_weights(label_counts).values())

    def run(self, state: checkpoint.State | None, interrupted: Callable[[], bool]) -> None:
        """Fit from a state on, or from the phase's start, until it ends; give the model the best weights so far."""
        optimizer = self._freeze_others()  # before anything is computed for a phase that is refused
        fitted = self._batches.begin(self._phase, self._epochs_before, interrupted)
        fitted.compile(
            optimizer,
            keras.losses.CategoricalCrossentropy(label_smoothing=self._config["label_smoothing"]),
            metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
            jit_compile=devices.jit_compile(
                self._config["xla"], self._batches.kept and fitted.input_shape[1:], fitted.dtype_policy.name
            ),
        )
        optimizer.build(fitted.trainable_variables)
        position = checkpoint.Position(phase=self._number, best=self._best.value)
        while not position.over:
            if state is not None:
                state.put_back(self._batches.model, optimizer)
                position = state.position
            if not position.over:
                state = self._fit(fitted, position, state, interrupted)
        self._best.put_back()
        done = checkpoint.Position(phase=self._number + 1, best=self._best.value)
        self._saved.save(checkpoint.State.of(done, self._batches.model, None, self._best.weights))

    def _freeze_others(self) -> keras.optimizers.Optimizer:
        """Freeze what the phase does not train, say what it trains, and return its optimizer."""
        rates = optimizers.rates_of(self._classifier, self._phase)
        optimizers.freeze(self._classifier, rates)
        sizes = {path: math.prod(v.shape) for path, v in optimizers.learnable_variables(self._classifier).items()}
        for line in optimizers.describe(rates, sizes):
            progress.logger.info("%s: %s", self._phase["name"], line)
        policy = self._batches.model.dtype_policy.name
        return optimizers.make_optimizer(rates, self._phase, self._config["optimizer"], self._steps, policy)

    def _fit(
        self,
        fitted: keras.Model,
        position: checkpoint.Position,
        state: checkpoint.State | None,
        interrupted: Callable[[], bool],
    ) -> checkpoint.State | None:
        """Fit from a position to the end of the phase, or of the epoch where the batches change; return the state there."""
        phase, batches = self._phase, self._batches
        try:
            training, others = batches.training(phase, self._epochs_before + position.epoch, position.step, interrupted)
        except KeyboardInterrupt:
            if state is not None:
                self._saved.save(state)
            raise
        if self._class_weights is not None:
            training = training.map(functools.partial(_weighed, class_weights=self._class_weights))
        saver = callbacks.SaveState(
            self._saved,
            batches.model,
            position,
            self._steps,
            phase["epochs"],
            phase["max_steps"],
            self._config["save_seconds"],
            self._best,
            interrupted,
        )
        through = 1 if position.step else others or phase["epochs"]
        epochs, steps = min(position.epoch + through, phase["epochs"]), self._steps - position.step
        fitted.fit(
            training,
            validation_data=batches.evaluation(),
            initial_epoch=position.epoch,
            epochs=epochs,
            steps_per_epoch=steps,
            shuffle=False,
            callbacks=callbacks.CallbackList(
                [*self._callbacks(position), saver], interrupted, model=fitted, epochs=epochs, steps=steps
            ),
        )
        return saver.ended

    def _callbacks(self, position: checkpoint.Position) -> list[keras.callbacks.Callback]:
        phase, stopping = self._phase, self._config["early_stopping"]
        # BestWeights comes before SwapEMAWeights, whose averages are in the model while it is evaluated.
        found: list[keras.callbacks.Callback] = [callbacks.StopOnNaN(phase["name"]), self._best]
        if self._config["optimizer"]["ema_momentum"] is not None:
            found.append(keras.callbacks.SwapEMAWeights())
        found.append(progress.ProgressLogger(phase["name"], phase["epochs"], self._steps, position.step))
        if self._options.log_dir is not None:
            found.append(keras.callbacks.TensorBoard(os.path.join(self._options.log_dir, phase["name"])))
        if stopping["patience"]:
            found.append(
                callbacks.EarlyStopping(
                    position.history,
                    monitor=f"val_{stopping['monitor']}",
                    min_delta=stopping["min_delta"],
                    patience=stopping["patience"],
                    mode="max" if stopping["monitor"] == "accuracy" else "min",
                )
            )
        if phase["max_steps"]:
            past = position.epoch * self._steps + position.step
            found.append(callbacks.StopAfterSteps(phase["max_steps"] - past))
        return [*found, *self._options.callbacks]


def _weighed(inputs: tf.Tensor, labels: tf.Tensor, class_weights: Sequence[float]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Have each share of a picture weigh what its class does.

    With shares y and weights w of the classes, cross-entropy becomes the sum of y w (-log p): that of the pictures that a
    mixed one is made of, by their shares, each smoothed by itself. It is divided into labels that sum to 1, as smoothing and
    Keras's gradient take for granted, and a weight of the picture.

    Args:
      inputs: `[batch, …]`.
      labels: float32 `[batch, classes]`, shares that sum to 1.
      class_weights: by label id.

    Returns:
      The inputs, labels `[batch, classes]` and weights `[batch]`.
    """
    weighed = labels * tf.constant(class_weights, labels.dtype)
    weights = tf.reduce_sum(weighed, axis=-1)
    return inputs, tf.math.divide_no_nan(weighed, weights[:, None]), weights


def _where(position: checkpoint.Position, config: Mapping[str, Any]) -> str:
    if position.phase == len(config["phases"]):
        return "after its last epoch"
    return f"{config['phases'][position.phase]['name']}, {position.epoch} epochs and {position.step} steps done"
