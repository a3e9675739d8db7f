"""Brings what two models say into one order of labels, since TFMA compares classes by their place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma

from modules import signatures


def aligned(probabilities: np.ndarray, labels: Sequence[bytes], order: Sequence[bytes]) -> np.ndarray:
    """Return probabilities by an order of labels that holds more than those of the model, 0 where it knows none.

    Args:
      probabilities: `[batch, n]`.
      labels: the `n` of the model, in the order of its probabilities.
      order: `m` labels, all those of the model among them.

    Returns:
      `[batch, m]`, of the same type.
    """
    places = {label: place for place, label in enumerate(order)}
    found = np.zeros((len(probabilities), len(order)), probabilities.dtype)
    found[:, [places[label] for label in labels]] = probabilities
    return found


def aligning() -> beam.PTransform:
    """Return a transform that puts the baseline's part of TFMA's extracts into the candidate's order of labels.

    Labels that only the baseline knows come last: they are answers that it may give. TFMA fails at a picture whose label is
    not among a model's classes, and would take it for one of the first class if all of a batch were such.
    """
    return beam.Map(_align)


def _align(batch: dict[str, Any]) -> dict[str, Any]:
    predictions = batch[tfma.PREDICTIONS_KEY]
    if tfma.BASELINE_KEY not in predictions:
        return batch
    candidate, baseline = predictions[tfma.CANDIDATE_KEY], predictions[tfma.BASELINE_KEY]
    known, own = (list(one[signatures.ALL_CLASSES][0]) for one in (candidate, baseline))
    order = [*known, *(label for label in own if label not in set(known))]
    probabilities = baseline[signatures.PROBABILITIES]
    changed = baseline | {
        signatures.PROBABILITIES: aligned(probabilities, own, order),
        signatures.ALL_CLASSES: np.array([order] * len(probabilities), dtype=object),
    }
    return batch | {tfma.PREDICTIONS_KEY: predictions | {tfma.BASELINE_KEY: changed}}
