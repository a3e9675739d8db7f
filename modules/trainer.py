"""What runs inside Trainer: fit the classifier in phases, keep the best weights, export."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
from tfx.components.trainer.fn_args_utils import FnArgs

from modules import dataset, features, model, optimizers, progress, signatures, weights


class BestWeights(keras.callbacks.Callback):
    """Keeps the weights of the best epoch, over all the phases it is used in.

    Args:
      monitor: `val_loss` (lower is better) or `val_accuracy` (higher is better).
    """

    def __init__(self, monitor: str):
        super().__init__()
        self.monitor = monitor
        self._sign = 1.0 if monitor == "val_accuracy" else -1.0
        self._best = -math.inf
        self._weights: list[np.ndarray] | None = None

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Keep the weights if this epoch is the best so far."""
        value = self._sign * (logs or {})[self.monitor]
        if value > self._best:
            self._best, self._weights = value, self.model.get_weights()

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Put the best weights back."""
        if self._weights is not None:
            self.model.set_weights(self._weights)


class StopAfterSteps(keras.callbacks.Callback):
    """Ends training after a number of steps.

    Args:
      steps: how many.
    """

    def __init__(self, steps: int):
        super().__init__()
        self._left = steps

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Count the step."""
        self._left -= 1
        if self._left <= 0:
            self.model.stop_training = True


def run_fn(fn_args: FnArgs) -> None:
    """Train and export; called by TFX's Trainer.

    Args:
      fn_args: `custom_config` holds the sections `image`, `model`, `training` and `augmentation` of the configuration, and
        `preparation`, the keyword arguments of `modules.images.prepare`.
    """
    config = fn_args.custom_config
    transform_output = tft.TFTransformOutput(fn_args.transform_graph_path)
    num_classes = transform_output.vocabulary_size_by_name(features.LABEL_VOCABULARY)
    height, width = config["image"]["height"], config["image"]["width"]

    def split(patterns: list[str]) -> dataset.TransformedSplit:
        files = tuple(sorted(path for pattern in patterns for path in tf.io.gfile.glob(pattern)))
        return dataset.TransformedSplit(files, height, width, num_classes)

    keras.utils.set_random_seed(config["training"]["seed"])
    classifier = model.build_model(num_classes, height, width, config["model"], weights.locate(config["model"]["weights"]))
    train(
        classifier,
        split(fn_args.train_files),
        split(fn_args.eval_files),
        config["training"],
        config["augmentation"],
        fn_args.model_run_dir,
    )
    signatures.export(classifier, transform_output, fn_args.serving_model_dir, config["preparation"])


def train(
    classifier: keras.Model,
    train_split: dataset.TransformedSplit,
    eval_split: dataset.TransformedSplit,
    config: dict[str, Any],
    augment: dict[str, Any],
    log_dir: str,
) -> None:
    """Fit a classifier in the phases of the configuration and leave it with the best epoch's weights.

    Args:
      classifier: from images in 0 to 255 to probabilities; trained in place.
      train_split: is fitted, augmented.
      eval_split: is watched.
      config: the `training` section of the configuration.
      augment: the `augmentation` section.
      log_dir: folder for TensorBoard's logs, a subfolder a phase.
    """
    counts = train_split.label_counts()
    class_weights = dataset.balanced_class_weights(counts) if config["class_weights"] == "balanced" else None
    steps = math.ceil(sum(counts) / config["batch_size"])
    eval_batches = dataset.evaluation_batches(eval_split, config["batch_size"])
    stopping = config["early_stopping"]
    best = BestWeights(f"val_{stopping['monitor']}")
    for number, phase in enumerate(config["phases"]):
        if not phase["epochs"]:
            continue
        optimizer = optimizers.apply_learning_rates(classifier, phase["learning_rates"])
        for line in _rates_in_words(classifier, phase["learning_rates"]):
            progress.logger.info("%s: %s", phase["name"], line)
        classifier.compile(
            optimizer,
            keras.losses.CategoricalCrossentropy(label_smoothing=config["label_smoothing"]),
            metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        )
        callbacks = [
            best,
            progress.ProgressLogger(phase["name"], phase["epochs"], steps),
            keras.callbacks.TensorBoard(os.path.join(log_dir, phase["name"])),
        ]
        if stopping["patience"]:
            callbacks.append(
                keras.callbacks.EarlyStopping(best.monitor, min_delta=stopping["min_delta"], patience=stopping["patience"])
            )
        if phase["max_steps"]:
            callbacks.append(StopAfterSteps(phase["max_steps"]))
        classifier.fit(
            dataset.training_batches(train_split, config["batch_size"], config["seed"] + number, augment),
            validation_data=eval_batches,
            epochs=phase["epochs"],
            class_weight=class_weights,
            callbacks=callbacks,
            verbose=0,
        )


def _rates_in_words(classifier: keras.Model, rules: list[tuple[str, float | None]]) -> list[str]:
    variables = optimizers.learnable_variables(classifier)
    sizes = {path: math.prod(variable.shape) for path, variable in variables.items()}
    return optimizers.describe(optimizers.assign_learning_rates(list(sizes), rules), sizes)
