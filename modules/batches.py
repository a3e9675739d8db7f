"""What training is fed with: pictures through the whole model, or kept features through its trained part."""

from __future__ import annotations

import errno
import logging
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import keras
import numpy as np
import tensorflow as tf

from modules import checkpoint, dataset, feature_cache, model, optimizers, progress, segments

_EPOCHS_PER_VIEW = 4
_PLAIN, _PLAIN_NUMBER = "plain view", 1
"""The second view is of the pictures as they are, which is how the model will be asked: augmented ones are something else.
He et al., "Data Augmentation Revisited: Rethinking the Distribution Gap between Clean and Augmented Data", 2019.
"""
_FEATURES = "features"
_SHARE_OF_DISK = 0.25
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
        augment = self._config["augmentation"] if _augments(phase, self._config) else None
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
      needs: what is kept, and what that may have.
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
        needs: _Needs,
        train: dataset.Split,
        evaluation: dataset.Split,
        config: Mapping[str, Any],
    ):
        self.model = suffix
        self.kept: tuple[int, int, int] | None = suffix.input_shape[1:]
        self._cache, self._classifier, self._train, self._config = cache, classifier, train, config
        self._budget, self._keeps_above = needs.budget, needs.keeps_above
        wanted = [feature_cache.Wanted("eval view", evaluation)]
        wanted += [feature_cache.Wanted(_PLAIN, train)] * needs.plain_phase
        self._eval, *self._plain = cache.views(wanted, needs.budget)
        self._augmented: list[feature_cache.View] = []
        self._begins = list(needs.begins)
        if needs.views:
            self._add_view(lambda: False)
        self._above: _Above | None = None

    def begin(self, phase: Mapping[str, Any], epoch: int, interrupted: Callable[[], bool] = lambda: False) -> keras.Model:
        """Begin a phase, and return what it fits: the suffix, or what is above all that stays frozen in it."""
        self._above = None
        passes = _passes(phase, epoch, self._begins, self._train, self._config)
        parts = _split_further(self._classifier, self.model, phase, passes, self._train, self._config)
        if parts is None or not self._keeps_above:
            return self.model
        frozen, top = parts
        above = _Above(self._cache.above(frozen), self._made)
        if len(above.of([self._eval, self._views(phase, epoch, interrupted)[0]], interrupted)) < 2:
            return self.model
        self._above = above
        return top

    def training(
        self, phase: Mapping[str, Any], epoch: int, step: int, interrupted: Callable[[], bool] = lambda: False
    ) -> tuple[tf.data.Dataset, int | None]:
        """Return batches without end, from a step of an epoch on, and after how many epochs there is to be one more view."""
        views, others = self._views(phase, epoch, interrupted), None
        if _augments(phase, self._config):
            others = next((begin - epoch for begin in self._begins if begin > epoch), None)
        if self._above is not None:
            views = self._above.of(views, interrupted)
        training = self._config["training"]
        return feature_cache.training_batches(views, training["batch_size"], training["seed"], epoch, step), others

    def _views(self, phase: Mapping[str, Any], epoch: int, interrupted: Callable[[], bool]) -> Sequence[feature_cache.View]:
        """The views of an epoch; fewer where the disk is full."""
        if not _augments(phase, self._config):
            return self._plain
        number = _number(self._begins, epoch)
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
        if number == _PLAIN_NUMBER:
            return feature_cache.Wanted(_PLAIN, self._train)
        seed, augment = self._config["training"]["seed"], self._config["augmentation"]
        return feature_cache.Wanted(f"view {number + 1}", self._train, seed, augment, number)

    def _made(
        self, cache: feature_cache.FeatureCache, wanted: feature_cache.Wanted, interrupted: Callable[[], bool]
    ) -> feature_cache.View:
        """A view; what an earlier run left of those that are still to come is the last to make way for it."""

        def to_come() -> dict[Path, float]:
            return self._cache.parts([self._wanted(number) for number in range(len(self._augmented), len(self._begins))])

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
        self._above = None  # what it keeps may have to make way
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
    needs = _needs(classifier, suffix, phases, train, evaluation, config, work_dir)
    if needs.total > needs.budget:
        return _on_the_fly(f"{needs} don't fit", classifier, train, evaluation, config, logging.WARNING)
    progress.logger.info("feature cache: %s, at %s", needs, prefix.layers[-1].name)
    cache = feature_cache.FeatureCache(
        work_dir / _FEATURES, prefix, config["training"]["batch_size"], config["views_fingerprint"]
    )
    try:
        return FromFeatures(cache, classifier, suffix, needs, train, evaluation, config)
    except OSError as error:
        if error.errno not in FULL:
            raise
        free = shutil.disk_usage(work_dir).free
        why = f"{error.strerror}, {needs.total / 1e6:,.1f} MB were needed and {free / 1e6:,.1f} MB are free"
        return _on_the_fly(why, classifier, train, evaluation, config, logging.WARNING)


class _Needs(NamedTuple):
    """What the kept features need, and what they may have."""

    begins: Sequence[int]
    """The epoch, over all phases, in which each view is made."""
    augmented_epochs: int
    plain_phase: bool
    """Whether a phase does not augment."""
    view_bytes: int
    eval_bytes: int
    above_bytes: int
    """What is wanted besides, for the phase that trains only what is further up and needs the most."""
    budget: int

    @property
    def views(self) -> int:
        return len(self.begins)

    @property
    def total(self) -> int:
        return (self.views + (self.plain_phase and not self._has_plain)) * self.view_bytes + self.eval_bytes

    @property
    def keeps_above(self) -> bool:
        return self.total + self.above_bytes <= self.budget

    @property
    def _has_plain(self) -> bool:
        return self.views > _PLAIN_NUMBER

    def __str__(self) -> str:
        plain = ", one of them plain," if self._has_plain else ""
        views = f"{self.views} {'view' if self.views == 1 else 'views'}{plain} for {self.augmented_epochs} augmented epochs"
        plain = " and a plain view" if self.plain_phase and not self._has_plain else ""
        sizes = f"{self.view_bytes / 1e6:,.1f} MB each, {self.eval_bytes / 1e6:,.1f} MB for the eval split"
        if self.above_bytes:
            sizes += f", {self.above_bytes / 1e6:,.1f} MB further up{'' if self.keeps_above else ', which do not fit'}"
        allowed = f"{max(0, self.budget) / 1e6:,.1f} MB are allowed and free beside the state of training"
        return f"{views}{plain} ({sizes}; {allowed})"


def _needs(
    classifier: keras.Model,
    suffix: keras.Model,
    phases: Sequence[Mapping[str, Any]],
    train: dataset.Split,
    evaluation: dataset.Split,
    config: Mapping[str, Any],
    work_dir: Path,
) -> _Needs:
    cache = config["training"]["cache"]
    augmented = _augmented_epochs(phases, train, config)
    plain_phase = any(not _augments(phase, config) for phase in phases)
    of_a_row = feature_cache.row_bytes(suffix.input_shape[1:])
    one, of_eval = train.contents.total * of_a_row, evaluation.contents.total * of_a_row
    budget = _budget(work_dir, cache["max_bytes"], checkpoint.state_bytes(suffix))
    begins: list[int] = []
    if augmented:
        is_auto = cache["views"] == "auto"
        wanted = min(len(augmented), max(2, math.ceil(len(augmented) / _EPOCHS_PER_VIEW)) if is_auto else cache["views"])
        between = min(_EPOCHS_PER_VIEW, len(augmented) / wanted)
        begins = [augmented[math.floor(number * between)] for number in range(wanted)]
        if is_auto:
            begins = begins[: max(1, (budget - of_eval) // one)]
    above, epoch = 0, 0
    for phase in phases:
        passes = _passes(phase, epoch, begins, train, config)
        if parts := _split_further(classifier, suffix, phase, passes, train, config):
            rows = passes * train.contents.total + evaluation.contents.total
            above = max(above, rows * feature_cache.row_bytes(parts[1].input_shape[1:]))
        epoch += phase["epochs"]
    return _Needs(begins, len(augmented), plain_phase, one, of_eval, above, budget)


def _number(begins: Sequence[int], epoch: int) -> int:
    """Of the views that there are in an epoch."""
    return sum(begin <= epoch for begin in begins)


def _passes(
    phase: Mapping[str, Any], epoch: int, begins: Sequence[int], train: dataset.Split, config: Mapping[str, Any]
) -> int:
    """The views that there are at the end of a phase, which begins with an epoch."""
    return _number(begins, epoch + _epochs(phase, train, config) - 1) if _augments(phase, config) else 1


def _split_further(
    classifier: keras.Model,
    suffix: keras.Model,
    phase: Mapping[str, Any],
    passes: int,
    train: dataset.Split,
    config: Mapping[str, Any],
) -> tuple[keras.Model, keras.Model] | None:
    """What stays frozen in a phase of the suffix, and what is above it; None if nothing does, or if no pass is saved."""
    if passes >= _epochs(phase, train, config):
        return None
    return model.split_suffix(suffix, optimizers.trained_paths(classifier, [phase]))


def _augmented_epochs(phases: Sequence[Mapping[str, Any]], train: dataset.Split, config: Mapping[str, Any]) -> list[int]:
    """The numbers, over all phases, of the epochs that augment."""
    found: list[int] = []
    before = 0
    for phase in phases:
        if _augments(phase, config):
            found += range(before, before + _epochs(phase, train, config))
        before += phase["epochs"]
    return found


def _epochs(phase: Mapping[str, Any], train: dataset.Split, config: Mapping[str, Any]) -> int:
    """The epochs of a phase that are begun."""
    steps = math.ceil(train.contents.total / config["training"]["batch_size"])
    return min(phase["epochs"], math.ceil(phase["max_steps"] / steps)) if phase["max_steps"] else phase["epochs"]


def _budget(work_dir: Path, max_bytes: int | str, of_state: int) -> int:
    """The bytes that kept features may have, beside the states of this and of earlier trainings."""
    there = next(folder for folder in (work_dir, *work_dir.parents) if folder.exists())
    of_states = segments.size(work_dir / "checkpoints")
    free = shutil.disk_usage(there).free + segments.size(work_dir / _FEATURES)
    allowed = round(_SHARE_OF_DISK * (free + of_states)) if isinstance(max_bytes, str) else max_bytes
    return min(allowed - of_states, free) - of_state


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


def _augments(phase: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    return phase["augmentation"] and config["augmentation"]["enabled"]
