"""What cross-validation says of a recipe and its data: accuracy, recall of each class, and calibration."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import pydantic
from tfx.dsl.io import fileio
from tfx.utils import io_utils

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
      right: those of them that were recognised.
      log_loss: mean of -log of the probability of a picture's label.
      calibration_error: expected calibration error over 15 bins of equal width, 0 to 1; Guo, Pleiss, Sun and Weinberger, "On
        Calibration of Modern Neural Networks", 2017.
      calibration: the bins that have pictures, lowest first.
      classes: by label.
    """

    folds: int
    pictures: int
    right: int
    log_loss: float
    calibration_error: float
    calibration: list[Bin]
    classes: list[Class]

    @property
    def accuracy(self) -> float:
        """Share of the pictures that were recognised, 0 to 1."""
        return self.right / self.pictures


def score(folds: int, label_ids: np.ndarray, probabilities: np.ndarray, labels: Sequence[str]) -> Scores:
    """Return what was found.

    Args:
      folds: how many models were trained.
      label_ids: of the pictures, int64 `[pictures]`.
      probabilities: of models that have not seen the picture, `[pictures, classes]`.
      labels: by id.
    """
    answers, best = probabilities.argmax(axis=1), probabilities.max(axis=1)
    right = answers == label_ids
    given = np.take_along_axis(probabilities, label_ids[:, None], axis=1)
    numbers = np.minimum((best * _BINS).astype(int), _BINS - 1)
    bins = [
        Bin(
            low=number / _BINS,
            high=(number + 1) / _BINS,
            pictures=int(np.sum(numbers == number)),
            score=float(np.mean(best[numbers == number])),
            accuracy=float(np.mean(right[numbers == number])),
        )
        for number in np.unique(numbers)
    ]
    return Scores(
        folds=folds,
        pictures=len(label_ids),
        right=int(right.sum()),
        log_loss=float(-np.log(np.maximum(given, _SMALLEST)).mean()),
        calibration_error=sum(one.pictures * abs(one.score - one.accuracy) for one in bins) / len(label_ids),
        calibration=bins,
        classes=[
            Class(label=label, pictures=int(np.sum(label_ids == number)), right=int(right[label_ids == number].sum()))
            for number, label in enumerate(labels)
        ],
    )


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
