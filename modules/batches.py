"""What training is fed with: pictures through the whole model, or kept features through its trained part."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import keras
import tensorflow as tf

from modules import dataset, feature_cache, model, optimizers, progress

_EPOCHS_PER_VIEW = 4


class Batches(Protocol):
    """The model that is fitted, and its batches."""

    model: keras.Model
    """Shares its layers with the classifier."""
    kept: tuple[int, int, int] | None
    """Height, width and channels of the kept features that the batches are; None where they are pictures."""

    def training(self, phase: Mapping[str, Any], epoch: int, step: int) -> tf.data.Dataset:
        """Return batches without end, from a step of an epoch on; both count from 0, epochs over all phases.

        Args:
          phase: from `training.phases` of the configuration; says whether to augment.
          epoch: the first one.
          step: the first batch of that epoch.
        """

    def evaluation(self) -> tf.data.Dataset:
        """Return the batches of the eval split."""


class Split(NamedTuple):
    """A split and what is in it."""

    data: dataset.TransformedSplit
    contents: dataset.Contents


class FromPictures:
    """Pictures, augmented on the fly, through the whole classifier.

    Args:
      classifier: from images to probabilities.
      train: is fitted.
      evaluation: is watched.
      config: the sections `training` and `augmentation` of the configuration.
    """

    kept: tuple[int, int, int] | None = None

    def __init__(self, classifier: keras.Model, train: Split, evaluation: Split, config: Mapping[str, Any]):
        self.model = classifier
        self._train, self._eval, self._config = train, evaluation, config

    def training(self, phase: Mapping[str, Any], epoch: int, step: int) -> tf.data.Dataset:
        """Return batches without end, from a step of an epoch on."""
        augment = self._config["augmentation"] if _augments(phase, self._config) else None
        training = self._config["training"]
        return dataset.training_batches(
            self._train.data,
            training["batch_size"],
            training["seed"],
            augment,
            epoch,
            step,
            self._train.contents.total,
        )

    def evaluation(self) -> tf.data.Dataset:
        """Return the batches of the eval split."""
        return dataset.evaluation_batches(self._eval.data, _evaluation_batch_size(self._eval.contents.total, self._config))


class FromFeatures:
    """What the frozen prefix makes of views of the pictures, kept on disk, through the suffix.

    Args:
      suffix: from features to probabilities.
      augmented: views of the train split.
      plain: the train split as it is, where some phase does not augment.
      evaluation: the eval split.
      config: the sections `training` and `augmentation` of the configuration.
    """

    def __init__(
        self,
        suffix: keras.Model,
        augmented: Sequence[feature_cache.View],
        plain: Sequence[feature_cache.View],
        evaluation: feature_cache.View,
        config: Mapping[str, Any],
    ):
        self.model = suffix
        self.kept: tuple[int, int, int] | None = suffix.input_shape[1:]
        self._augmented, self._plain, self._eval, self._config = augmented, plain, evaluation, config

    def training(self, phase: Mapping[str, Any], epoch: int, step: int) -> tf.data.Dataset:
        """Return batches without end, from a step of an epoch on."""
        views = self._augmented if _augments(phase, self._config) else self._plain
        training = self._config["training"]
        return feature_cache.training_batches(views, training["batch_size"], training["seed"], epoch, step)

    def evaluation(self) -> tf.data.Dataset:
        """Return the batches of the eval split."""
        return feature_cache.evaluation_batches(self._eval, _evaluation_batch_size(len(self._eval.features), self._config))


def prepare(classifier: keras.Model, train: Split, evaluation: Split, config: Mapping[str, Any], work_dir: Path) -> Batches:
    """Return kept features where the configuration freezes a prefix and they fit, else pictures; say which, and why.

    Args:
      classifier: from images to probabilities.
      train: is fitted.
      evaluation: is watched.
      config: the sections `training` and `augmentation` of the configuration, and `views_fingerprint`, of the code that
        makes views.
      work_dir: folder on a file system of this machine for what is kept.
    """
    phases = [phase for phase in config["training"]["phases"] if phase["epochs"]]
    if config["training"]["cache"]["views"] == 0:
        return _on_the_fly("off", classifier, train, evaluation, config)
    parts = model.split(classifier, optimizers.trained_paths(classifier, phases))
    if parts is None:
        return _on_the_fly("no layer stays frozen", classifier, train, evaluation, config)
    prefix, suffix = parts
    root = work_dir / "features"
    needs = _needs(prefix, phases, train, evaluation, config, feature_cache.available(root))
    if needs.total > needs.budget:
        return _on_the_fly(f"{needs} don't fit", classifier, train, evaluation, config, logging.WARNING)
    progress.logger.info("feature cache: %s, at %s", needs, prefix.layers[-1].name)
    cache = feature_cache.FeatureCache(root, prefix, config["training"]["batch_size"], config["views_fingerprint"])
    return _kept(cache, suffix, needs, train, evaluation, config)


class _Needs(NamedTuple):
    """What the kept features need, and what they may have."""

    views: int
    augmented_epochs: int
    with_plain: bool
    view_bytes: int
    eval_bytes: int
    budget: int

    @property
    def total(self) -> int:
        return (self.views + self.with_plain) * self.view_bytes + self.eval_bytes

    def __str__(self) -> str:
        views = f"{self.views} augmented {'view' if self.views == 1 else 'views'} for {self.augmented_epochs} epochs"
        plain = " and a plain one" if self.with_plain else ""
        sizes = f"{self.view_bytes / 1e6:,.1f} MB each, {self.eval_bytes / 1e6:,.1f} MB for the eval split"
        return f"{views}{plain} ({sizes}; {self.budget / 1e6:,.1f} MB are allowed and free)"


def _needs(
    prefix: keras.Model,
    phases: Sequence[Mapping[str, Any]],
    train: Split,
    evaluation: Split,
    config: Mapping[str, Any],
    available: int,
) -> _Needs:
    cache = config["training"]["cache"]
    augmented = sum(phase["epochs"] for phase in phases if _augments(phase, config))
    with_plain = any(not _augments(phase, config) for phase in phases)
    one = feature_cache.view_bytes(prefix, train.contents.total, train.data.num_classes)
    of_eval = feature_cache.view_bytes(prefix, evaluation.contents.total, train.data.num_classes)
    budget = min(cache["max_bytes"], available)
    if not augmented:
        views = 0
    elif cache["views"] != "auto":
        views = min(cache["views"], augmented)
    else:
        wanted = max(min(2, augmented), math.ceil(augmented / _EPOCHS_PER_VIEW))
        views = max(1, min(wanted, (budget - of_eval) // one - with_plain))
    return _Needs(views, augmented, with_plain, one, of_eval, budget)


def _kept(
    cache: feature_cache.FeatureCache,
    suffix: keras.Model,
    needs: _Needs,
    train: Split,
    evaluation: Split,
    config: Mapping[str, Any],
) -> FromFeatures:
    batch_size, seed, augment = config["training"]["batch_size"], config["training"]["seed"], config["augmentation"]
    classes = train.data.num_classes
    # The batch size is part of it: pictures are mixed within a batch, and seeds go by the batch.
    augmented_key = cache.key(train.contents.digest, json.dumps(augment, sort_keys=True), seed, batch_size)
    plain_key, eval_key = cache.key(train.contents.digest), cache.key(evaluation.contents.digest)
    cache.make_room(needs.total, needs.budget, keep={augmented_key, plain_key, eval_key})

    def augmented(epoch: int) -> feature_cache.View:
        def batches(step: int) -> tf.data.Dataset:
            return dataset.training_batches(train.data, batch_size, seed, augment, epoch, step)

        return cache.view(augmented_key, f"view {epoch + 1}", batches, train.contents.total, classes)

    def plain(key: str, name: str, split: Split) -> feature_cache.View:
        def batches(step: int) -> tf.data.Dataset:
            return dataset.evaluation_batches(split.data, batch_size).skip(step)

        return cache.view(key, name, batches, split.contents.total, classes)

    return FromFeatures(
        suffix,
        [augmented(epoch) for epoch in range(needs.views)],
        [plain(plain_key, "plain view", train)] if needs.with_plain else [],
        plain(eval_key, "eval view", evaluation),
        config,
    )


def _evaluation_batch_size(pictures: int, config: Mapping[str, Any]) -> int:
    """The batch size, but for several devices, whose parts of the first batch Keras needs to be equal."""
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return max(1, min(config["training"]["batch_size"], pictures) // replicas) * replicas


def _on_the_fly(
    why: str,
    classifier: keras.Model,
    train: Split,
    evaluation: Split,
    config: Mapping[str, Any],
    level: int = logging.INFO,
) -> FromPictures:
    progress.logger.log(level, "feature cache: %s; every epoch goes through the whole model", why)
    return FromPictures(classifier, train, evaluation, config)


def _augments(phase: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    return phase["augmentation"] and config["augmentation"]["enabled"]
