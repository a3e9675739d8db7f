"""Fits a model in the phases of the configuration, and goes on where an interrupted training was."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras

from modules import batches as sources
from modules import callbacks, checkpoint, dataset, interrupts, optimizers, progress


class Options(NamedTuple):
    """How to fit, apart from the recipe."""

    jit_compile: bool | str = "auto"
    """As `keras.Model.compile` takes it."""
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
    best = callbacks.BestWeights(config["early_stopping"]["monitor"])
    saved = checkpoint.Checkpoint(options.state_dir)
    start = saved.position()
    if start != checkpoint.Position():
        progress.logger.info("training goes on where it was interrupted: %s", _where(start, config))
        best.value, best.weights = start.best, saved.restore(batches.model, None)
    epochs_before = 0
    with interrupts.noted() as interrupted:
        for number, phase in enumerate(config["phases"]):
            if number >= start.phase and phase["epochs"]:
                _Phase(classifier, batches, label_counts, config, number, epochs_before, best, saved, options).run(
                    interrupted
                )
            epochs_before += phase["epochs"]
    best.put_back(batches.model)
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
        balanced = config["class_weights"] == "balanced"
        self._class_weights = dataset.balanced_class_weights(label_counts) if balanced else None

    def run(self, interrupted: Callable[[], bool]) -> None:
        """Fit until the phase ends, and give the model the best weights so far."""
        self._compile()
        position = self._restored()
        while not position.over and not self._fit(position, interrupted):
            position = self._restored()
        self._best.put_back(self._batches.model)
        done = checkpoint.Position(phase=self._number + 1, best=self._best.value)
        self._saved.save(done, self._batches.model, None, self._best.weights)

    def _compile(self) -> None:
        model, config = self._batches.model, self._config
        rates = optimizers.rates_of(self._classifier, self._phase)
        optimizers.freeze(self._classifier, rates)
        sizes = {path: math.prod(v.shape) for path, v in optimizers.learnable_variables(self._classifier).items()}
        for line in optimizers.describe(rates, sizes):
            progress.logger.info("%s: %s", self._phase["name"], line)
        model.compile(
            optimizers.make_optimizer(rates, self._phase, config["optimizer"], self._steps),
            keras.losses.CategoricalCrossentropy(label_smoothing=config["label_smoothing"]),
            metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
            jit_compile=self._options.jit_compile,
        )
        model.optimizer.build(model.trainable_variables)

    def _restored(self) -> checkpoint.Position:
        position = self._saved.position()
        if position == checkpoint.Position() or position.phase != self._number:
            return checkpoint.Position(phase=self._number, best=self._best.value)
        weights = self._saved.restore(self._batches.model, self._batches.model.optimizer)
        self._best.value, self._best.weights = position.best, weights
        return position

    def _fit(self, position: checkpoint.Position, interrupted: Callable[[], bool]) -> bool:
        """Fit from a position to the end of the phase, or of the epoch that was begun; return whether it was the phase's."""
        phase, batches = self._phase, self._batches
        epochs = position.epoch + 1 if position.step else phase["epochs"]
        batches.model.fit(
            batches.training(phase, self._epochs_before + position.epoch, position.step),
            validation_data=batches.evaluation(),
            initial_epoch=position.epoch,
            epochs=epochs,
            steps_per_epoch=self._steps - position.step,
            class_weight=self._class_weights,
            shuffle=False,
            callbacks=self._callbacks(position, interrupted),
            verbose=0,
        )
        return batches.model.stop_training or epochs == phase["epochs"]

    def _callbacks(self, position: checkpoint.Position, interrupted: Callable[[], bool]) -> list[keras.callbacks.Callback]:
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
        found += self._options.callbacks
        found.append(callbacks.SaveState(self._saved, position, self._steps, phase["epochs"], self._best, interrupted))
        return found


def _where(position: checkpoint.Position, config: Mapping[str, Any]) -> str:
    if position.phase == len(config["phases"]):
        return "after its last epoch"
    return f"{config['phases'][position.phase]['name']}, {position.epoch} epochs and {position.step} steps done"
