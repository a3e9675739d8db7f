"""What is known of a model: how it fared on the test pictures of each label, its size and its speed."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Mapping
from typing import NamedTuple

from tfx.dsl.io import fileio

_MOST_NAMED = 10


def megabytes_below(folder: str) -> float:
    """Return the bytes of all files below a folder, in millions.

    Args:
      folder: of an exported model, wherever TFX reads.
    """
    files = (os.path.join(path, file) for path, _, names in fileio.walk(folder) for file in names)
    return sum(fileio.open(file, "rb").size() for file in files) / 1e6


class Tally(NamedTuple):
    """How a model fared on the test pictures of a label."""

    pictures: int
    right: int
    """Those that it recognised."""
    right_in_top: Mapping[int, int] = {}
    """Those whose label was among its k most probable ones, by k."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """What is known of a model.

    Attributes:
      tallies: by label of the test pictures.
      labels: those that it can answer.
      megabytes: of the exported model on disk.
      latency_ms: median time of one picture through `serving_default` on one core of this machine; None where nothing asks
        for it.
    """

    tallies: Mapping[str, Tally]
    labels: frozenset[str]
    megabytes: float
    latency_ms: float | None = None

    @property
    def examples(self) -> int:
        """Test pictures."""
        return sum(tally.pictures for tally in self.tallies.values())

    @property
    def accuracy(self) -> float:
        """Share of the test pictures that were recognised, 0 to 1."""
        return sum(tally.right for tally in self.tallies.values()) / self.examples

    def top_k_accuracy(self, k: int) -> float:
        """Return the share of the test pictures whose label was among the k most probable ones, 0 to 1."""
        return sum(tally.right_in_top[k] for tally in self.tallies.values()) / self.examples

    def recall(self, label: str) -> float | None:
        """Return the share of a label's test pictures that were recognised; None if there are none, or it is not known."""
        tally = self.tallies.get(label)
        return tally.right / tally.pictures if tally and label in self.labels else None

    def on(self, labels: Collection[str]) -> Measured:
        """Return what is known on the test pictures of some labels alone."""
        return dataclasses.replace(self, tallies={label: self.tallies[label] for label in self.tallies if label in labels})


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two models on the same pictures.

    Attributes:
      candidate: the new model, on the test pictures of the labels that both know.
      baseline: the other one, on the same pictures.
      whole: whether those are all test pictures.
      note: how many they are and which labels were left out; empty if both models know the same labels.
    """

    candidate: Measured
    baseline: Measured
    whole: bool
    note: str


def compare(candidate: Measured, baseline: Measured) -> Comparison:
    """Compare two models by the names of their labels.

    Args:
      candidate: the new model.
      baseline: the other one, measured on the same pictures.
    """
    shared = candidate.labels & baseline.labels
    ours, theirs = candidate.on(shared), baseline.on(shared)
    return Comparison(ours, theirs, ours.examples == candidate.examples, _note(candidate, baseline, ours.examples))


def _note(candidate: Measured, baseline: Measured, pictures: int) -> str:
    if candidate.labels == baseline.labels:
        return ""
    if not pictures:
        return f"no comparison: no test picture has a label that the baseline knows ({_named(sorted(baseline.labels))})"
    new, gone = sorted(candidate.labels - baseline.labels), sorted(baseline.labels - candidate.labels)
    out = [_named(new) + " (new)"] * bool(new) + [_named(gone) + " (gone)"] * bool(gone)
    of_all = f"on {pictures} of {candidate.examples} test pictures, those of labels that both models know"
    return f"{of_all}; left out: {'; '.join(out)}"


def _named(labels: list[str]) -> str:
    more = f" and {len(labels) - _MOST_NAMED} more" if len(labels) > _MOST_NAMED else ""
    return ", ".join(labels[:_MOST_NAMED]) + more
