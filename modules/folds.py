"""Cross-validation on kept features: each picture is answered by a model that saw neither it nor anything of its group."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from sklearn import model_selection

from modules import batches, dataset, durable, progress, trainer
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


def divide(contents: contents_of.Contents, groups: Sequence[str], folds: int, seed: int) -> np.ndarray:
    """Return the fold of each picture: no group is in two, and each has about as many of each class.

    It follows from the pictures, their groups and the seed alone, however they lie in files.

    Args:
      contents: of the pictures, as `modules.contents.Contents` has them.
      groups: of each picture.
      folds: how many.
      seed: of the division.

    Returns:
      int64 `[pictures]`, from 0.

    Raises:
      FoldsError: there are too few groups, or too few of every class.
    """
    order = np.argsort(contents.ids)
    names, codes = np.unique(np.array(groups)[order], return_inverse=True)
    labels = contents.label_ids[order]
    most = _most(contents, groups)
    if most < folds:
        raise FoldsError(
            f"evaluation.folds = {folds}: there are {len(names)} groups of pictures, and {contents.total} pictures, of which"
            f" the most frequent class has {max(contents.counts)}; expected at most {most} folds, or more pictures"
        )
    alone = len(names) == len(order)
    kind = model_selection.StratifiedKFold if alone else model_selection.StratifiedGroupKFold
    found = np.empty(len(order), np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes with few pictures, of which the data's gate tells
        divisions = kind(folds, shuffle=True, random_state=seed).split(order, labels, None if alone else codes)
        for number, (_, held_out) in enumerate(divisions):
            found[order[held_out]] = number
    return found


def _most(contents: contents_of.Contents, groups: Sequence[str]) -> int:
    """How many folds there may be."""
    return min(len(set(groups)), max(contents.counts))


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
    seed = config["training"]["seed"]
    division = divide(pictures.contents, groups, folds, seed)
    watched_of = max(2, round(pictures.contents.total / max(1, inputs.evaluation.contents.total)))
    done = Path(config["work_dir"]) / _FOLDER / _identity(pictures, division, config)
    for other in done.parent.glob("*"):
        if other != done:
            shutil.rmtree(other, ignore_errors=True)
    durable.make_folder(done)
    probabilities = np.empty((pictures.contents.total, pictures.contents.num_classes), np.float32)
    all_groups = np.array(groups)
    for number in range(folds):
        kept, held_out = done / f"{number}.npy", np.flatnonzero(division == number)
        if not kept.exists():
            began = time.monotonic()
            rest = np.flatnonzero(division != number)
            progress.logger.info("fold %d of %d: %d pictures are held out", number + 1, folds, len(held_out))
            inner = _watched(pictures.part(rest).contents, all_groups[rest].tolist(), watched_of, seed)
            answered = _train(inputs, pictures, rest[~inner], rest[inner], config).predict(pictures.part(held_out))
            durable.replace(kept, functools.partial(np.save, arr=answered))
            right = np.mean(answered.argmax(axis=1) == pictures.contents.label_ids[held_out])
            progress.logger.info("fold %d of %d: accuracy %.4f, %.0f s", number + 1, folds, right, time.monotonic() - began)
        probabilities[held_out] = np.load(kept)
    return OutOfFold(division, probabilities)


def _watched(contents: contents_of.Contents, groups: Sequence[str], one_in: int, seed: int) -> np.ndarray:
    """Which of some pictures a training on them watches, instead of learning from them."""
    return divide(contents, groups, max(2, min(one_in, _most(contents, groups))), seed) == 0


def _train(
    inputs: trainer.Inputs, pictures: dataset.Split, train: np.ndarray, watched: np.ndarray, config: Mapping[str, Any]
) -> batches.FromFeatures:
    keras.backend.clear_session()
    own = inputs._replace(train=pictures.part(train), evaluation=pictures.part(watched))
    try:
        trained = trainer.train(own, config, None, only_if_kept=True)
    except trainer.NothingKeptError as error:
        raise FoldsError(
            f"evaluation.folds: {error}; expected a prefix that stays frozen in training.phases, and room for its features"
            " (training.cache), or evaluation.folds = null"
        ) from None
    assert isinstance(trained.batches, batches.FromFeatures)
    return trained.batches


def _identity(pictures: dataset.Split, division: np.ndarray, config: Mapping[str, Any]) -> str:
    """A name for just this: the same pictures, division, recipe and code."""
    order = np.argsort(pictures.contents.ids)
    recipe = {key: value for key, value in config.items() if key != "work_dir"}
    parts = [pictures.contents.digest, hashlib.sha256(division[order].tobytes()).hexdigest(), recipe]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
