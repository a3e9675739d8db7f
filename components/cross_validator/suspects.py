"""Labels that may be wrong, found by confident learning in what models say of pictures that they have not seen.

A picture counts as of a class where the model is at least as sure of that one as it is, in the mean, on pictures with that
label; where that holds for several, the most probable one counts. How many of each label's pictures count as of others tells
how many labels are wrong: Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", 2021.
As many are suspects: of those that are answered otherwise, the ones whose label is the least probable ("self-confidence" in
Kuan and Mueller, "Model-agnostic Label Quality Scoring to Detect Real-world Label Errors", 2022).
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from tfx.dsl.io import fileio
from tfx.utils import io_utils

FILE = "suspects.csv"


class Suspect(NamedTuple):
    """A picture whose label may be wrong."""

    path: str
    """Below the source."""
    label: str
    suggested_label: str
    score: float
    """How improbable the label is: 1 less its probability."""


def find(label_ids: np.ndarray, probabilities: np.ndarray, learnt: np.ndarray) -> Iterator[tuple[int, int, float]]:
    """Yield suspects, the surest first: place, the class that it seems to be of, and how improbable its label is.

    Args:
      label_ids: as they were given, int64 `[pictures]`.
      probabilities: of models that have not seen the picture, `[pictures, classes]`.
      learnt: whether that model knew the picture's class at all, bool `[pictures]`; of others it says nothing.
    """
    classes, answers = probabilities.shape[1], probabilities.argmax(axis=1)
    given = np.take_along_axis(probabilities, label_ids[:, None], axis=1)[:, 0]
    pictures = np.bincount(label_ids[learnt], minlength=classes)
    # A class that has no pictures is none to be sure of.
    sums = np.bincount(label_ids[learnt], given[learnt], classes)
    thresholds = np.where(pictures, sums / np.maximum(pictures, 1), np.inf)
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    counted = learnt & (confident.max(axis=1) >= 0)
    as_labelled = counted & (confident.argmax(axis=1) == label_ids)
    known, right = (np.bincount(label_ids[rows], minlength=classes) for rows in (counted, as_labelled))
    wrong = round(float(np.sum(pictures * (1 - right / np.maximum(known, 1)) * (known > 0))))
    order = np.argsort(given, kind="stable")
    for place in order[learnt[order] & (answers[order] != label_ids[order])][:wrong]:
        yield int(place), int(answers[place]), 1.0 - float(given[place])


def write(folder: str, suspects: Sequence[Suspect]) -> None:
    """Write suspects as CSV, to look through and correct.

    Args:
      folder: URI of the artifact.
      suspects: the surest first.
    """
    text = io.StringIO(newline="")
    rows = csv.writer(text)  # with its own ends of lines a carriage return in a path is quoted
    rows.writerow(Suspect._fields)
    rows.writerows(one._replace(score=round(one.score, 4)) for one in suspects)
    io_utils.write_string_file(os.path.join(folder, FILE), text.getvalue())


def read(folder: str) -> list[Suspect]:
    """Read suspects, the surest first.

    Args:
      folder: URI of the artifact.
    """
    with fileio.open(os.path.join(folder, FILE), "r") as opened:
        rows = list(csv.reader(io.StringIO(opened.read(), newline="")))
    return [Suspect(path, label, suggested, float(score)) for path, label, suggested, score in rows[1:]]
