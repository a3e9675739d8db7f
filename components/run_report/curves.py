"""What TensorBoard's logs of a training say, phase by phase."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator

MEASURED = ("loss", "accuracy")
_EVERYTHING = {event_accumulator.TENSORS: 0, event_accumulator.SCALARS: 0}


class Curve(NamedTuple):
    """A phase: what was measured after each of its epochs, by `MEASURED`."""

    phase: str
    train: dict[str, list[float]]
    evaluation: dict[str, list[float]]


def read(folder: str, phases: Sequence[str]) -> list[Curve]:
    """Return what was measured; phases of which there are no logs are left out.

    Args:
      folder: URI of Trainer's `model_run`.
      phases: names, in order.
    """
    found = []
    for phase in phases:
        train, evaluation = (_read(os.path.join(folder, phase, part)) for part in ("train", "validation"))
        epochs = min((len(one[name]) for one in (train, evaluation) for name in MEASURED), default=0)
        if epochs:
            found.append(Curve(phase, *({name: one[name][:epochs] for name in MEASURED} for one in (train, evaluation))))
    return found


def _read(folder: str) -> dict[str, list[float]]:
    if not tf.io.gfile.isdir(folder):
        return {name: [] for name in MEASURED}
    events = event_accumulator.EventAccumulator(folder, _EVERYTHING)
    events.Reload()
    there = events.Tags()["tensors"]
    by_epoch = {}
    for name in MEASURED:
        values = {}
        if f"epoch_{name}" in there:
            # A training that was killed and gone on with wrote some epochs twice; the last one counts.
            values = {one.step: float(tf.make_ndarray(one.tensor_proto)) for one in events.Tensors(f"epoch_{name}")}
        by_epoch[name] = [values[step] for step in sorted(values)]
    return by_epoch


def kept(curves: Sequence[Curve], monitor: str) -> int | None:
    """Return the epoch whose weights a training kept, counted over all phases from 0; None without curves.

    Args:
      curves: of the phases.
      monitor: `loss` or `accuracy`, as `training.early_stopping.monitor` says.
    """
    values = [value for part in curves for value in part.evaluation[monitor]]
    if not values:
        return None
    return values.index(max(values) if monitor == "accuracy" else min(values))
