"""Cross-validation on kept features: each picture is answered by a model that saw neither it nor anything of its group."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from modules import batches, checkpoint, dataset, durable, progress, trainer
from modules import contents as contents_of

_FOLDER = "folds"


class FoldsError(ValueError):
    """Data, or a recipe, that can't be cross-validated; the message says what would do."""


class OutOfFold(NamedTuple):
    """What was said of pictures, in the order of their files."""

    folds: np.ndarray
    """In which each was held out, int64 `[pictures]`, from 0."""
    probabilities: np.ndarray
    """float32 `[pictures, classes]`."""
    learnt: np.ndarray
    """Whether the model that answered had pictures of the picture's class to learn from, bool `[pictures]`."""


class _Fold(NamedTuple):
    """What is held out, learnt from and watched: places of pictures, ascending."""

    held_out: np.ndarray
    train: np.ndarray
    watched: np.ndarray


def divide(contents: contents_of.Contents, groups: Sequence[str], folds: int, seed: int) -> np.ndarray:
    """Return the fold of each picture: no group is in two, and each has about as many of each class.

    It follows from the groups and the seed alone, however the pictures lie in files. The largest groups choose first, each
    the fold that has the smallest share of its classes so far; among alike ones that with the fewest pictures.

    Args:
      contents: of the pictures, as `modules.contents.Contents` has them.
      groups: of each picture.
      folds: how many.
      seed: of the division.

    Returns:
      int64 `[pictures]`, from 0.
    """
    _, codes = np.unique(np.array(groups), return_inverse=True)
    sizes, of_classes = np.bincount(codes), np.maximum(np.array(contents.counts), 1)
    in_groups = np.argsort(codes, kind="stable")
    members = np.split(contents.label_ids[in_groups], np.cumsum(sizes)[:-1])
    shuffled = np.random.default_rng(seed).permutation(len(sizes))
    shares, pictures = np.zeros((folds, contents.num_classes)), np.zeros(folds, np.int64)
    found = np.empty(len(sizes), np.int64)
    for group in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        classes, counts = np.unique(members[group], return_counts=True)
        own = counts / of_classes[classes]
        load = np.round(shares[:, classes] @ own, 9)  # what is alike must not differ by the order of a sum
        chosen = np.lexsort((pictures, load))[0]
        shares[chosen, classes] += own
        pictures[chosen] += sizes[group]
        found[group] = chosen
    return found[codes]


def predict(
    inputs: trainer.Inputs, pictures: dataset.Split, groups: Sequence[str], folds: int, config: Mapping[str, Any]
) -> OutOfFold:
    """Train once for each fold without it, and have it answered; a cross-validation that was killed is gone on with.

    What a training watches, to stop and to choose its epoch, is cut from what it has: what is held out chooses nothing.

    Args:
      inputs: what ImageExampleGen and Transform made; how its splits compare says how much each training watches.
      pictures: those of both splits.
      groups: of each picture.
      folds: how many.
      config: as `modules.trainer.run_fn` gets it.

    Raises:
      FoldsError: there is too little to divide, or no prefix stays frozen.
    """
    seed, contents = config["training"]["seed"], pictures.contents
    watched_of = max(2, round(contents.total / max(1, inputs.evaluation.contents.total)))
    division, plans = _plan(contents, np.array(groups), folds, watched_of, seed)
    learnt = _learnt(contents, division, plans)
    done = Path(config["work_dir"]) / _FOLDER / _identity(contents, plans, config)
    probabilities = np.empty((contents.total, contents.num_classes), np.float32)
    for number, plan in enumerate(plans):
        if not len(plan.held_out):  # a few large groups leave some folds empty
            continue
        kept = done / f"{number}.npy"
        # Where the same pictures lie otherwise in files, what was kept is of them all the same.
        held_out = plan.held_out[np.argsort(contents.ids[plan.held_out])]
        if not kept.exists():
            began = time.monotonic()
            progress.logger.info("fold %d of %d: %d pictures are held out", number + 1, folds, len(held_out))
            answered = _answered(inputs, pictures, plan, config)[np.searchsorted(plan.held_out, held_out)]
            durable.make_folder(done)  # another run may have pruned it
            durable.replace(kept, functools.partial(np.save, arr=answered))
            checkpoint.prune(done.parent, keep=done.name)
            right = np.mean(answered.argmax(axis=1) == contents.label_ids[held_out])
            progress.logger.info("fold %d of %d: accuracy %.4f, %.0f s", number + 1, folds, right, time.monotonic() - began)
        probabilities[held_out] = np.load(kept)
    return OutOfFold(division, probabilities, learnt)


def _plan(
    contents: contents_of.Contents, groups: np.ndarray, folds: int, watched_of: int, seed: int
) -> tuple[np.ndarray, list[_Fold]]:
    """The fold of each picture, and what becomes of all pictures in each, before anything is trained."""
    distinct = len(np.unique(groups))
    # Without a fold there must be one group to learn from, and one to watch.
    if distinct < max(3, folds):
        raise FoldsError(
            f"evaluation.folds = {folds}: the {contents.total} pictures in train and eval are {distinct} groups of what"
            f" belongs together; expected {max(3, folds)} or more, or fewer folds"
        )
    division, plans = divide(contents, groups.tolist(), folds, seed), []
    for number in range(folds):
        rest = np.flatnonzero(division != number)
        parts = min(watched_of, len(np.unique(groups[rest])))
        if parts < 2:
            raise FoldsError(
                f"evaluation.folds = {folds}: without fold {number + 1} one group of pictures is left, and none to watch;"
                " expected more folds, or more groups"
            )
        inner = divide(contents.part(rest), groups[rest].tolist(), parts, seed)
        sizes = np.bincount(inner, minlength=parts)
        nearest = np.argmin(np.where(sizes, np.abs(sizes - len(rest) / watched_of), np.inf))
        watched = inner == nearest
        plans.append(_Fold(np.flatnonzero(division == number), rest[~watched], rest[watched]))
    return division, plans


def _learnt(contents: contents_of.Contents, division: np.ndarray, plans: Sequence[_Fold]) -> np.ndarray:
    """Whether each picture's class is among those that are learnt without its fold; says how many pictures' is not."""
    classes = np.array([np.bincount(contents.label_ids[plan.train], minlength=contents.num_classes) for plan in plans])
    learnt = classes[division, contents.label_ids] > 0
    if not learnt.all():
        progress.logger.warning(
            "folds: for %d pictures no other ones of their class are learnt from, as these are too few or belong together;"
            " they count as mistakes, and as no suspects",
            np.sum(~learnt),
        )
    return learnt


def _answered(inputs: trainer.Inputs, pictures: dataset.Split, plan: _Fold, config: Mapping[str, Any]) -> np.ndarray:
    """What a model that was trained without a fold says of it."""
    keras.backend.clear_session()
    own = inputs._replace(train=pictures.part(plan.train), evaluation=pictures.part(plan.watched))
    try:
        trained = trainer.train(own, config, None, only_if_kept=True)
    except trainer.NothingKeptError as error:
        raise FoldsError(
            f"evaluation.folds: {error}; expected a prefix that stays frozen in training.phases, and room for its features"
            " (training.cache), or evaluation.folds = null"
        ) from None
    assert isinstance(trained.batches, batches.FromFeatures)
    held_out = pictures.part(plan.held_out)
    try:
        found = trained.batches.predict(held_out)
    except OSError as error:
        if error.errno not in batches.FULL:
            raise
        progress.logger.warning("feature cache: %s, what is held out is answered without it", error.strerror)
        size = config["training"]["batch_size"]
        pictures_of_fold = dataset.evaluation_batches(held_out, size)
        found = trained.classifier.predict(pictures_of_fold, steps=math.ceil(len(plan.held_out) / size), verbose=0)
    # The next ones need the room.
    shutil.rmtree(trained.state_dir, ignore_errors=True)
    return found


def _identity(contents: contents_of.Contents, plans: Sequence[_Fold], config: Mapping[str, Any]) -> str:
    """A name for just this: the same pictures in the same places of each fold, the same recipe and code."""
    parts: list[Any] = [contents.digest]
    parts += [[contents.part(places).digest for places in plan] for plan in plans]
    parts.append({key: value for key, value in config.items() if key != "work_dir"})
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
