"""How many views a training keeps, when each is made, and the room for them."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras

from modules import checkpoint, dataset, feature_cache, model, optimizers, segments

FEATURES = "features"
"""Folder of what is kept, in the folder for work."""
PLAIN_NUMBER = 1
"""The second view is of the pictures as they are, which is how the model will be asked: augmented ones are something else.
He et al., "Data Augmentation Revisited: Rethinking the Distribution Gap between Clean and Augmented Data", 2019.
"""
_EPOCHS_PER_VIEW = 4
_SHARE_OF_DISK = 0.25


class Needs(NamedTuple):
    """What the kept features need, and what they may have."""

    begins: Sequence[int]
    """The epoch, over all phases, in which each view is made."""
    augmented_epochs: int
    plain_phase: bool
    """Whether a phase does not augment."""
    view_bytes: int
    eval_bytes: int
    above_bytes: int
    """What is wanted besides, for the phases that train only what is further up."""
    budget: int

    @property
    def views(self) -> int:
        """How many there are to be."""
        return len(self.begins)

    @property
    def total(self) -> int:
        """The bytes of all views."""
        return (self.views + (self.plain_phase and not self._has_plain)) * self.view_bytes + self.eval_bytes

    @property
    def keeps_above(self) -> bool:
        """Whether what is further up has room besides."""
        return self.total + self.above_bytes <= self.budget

    @property
    def _has_plain(self) -> bool:
        return self.views > PLAIN_NUMBER

    def __str__(self) -> str:
        """Return it for people."""
        plain = ", one of them plain," if self._has_plain else ""
        views = f"{self.views} {'view' if self.views == 1 else 'views'}{plain} for {self.augmented_epochs} augmented epochs"
        plain = " and a plain view" if self.plain_phase and not self._has_plain else ""
        sizes = f"{self.view_bytes / 1e6:,.1f} MB each, {self.eval_bytes / 1e6:,.1f} MB for the eval split"
        if self.above_bytes:
            sizes += f", {self.above_bytes / 1e6:,.1f} MB further up{'' if self.keeps_above else ', which do not fit'}"
        allowed = f"{max(0, self.budget) / 1e6:,.1f} MB are allowed and free beside the state of training"
        return f"{views}{plain} ({sizes}; {allowed})"


def find(
    classifier: keras.Model,
    suffix: keras.Model,
    phases: Sequence[Mapping[str, Any]],
    train: dataset.Split,
    evaluation: dataset.Split,
    config: Mapping[str, Any],
    work_dir: Path,
) -> Needs:
    """Return what a training needs.

    Args:
      classifier: says what a phase trains.
      suffix: the part of it above the frozen prefix, whose outputs are kept.
      phases: those of `training.phases` of the configuration that have epochs.
      train: is fitted.
      evaluation: is watched.
      config: the sections `training` and `augmentation` of the configuration.
      work_dir: where it is kept.
    """
    cache = config["training"]["cache"]
    augmented = _augmented_epochs(phases, train, config)
    plain_phase = any(not augments(phase, config) for phase in phases)
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
    above = _above_bytes(classifier, suffix, phases, begins, train, evaluation, config)
    return Needs(begins, len(augmented), plain_phase, one, of_eval, above, budget)


def number_of_views(begins: Sequence[int], epoch: int) -> int:
    """Return how many views there are in an epoch.

    Args:
      begins: the epoch in which each is made.
      epoch: from 0, over all phases.
    """
    return sum(begin <= epoch for begin in begins)


def saves_passes(
    phase: Mapping[str, Any], epoch: int, begins: Sequence[int], train: dataset.Split, config: Mapping[str, Any]
) -> bool:
    """Return whether a phase has fewer views than epochs: what is computed once a view is then computed less often.

    Args:
      phase: from `training.phases` of the configuration.
      epoch: its first one, from 0, over all phases.
      begins: the epoch in which each view is made.
      train: is fitted.
      config: the sections `training` and `augmentation` of the configuration.
    """
    return _views_at_end(phase, epoch, begins, train, config) < _epochs(phase, train, config)


def augments(phase: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Return whether a phase augments.

    Args:
      phase: from `training.phases` of the configuration.
      config: its section `augmentation`.
    """
    return phase["augmentation"] and config["augmentation"]["enabled"]


def _views_at_end(
    phase: Mapping[str, Any], epoch: int, begins: Sequence[int], train: dataset.Split, config: Mapping[str, Any]
) -> int:
    return number_of_views(begins, epoch + _epochs(phase, train, config) - 1) if augments(phase, config) else 1


def _above_bytes(
    classifier: keras.Model,
    suffix: keras.Model,
    phases: Sequence[Mapping[str, Any]],
    begins: Sequence[int],
    train: dataset.Split,
    evaluation: dataset.Split,
    config: Mapping[str, Any],
) -> int:
    """What the phases need that train only what is further up; what one has used is in use until the process ends."""
    total = 0
    for phase, epoch in _with_first_epochs(phases):
        parts = model.split_suffix(suffix, optimizers.trained_paths(classifier, [phase]))
        if parts is not None and saves_passes(phase, epoch, begins, train, config):
            rows = _views_at_end(phase, epoch, begins, train, config) * train.contents.total + evaluation.contents.total
            total += rows * feature_cache.row_bytes(parts[1].input_shape[1:])
    return total


def _augmented_epochs(phases: Sequence[Mapping[str, Any]], train: dataset.Split, config: Mapping[str, Any]) -> list[int]:
    """The numbers, over all phases, of the epochs that augment."""
    return [
        epoch + number
        for phase, epoch in _with_first_epochs(phases)
        if augments(phase, config)
        for number in range(_epochs(phase, train, config))
    ]


def _with_first_epochs(phases: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], int]]:
    """Each phase, and the number of its first epoch over all of them."""
    return zip(phases, itertools.accumulate((phase["epochs"] for phase in phases), initial=0), strict=False)


def _epochs(phase: Mapping[str, Any], train: dataset.Split, config: Mapping[str, Any]) -> int:
    """The epochs of a phase that are begun."""
    steps = math.ceil(train.contents.total / config["training"]["batch_size"])
    return min(phase["epochs"], math.ceil(phase["max_steps"] / steps)) if phase["max_steps"] else phase["epochs"]


def _budget(work_dir: Path, max_bytes: int | str, of_state: int) -> int:
    """The bytes that kept features may have, beside the states of this and of earlier trainings."""
    there = next(folder for folder in (work_dir, *work_dir.parents) if folder.exists())
    of_states = segments.size(work_dir / "checkpoints")
    free = shutil.disk_usage(there).free + segments.size(work_dir / FEATURES)
    allowed = round(_SHARE_OF_DISK * (free + of_states)) if isinstance(max_bytes, str) else max_bytes
    return min(allowed - of_states, free) - of_state
