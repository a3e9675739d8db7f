"""What cross-validation says of a recipe and its data: accuracy, recall of each class, and calibration."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import pydantic
from tfx.dsl.io import fileio
from tfx.utils import io_utils

RESULT_KEY = "cross_validation"
"""Of the artifact, as an output and as an input."""
FILE = "scores.json"
_BINS = 15
_SMALLEST = 1e-7
"""Probability whose logarithm is taken, in float32."""


class Class(pydantic.BaseModel):
    """How a class fared: its pictures, and those that were recognised."""

    label: str
    pictures: int
    right: int


class Bin(pydantic.BaseModel):
    """Pictures whose answer had a score from `low` to `high`: how many, their mean score, and their accuracy."""

    low: float
    high: float
    pictures: int
    score: float
    accuracy: float


class Scores(pydantic.BaseModel):
    """What was found; every picture was answered by a model that had not seen it.

    Attributes:
      folds: how many models were trained.
      pictures: that were answered.
      groups: that they are in, of what belongs together.
      right: those of them that were recognised.
      independent: as many pictures that have nothing in common would tell as much of the accuracy; those of a group fail
        together. Pictures by the design effect of the ratio estimator (Cochran, "Sampling Techniques", 1977).
      log_loss: mean of -log of the probability of a picture's label.
      calibration_error: expected calibration error over 15 bins of equal width, 0 to 1; Guo, Pleiss, Sun and Weinberger, "On
        Calibration of Modern Neural Networks", 2017.
      calibration: the bins that have pictures, lowest first.
      classes: by label.
    """

    folds: int
    pictures: int
    groups: int
    right: int
    independent: float
    log_loss: float
    calibration_error: float
    calibration: list[Bin]
    classes: list[Class]

    @property
    def accuracy(self) -> float:
        """Share of the pictures that were recognised, 0 to 1."""
        return self.right / self.pictures


def score(
    folds: int, label_ids: np.ndarray, probabilities: np.ndarray, labels: Sequence[str], groups: Sequence[str]
) -> Scores:
    """Return what was found.

    Args:
      folds: how many models were trained.
      label_ids: of the pictures, int64 `[pictures]`.
      probabilities: of models that have not seen the picture, `[pictures, classes]`.
      labels: by id.
      groups: of the pictures.
    """
    answers, best = probabilities.argmax(axis=1), probabilities.max(axis=1)
    right = answers == label_ids
    given = np.take_along_axis(probabilities, label_ids[:, None], axis=1)
    bins = calibration(best, right)
    return Scores(
        folds=folds,
        pictures=len(label_ids),
        groups=len(set(groups)),
        right=int(right.sum()),
        independent=_independent(right, groups),
        log_loss=float(-np.log(np.maximum(given, _SMALLEST)).mean()),
        calibration_error=calibration_error(bins),
        calibration=bins,
        classes=[
            Class(label=label, pictures=int(np.sum(label_ids == number)), right=int(right[label_ids == number].sum()))
            for number, label in enumerate(labels)
        ],
    )


def calibration(best: np.ndarray, right: np.ndarray) -> list[Bin]:
    """Return how right answers are, by how sure, in 15 bins of equal width; those that have pictures, lowest first.

    Args:
      best: scores of the answers, `[pictures]`, 0 to 1.
      right: whether they are, bool `[pictures]`.
    """
    numbers = np.minimum((best * _BINS).astype(int), _BINS - 1)
    return [
        Bin(
            low=number / _BINS,
            high=(number + 1) / _BINS,
            pictures=int(np.sum(numbers == number)),
            score=float(np.mean(best[numbers == number])),
            accuracy=float(np.mean(right[numbers == number])),
        )
        for number in np.unique(numbers)
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Return the expected calibration error, 0 to 1.

    Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", 2017.

    Args:
      bins: as `calibration` returns them.
    """
    return sum(one.pictures * abs(one.score - one.accuracy) for one in bins) / max(1, sum(one.pictures for one in bins))


def _independent(right: np.ndarray, groups: Sequence[str]) -> float:
    """As many independent pictures tell as much of how many are right; at most as many as there are."""
    pictures, share = len(right), float(right.mean())
    _, codes = np.unique(np.array(groups), return_inverse=True)
    sizes = np.bincount(codes)
    if len(sizes) in {1, pictures} or share in {0.0, 1.0}:
        return float(len(sizes))
    apart = np.bincount(codes, right) - share * sizes
    variance = len(sizes) / (len(sizes) - 1) * float(apart @ apart) / pictures**2
    return min(pictures, share * (1 - share) / variance) if variance else float(pictures)


def write(folder: str, scores: Scores) -> None:
    """Write what was found into an artifact.

    Args:
      folder: its URI.
      scores: what was found.
    """
    io_utils.write_string_file(os.path.join(folder, FILE), scores.model_dump_json(indent=1))


def read(folder: str) -> Scores:
    """Read what was found.

    Args:
      folder: URI of the artifact.
    """
    with fileio.open(os.path.join(folder, FILE), "r") as opened:
        return Scores.model_validate_json(opened.read())
