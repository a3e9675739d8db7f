"""Labels that may be wrong, found by confident learning in what models say of pictures that they have not seen.

Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", 2021. A picture is counted as
another class's than its label's where the model is at least as sure of that one as it is, in the mean, on pictures with its
label; where that holds for several classes, the most probable one counts. Suspects are those off the diagonal of that count.
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
    """By how much the other label is more probable, 0 to 1."""


def find(label_ids: np.ndarray, probabilities: np.ndarray, learnt: np.ndarray) -> Iterator[tuple[int, int, float]]:
    """Yield suspects, the surest first: place, the class that it seems to be of, and by how much that is more probable.

    Args:
      label_ids: as they were given, int64 `[pictures]`.
      probabilities: of models that have not seen the picture, `[pictures, classes]`.
      learnt: whether that model knew the picture's class at all, bool `[pictures]`; of others it says nothing.
    """
    given = np.take_along_axis(probabilities, label_ids[:, None], axis=1)[:, 0]
    classes = probabilities.shape[1]
    pictures = np.bincount(label_ids[learnt], minlength=classes)
    # A class that has no pictures is none to be sure of.
    thresholds = np.where(pictures, np.bincount(label_ids[learnt], given[learnt], classes) / np.maximum(pictures, 1), np.inf)
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    seems = confident.argmax(axis=1)
    off = np.flatnonzero(learnt & (confident.max(axis=1) >= 0) & (seems != label_ids))
    margins = probabilities[off, seems[off]] - given[off]
    for place in np.argsort(-margins, kind="stable"):
        if margins[place] > 0:
            yield int(off[place]), int(seems[off[place]]), float(margins[place])


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
