"""What training is fed with: pictures through the whole model, or kept features through its trained part."""

from __future__ import annotations

import errno
import logging
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from modules import dataset, feature_cache, model, needs, optimizers, progress

_PLAIN = "plain view"
_MOST_AT_ONCE, _PIXELS_AT_ONCE = 128, 2**19
"""Pictures that become features at once: 128 of 48 x 48 or 64 x 64 took a tenth less each than 32, of 224 x 224 no less."""
FULL = {errno.ENOSPC, errno.EDQUOT}
"""What is said where there is no room for kept features."""


class Batches(Protocol):
    """What is fitted, and its batches."""

    model: keras.Model
    """Shares its layers with the classifier; a phase fits it, or the upper part of it."""
    kept: tuple[int, int, int] | None
    """Height, width and channels of the kept features that the model takes; None where it takes pictures."""

    def begin(self, phase: Mapping[str, Any], epoch: int, interrupted: Callable[[], bool] = lambda: False) -> keras.Model:
        """Begin a phase, and return what it fits; the batches are for that until another phase is begun.

        Args:
          phase: from `training.phases` of the configuration.
          epoch: its first one, over all phases.
          interrupted: says whether the process was asked to end.

        Raises:
          KeyboardInterrupt: it was, before all was ready.
        """

    def training(
        self, phase: Mapping[str, Any], epoch: int, step: int, interrupted: Callable[[], bool] = lambda: False
    ) -> tuple[tf.data.Dataset, int | None]:
        """Return batches without end, from a step of an epoch on; both count from 0, epochs over all phases.

        Args:
          phase: the one that was begun; says whether to augment.
          epoch: the first one.
          step: the first batch of that epoch.
          interrupted: says whether the process was asked to end.

        Returns:
          The batches, and after how many epochs there are to be others; None if there are not.

        Raises:
          KeyboardInterrupt: the process was asked to end before they were there.
        """

    def evaluation(self) -> tf.data.Dataset:
        """Return the batches of the eval split."""


class FromPictures:
    """Pictures, augmented on the fly, through the whole classifier.

    Args:
      classifier: from images to probabilities.
      train: is fitted.
      evaluation: is watched.
      config: the sections `training` and `augmentation` of the configuration.
    """

    kept: tuple[int, int, int] | None = None

    def __init__(self, classifier: keras.Model, train: dataset.Split, evaluation: dataset.Split, config: Mapping[str, Any]):
        self.model = classifier
        self._train, self._eval, self._config = train, evaluation, config

    def begin(self, phase: Mapping[str, Any], epoch: int, interrupted: Callable[[], bool] = lambda: False) -> keras.Model:
        """Return the classifier."""
        return self.model

    def training(
        self, phase: Mapping[str, Any], epoch: int, step: int, interrupted: Callable[[], bool] = lambda: False
    ) -> tuple[tf.data.Dataset, int | None]:
        """Return batches without end, from a step of an epoch on, and that all later epochs' are among them."""
        augment = self._config["augmentation"] if needs.augments(phase, self._config) else None
        training = self._config["training"]
        batches = dataset.training_batches(self._train, training["batch_size"], training["seed"], augment, epoch, step)
        return batches, None

    def evaluation(self) -> tf.data.Dataset:
        """Return the batches of the eval split."""
        total = self._eval.contents.total
        size = _evaluation_batch_size(total, self._config)
        # Keras warns of pictures that are missing where it does not know how many there are.
        counted = tf.data.experimental.assert_cardinality(math.ceil(total / size))
        return dataset.evaluation_batches(self._eval, size).apply(counted)


class FromFeatures:
    """What the frozen prefix makes of views of the pictures, kept on disk, through the suffix.

    A view is made when its epoch comes, spread over the epochs that augment: a learning rate that is too high shows before
    all are there, and the model learns from those before until then. The second is of the pictures as they are. Where a
    phase trains only what is further up, the views become views up to there, once instead of in each of its epochs.

    Args:
      cache: of the prefix.
      classifier: says what a phase trains.
      suffix: from features to probabilities.
      needed: what is kept, and what that may have.
      train: is fitted.
      evaluation: is watched.
      config: the sections `training` and `augmentation` of the configuration.

    Raises:
      OSError: there is no room for those of the first epoch.
    """

    def __init__(
        self,
        cache: feature_cache.FeatureCache,
        classifier: keras.Model,
        suffix: keras.Model,
        needed: needs.Needs,
        train: dataset.Split,
        evaluation: dataset.Split,
        config: Mapping[str, Any],
    ):
        self.model = suffix
        self.kept: tuple[int, int, int] | None = suffix.input_shape[1:]
        self._cache, self._classifier, self._train, self._config = cache, classifier, train, config
        self._budget, self._keeps_above = needed.budget, needed.keeps_above
        wanted = [feature_cache.Wanted("eval view", evaluation)]
        wanted += [feature_cache.Wanted(_PLAIN, train)] * needed.plain_phase
        self._eval, *self._plain = cache.views(wanted, needed.budget)
        self._augmented: list[feature_cache.View] = []
        self._begins = list(needed.begins)
        if needed.views:
            self._add_view(lambda: False)
        self._above: _Above | None = None

    def begin(self, phase: Mapping[str, Any], epoch: int, interrupted: Callable[[], bool] = lambda: False) -> keras.Model:
        """Begin a phase, and return what it fits: the suffix, or what is above all that stays frozen in it."""
        self._above = None
        if not (self._keeps_above and needs.saves_passes(phase, epoch, self._begins, self._train, self._config)):
            return self.model
        parts = model.split_suffix(self.model, optimizers.trained_paths(self._classifier, [phase]))
        if parts is None:
            return self.model
        frozen, top = parts
        above = _Above(self._cache.above(frozen), self._made)
        first = self._views(phase, epoch, interrupted)[0]
        if not all(above.of([view], interrupted) for view in (self._eval, first)):
            return self.model
        self._above = above
        return top

    def training(
        self, phase: Mapping[str, Any], epoch: int, step: int, interrupted: Callable[[], bool] = lambda: False
    ) -> tuple[tf.data.Dataset, int | None]:
        """Return batches without end, from a step of an epoch on, and after how many epochs there is to be one more view."""
        views, others = self._views(phase, epoch, interrupted), None
        if needs.augments(phase, self._config):
            others = next((begin - epoch for begin in self._begins if begin > epoch), None)
        if self._above is not None:
            views = self._above.of(views, interrupted)
        training = self._config["training"]
        return feature_cache.training_batches(views, training["batch_size"], training["seed"], epoch, step), others

    def _views(self, phase: Mapping[str, Any], epoch: int, interrupted: Callable[[], bool]) -> Sequence[feature_cache.View]:
        """The views of an epoch; fewer where the disk is full."""
        if not needs.augments(phase, self._config):
            return self._plain
        number = needs.number_of_views(self._begins, epoch)
        while len(self._augmented) < min(number, len(self._begins)):
            try:
                self._add_view(interrupted)
            except OSError as error:
                if error.errno not in FULL:
                    raise
                del self._begins[len(self._augmented) :]
                progress.logger.warning("feature cache: %s, %d views have to do", error.strerror, len(self._augmented))
        return self._augmented[:number]

    def _add_view(self, interrupted: Callable[[], bool]) -> None:
        wanted = self._wanted(len(self._augmented))
        self._augmented.append(self._made(self._cache, wanted, interrupted))

    def _wanted(self, number: int) -> feature_cache.Wanted:
        if number == needs.PLAIN_NUMBER:
            return feature_cache.Wanted(_PLAIN, self._train)
        seed, augment = self._config["training"]["seed"], self._config["augmentation"]
        return feature_cache.Wanted(f"view {number + 1}", self._train, seed, augment, number)

    def _made(
        self, cache: feature_cache.FeatureCache, wanted: feature_cache.Wanted, interrupted: Callable[[], bool]
    ) -> feature_cache.View:
        """A view; for it all else makes way before what an earlier run left of those that are still to come."""

        def to_come() -> dict[Path, float]:
            after = len(self._augmented) + (cache is self._cache)
            parts = self._cache.parts([self._wanted(number) for number in range(after, len(self._begins))])
            # To compute those again costs more than what is further up saves.
            return parts if cache is self._cache else {folder: math.ceil(part) for folder, part in parts.items()}

        (view,) = cache.views([wanted], self._budget, interrupted, to_come)
        return view

    def evaluation(self) -> tf.data.Dataset:
        """Return the batches of the eval split."""
        view = self._eval if self._above is None else self._above.of([self._eval])[0]
        return feature_cache.evaluation_batches(view, _evaluation_batch_size(len(view), self._config))

    def predict(self, split: dataset.Split) -> np.ndarray:
        """Return what the model says of pictures as they are: float32 `[pictures, classes]`, in the split's order.

        Args:
          split: whose pictures.
        """
        (view,) = self._cache.views([feature_cache.Wanted("held-out view", split)], self._budget)
        said = self.model.predict(
            feature_cache.evaluation_batches(view, _evaluation_batch_size(len(view), self._config)), verbose=0
        )
        found = np.empty(said.shape, np.float32)
        found[np.argsort(split.contents.ids)] = said
        return found


class _Above:
    """What views become further up.

    Args:
      cache: of what leads there.
      made: what makes a view of that cache.
    """

    def __init__(self, cache: feature_cache.FeatureCache, made: Callable[..., feature_cache.View]):
        self._cache, self._made = cache, made
        self._there: dict[feature_cache.View, feature_cache.View | None] = {}

    def of(
        self, views: Sequence[feature_cache.View], interrupted: Callable[[], bool] = lambda: False
    ) -> list[feature_cache.View]:
        """What views become; fewer where the disk is full."""
        for view in views:
            if view not in self._there:
                wanted = view.above(self._cache.layer)
                try:
                    self._there[view] = self._made(self._cache, wanted, interrupted)
                except OSError as error:
                    if error.errno not in FULL:
                        raise
                    self._there[view] = None
                    progress.logger.warning("feature cache: %s, %s is not kept", error.strerror, wanted.name)
        return [found for view in views if (found := self._there[view]) is not None]


def prepare(
    classifier: keras.Model, train: dataset.Split, evaluation: dataset.Split, config: Mapping[str, Any], work_dir: Path
) -> Batches:
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
    if not feature_cache.can_keep(train, config["augmentation"]):
        return _on_the_fly("pictures that are mixed don't fit into memory", classifier, train, evaluation, config)
    needed = needs.find(classifier, suffix, phases, train, evaluation, config, work_dir)
    if needed.total > needed.budget:
        return _on_the_fly(f"{needed} don't fit", classifier, train, evaluation, config, logging.WARNING)
    progress.logger.info("feature cache: %s, at %s", needed, prefix.layers[-1].name)
    at_once = max(
        config["training"]["batch_size"], min(_MOST_AT_ONCE, _PIXELS_AT_ONCE // math.prod(prefix.input_shape[1:3]))
    )
    cache = feature_cache.FeatureCache(work_dir / needs.FEATURES, prefix, at_once, config["views_fingerprint"])
    try:
        return FromFeatures(cache, classifier, suffix, needed, train, evaluation, config)
    except OSError as error:
        if error.errno not in FULL:
            raise
        free = shutil.disk_usage(work_dir).free
        why = f"{error.strerror}, {needed.total / 1e6:,.1f} MB were needed and {free / 1e6:,.1f} MB are free"
        return _on_the_fly(why, classifier, train, evaluation, config, logging.WARNING)


def _evaluation_batch_size(pictures: int, config: Mapping[str, Any]) -> int:
    """The batch size, but for several devices, whose parts of the first batch Keras needs to be equal."""
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return max(1, min(config["training"]["batch_size"], pictures) // replicas) * replicas


def _on_the_fly(
    why: str,
    classifier: keras.Model,
    train: dataset.Split,
    evaluation: dataset.Split,
    config: Mapping[str, Any],
    level: int = logging.INFO,
) -> FromPictures:
    progress.logger.log(level, "feature cache: %s; every epoch goes through the whole model", why)
    return FromPictures(classifier, train, evaluation, config)
