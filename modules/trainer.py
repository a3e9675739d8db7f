"""What runs inside Trainer: fit the classifier in phases, keep the best weights, export."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import tensorflow as tf
import tensorflow_transform as tft
from tfx.components.trainer.fn_args_utils import FnArgs

from modules import (
    batches,
    checkpoint,
    dataset,
    devices,
    features,
    fitting,
    hyperparameters,
    model,
    progress,
    signatures,
    weights,
)


class Inputs(NamedTuple):
    """What ImageExampleGen and Transform made."""

    train: dataset.Split
    evaluation: dataset.Split
    transform_output: tft.TFTransformOutput


class NothingKeptError(ValueError):
    """A training that would have no kept features; the message says what it depends on."""


class Trained(NamedTuple):
    """The result of a training."""

    classifier: keras.Model
    """From images in 0 to 255 to probabilities, with the best epoch's weights; float32 whatever it was trained in."""
    batches: batches.Batches
    """What it was fed with; its model has the same weights."""
    state_dir: Path
    """Where its state is kept, from which it would go on."""
    score: float
    """The best epoch's loss or accuracy on the eval split, whichever `early_stopping.monitor` says."""


def run_fn(fn_args: FnArgs) -> None:
    """Train and export; called by TFX's Trainer.

    Args:
      fn_args: `custom_config` holds the sections `image`, `model`, `training` and `augmentation` of the configuration;
        `preparation`, the keyword arguments of `modules.images.prepare`; `views_fingerprint`, of the code that makes views
        of pictures; and `work_dir`, a folder on this machine's file system for what outlives an interrupted run.
    """
    config = hyperparameters.best(fn_args.custom_config, fn_args.hyperparameters)
    inputs = read_inputs(fn_args)
    classifier = train(inputs, config, fn_args.model_run_dir).classifier
    signatures.export(classifier, inputs.transform_output, fn_args.serving_model_dir, config["preparation"])


def read_inputs(fn_args: FnArgs) -> Inputs:
    """Return the splits and what Transform learnt.

    Args:
      fn_args: of Trainer or Tuner.
    """
    image = fn_args.custom_config["image"]
    transform_output = tft.TFTransformOutput(fn_args.transform_graph_path)
    labels = labels_of(transform_output)

    def split(patterns: list[str]) -> dataset.Split:
        files = sorted(path for pattern in patterns for path in tf.io.gfile.glob(pattern))
        return dataset.read(files, image["height"], image["width"], labels)

    return Inputs(split(fn_args.train_files), split(fn_args.eval_files), transform_output)


def labels_of(transform_output: tft.TFTransformOutput) -> list[str]:
    """Return the labels by id.

    Args:
      transform_output: what Transform learnt.
    """
    return [label.decode() for label in transform_output.vocabulary_by_name(features.LABEL_VOCABULARY)]


def train(inputs: Inputs, config: Mapping[str, Any], log_dir: str | None, only_if_kept: bool = False) -> Trained:
    """Fit a classifier in the phases of the configuration; an interrupted training goes on where it was.

    Args:
      inputs: the data.
      config: as `run_fn` gets it.
      log_dir: folder for TensorBoard's logs, a subfolder a phase; None writes none.
      only_if_kept: whether to train only where the frozen prefix's features can be kept.

    Raises:
      NothingKeptError: they were to be kept, and can't be.
    """
    work_dir = Path(config["work_dir"])
    policy = devices.precision(config["training"]["precision"])
    with devices.strategy(config["training"]["batch_size"], inputs.evaluation.contents.total).scope():
        classifier = build(inputs.train, config, policy)
        source = batches.prepare(classifier, inputs.train, inputs.evaluation, config, work_dir)
        if only_if_kept and not source.kept:
            raise NothingKeptError("no features of a frozen prefix can be kept; the log says why, after `feature cache`")
        jit_compile = devices.jit_compile(config["training"]["xla"], source.kept, policy)
        progress.logger.info("training on %s", devices.describe(policy, jit_compile))
        # What is trained, and so its state, differs with the batches and with what the devices compute in.
        kind = f"{policy}-{'features' if source.kept else 'pictures'}"
        state_dir = work_dir / "checkpoints" / f"{identity(inputs, config)}-{kind}"
        checkpoint.prune(state_dir.parent, keep=state_dir.name)
        options = fitting.Options(log_dir, state_dir)
        score = fitting.fit(classifier, source, inputs.train.contents.counts, config["training"], options)
    return Trained(in_float32(classifier, inputs.train, config), source, state_dir, score)


def build(split: dataset.Split, config: Mapping[str, Any], policy: str) -> keras.Model:
    """Return the untrained classifier of a configuration, the same one for the same seed.

    Args:
      split: says the size of pictures and the number of classes.
      config: as `run_fn` gets it.
      policy: dtype policy, as `modules.model.build_model` takes it.
    """
    path = weights.locate(config["model"]["weights"])
    # Right before what it is for: whatever draws in between, as fetching weights does, would change the head.
    keras.utils.set_random_seed(config["training"]["seed"])
    return model.build_model(split.contents.num_classes, split.height, split.width, config["model"], path, policy)


def in_float32(classifier: keras.Model, split: dataset.Split, config: Mapping[str, Any]) -> keras.Model:
    """Return a classifier that computes in float32, whatever it was trained in.

    Args:
      classifier: as `build` made it for the same split and configuration.
      split: as for `build`.
      config: likewise.
    """
    if classifier.dtype_policy.compute_dtype == "float32":
        return classifier
    same = build(split, {**config, "model": {**config["model"], "weights": None}}, "float32")
    same.set_weights(classifier.get_weights())
    return same


def identity(inputs: Inputs, config: Mapping[str, Any]) -> str:
    """Return a name for just this training: the same data, recipe and code.

    Args:
      inputs: the data.
      config: as `run_fn` gets it.
    """
    recipe = {key: value for key, value in config.items() if key != "work_dir"}
    splits = [split.contents for split in (inputs.train, inputs.evaluation)]
    # How often the state is saved changes nothing of it.
    recipe["training"] = {key: value for key, value in recipe["training"].items() if key != "save_seconds"}
    parts = [[(contents.digest, contents.counts) for contents in splits], recipe]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
