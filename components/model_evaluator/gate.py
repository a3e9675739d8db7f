"""The bounds of the gate, and what a model makes of each."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scipy import stats
from tfx.dsl.io import fileio
from tfx.utils import io_utils

from components.cross_validator.scores import Scores
from components.model_evaluator.measured import Comparison, Measured, compare

GATE_FILE = "gate.json"

ACCURACY = "accuracy"
COLUMNS = ("metric", "value", "pictures", "threshold", "baseline", "")
"""Of the gate's table; the value is followed by its interval where there is one."""

_AGAINST = "{} against the baseline"
_FEW = 100
"""Pictures below which a share is shown with its interval."""
_USUAL_CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Limits:
    """The section `evaluation` of the configuration; see there."""

    min_accuracy: float | None
    max_accuracy_drop: float | None
    max_accuracy_drop_relative: float | None
    min_recall: float | None
    min_recall_of: Mapping[str, float]
    min_top_k_accuracy: Mapping[str, float]
    min_examples: int
    confidence: float | None
    unseen_classes: str
    max_model_megabytes: float | None
    max_latency_ms: float | None
    min_fold_accuracy: float | None


@dataclasses.dataclass(frozen=True)
class Check:
    """One row of the gate's table.

    Attributes:
      metric: what was measured.
      value: of the candidate; None if it could not be measured.
      threshold: the bound in words, with the key that sets it; empty if the row only informs.
      baseline: value of the model that is live, on the same pictures; None if it could not be measured on those.
      passed: whether the bound is met.
      note: why not, or what the numbers don't say.
      pictures: that the value is a share of, test pictures but for folds; None if it is none.
      interval: Wilson's of that share, where pictures are few or `evaluation.confidence` asks for it: its ends and its
        confidence.
    """

    metric: str
    value: float | None
    threshold: str
    baseline: float | None
    passed: bool
    note: str = ""
    pictures: int | None = None
    interval: Sequence[float] | None = None

    @property
    def line(self) -> str:
        """The row as a sentence."""
        value = "unknown" if self.value is None else shown(self.value)
        on = "" if self.pictures is None else f" on {self.pictures} pictures"
        between = f" ({self._between})" if self.interval else ""
        return f"{self.metric} {value}{on}{between}, asked for: {self.threshold}" + (f" ({self.note})" if self.note else "")

    @property
    def cells(self) -> tuple[str, ...]:
        """The row of a table with the columns `COLUMNS`."""
        value = shown(self.value) + (f" ({self._between})" if self.interval else "")
        pictures = "-" if self.pictures is None else str(self.pictures)
        verdict = "FAIL" if not self.passed else "not judged" if self.unjudged else "pass"
        return self.metric, value, pictures, self.threshold or "-", shown(self.baseline), verdict

    @property
    def unjudged(self) -> bool:
        """Whether the row passes though there was no picture to judge by."""
        return self.passed and self.pictures == 0

    @property
    def _between(self) -> str:
        low, high, confidence = self.interval or (0.0, 1.0, 1.0)
        return f"{100 * confidence:g} %: {low:.4f} to {high:.4f}"


def shown(number: float | None) -> str:
    """Return a number of the table as text, four places at most."""
    return "-" if number is None else f"{number:.4f}".rstrip("0").rstrip(".")


def interval(share: float, examples: float, confidence: float) -> tuple[float, float]:
    """Return the two-sided Wilson interval of a share; one-sided would be laxer.

    Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927.

    Args:
      share: that was found, 0 to 1.
      examples: of how many; no whole number where it stands for pictures that are not independent.
      confidence: e.g. 0.95.
    """
    if not examples:
        return 0.0, 1.0
    z = float(stats.norm.ppf((1 + confidence) / 2))
    middle = (share + z**2 / (2 * examples)) / (1 + z**2 / examples)
    half = z / (1 + z**2 / examples) * math.sqrt(share * (1 - share) / examples + z**2 / (4 * examples**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def judge(limits: Limits, candidate: Measured, baseline: Measured | None, over_folds: Scores | None = None) -> list[Check]:
    """Return a row for every bound, in a fixed order.

    A model passes if every row did.

    Args:
      limits: the bounds.
      candidate: the new model.
      baseline: the model that is live, measured on the same pictures; None if there is none.
      over_folds: what cross-validation found; None if there was none.
    """
    compared = compare(candidate, baseline) if baseline else None
    return [
        *_on_accuracy(limits, candidate, compared),
        *_on_folds(limits, over_folds),
        *_on_recall(limits, candidate, baseline),
        *_on_top_k(limits, candidate, compared),
        Check(
            "test examples",
            candidate.examples,
            f"at least {limits.min_examples} (evaluation.min_examples)",
            None,
            candidate.examples >= limits.min_examples,
        ),
        *_on_cost(limits, candidate, baseline),
    ]


def comparison(checks: Sequence[Check]) -> Check | None:
    """Return the row with the accuracies of candidate and baseline on the same pictures; None if there was no baseline.

    Its note says which labels were left out, or that the two share none.

    Args:
      checks: the rows.
    """
    rows = {check.metric: check for check in checks}
    if row := rows.get(_AGAINST.format(ACCURACY)):
        return row
    row = rows.get(ACCURACY)
    return dataclasses.replace(row, note="") if row and row.baseline is not None else None


def write(folder: str, checks: Sequence[Check]) -> None:
    """Write the table into an evaluation artifact.

    Args:
      folder: its URI.
      checks: the rows.
    """
    rows = [dataclasses.asdict(check) for check in checks]
    io_utils.write_string_file(os.path.join(folder, GATE_FILE), json.dumps(rows, indent=1, ensure_ascii=False))


def read(folder: str) -> list[Check]:
    """Read the table of an evaluation artifact; empty if an earlier version of this project made it.

    Args:
      folder: its URI.
    """
    path = os.path.join(folder, GATE_FILE)
    if not fileio.exists(path):
        return []
    with fileio.open(path, "r") as opened:
        return [Check(**row) for row in json.loads(opened.read())]


def _on_accuracy(limits: Limits, candidate: Measured, compared: Comparison | None) -> Iterator[Check]:
    found, before = candidate.accuracy, compared.baseline.accuracy if compared and compared.whole else None
    if limits.min_accuracy is None:
        yield Check(ACCURACY, found, "", before, True, **_carried(limits, found, candidate.examples))
    else:
        yield _share(limits, ACCURACY, found, candidate.examples, limits.min_accuracy, "evaluation.min_accuracy", before)
    if compared is not None:
        yield from _against_baseline(limits, compared)


def _against_baseline(limits: Limits, compared: Comparison) -> Iterator[Check]:
    metric = _AGAINST.format(ACCURACY)
    if not compared.candidate.examples:
        yield Check(metric, None, "", None, True, compared.note)
        return
    found, before = compared.candidate.accuracy, compared.baseline.accuracy
    carried = _carried(limits, found, compared.candidate.examples)
    bounds = [
        (limits.max_accuracy_drop, "max_accuracy_drop", lambda drop: before - drop),
        (limits.max_accuracy_drop_relative, "max_accuracy_drop_relative", lambda drop: before * (1.0 - drop)),
    ]
    for allowed, key, floor_of in bounds:
        if allowed is not None:
            # Both are counts over the same pictures: what differs by rounding alone is equal.
            floor = floor_of(allowed)
            threshold = f"at least {floor:.4f} (evaluation.{key} = {allowed:g})"
            yield Check(metric, found, threshold, before, found >= floor - 1e-9, compared.note, **carried)
    if compared.note and all(allowed is None for allowed, _, _ in bounds):
        yield Check(metric, found, "", before, True, compared.note, **carried)


def _on_folds(limits: Limits, scores: Scores | None) -> Iterator[Check]:
    if scores is None:
        return
    metric, found = f"{ACCURACY} over {scores.folds} folds", scores.accuracy
    confidence = limits.confidence or _USUAL_CONFIDENCE
    carried: dict[str, Any] = {
        "pictures": scores.pictures,
        "interval": [*interval(found, scores.independent, confidence), confidence],
    }
    note = f"in {scores.groups} groups" if scores.groups < scores.pictures else ""
    if limits.min_fold_accuracy is None:
        yield Check(metric, found, "", None, True, note, **carried)
        return
    key = "evaluation.min_fold_accuracy"
    row = _share(limits, metric, found, scores.independent, limits.min_fold_accuracy, key, None)
    yield dataclasses.replace(row, note="; ".join(filter(None, (row.note, note))), **carried)


def _on_recall(limits: Limits, candidate: Measured, baseline: Measured | None) -> Iterator[Check]:
    classes = candidate.labels | candidate.tallies.keys()
    floors = {label: (floor, f"evaluation.min_recall_of.{label}") for label, floor in limits.min_recall_of.items()}
    if limits.min_recall is not None:
        floors = dict.fromkeys(classes, (limits.min_recall, "evaluation.min_recall")) | floors
    for label, (floor, key) in sorted(floors.items()):
        metric, found = f"recall of {label}", candidate.recall(label)
        before = baseline.recall(label) if baseline else None
        if found is not None:
            yield _share(limits, metric, found, candidate.tallies[label].pictures, floor, key, before)
            continue
        threshold, note = f"at least {floor:g} ({key})", "no test pictures of that label"
        passed = limits.unseen_classes == "warn" and label in classes
        if label not in classes:
            note += ", nor does the model know it"
        elif not passed:
            note += "; evaluation.unseen_classes = warn lets it pass"
        yield Check(metric, None, threshold, before, passed, note, pictures=0)


def _on_top_k(limits: Limits, candidate: Measured, compared: Comparison | None) -> Iterator[Check]:
    for name, floor in limits.min_top_k_accuracy.items():
        k = int(name)
        metric, key = f"top-{k} accuracy", f"evaluation.min_top_k_accuracy.{k}"
        before = compared.baseline.top_k_accuracy(k) if compared and compared.whole else None
        yield _share(limits, metric, candidate.top_k_accuracy(k), candidate.examples, floor, key, before)
        if compared and not compared.whole and compared.candidate.examples:
            found, before = compared.candidate.top_k_accuracy(k), compared.baseline.top_k_accuracy(k)
            carried = _carried(limits, found, compared.candidate.examples)
            yield Check(_AGAINST.format(metric), found, "", before, True, compared.note, **carried)


def _on_cost(limits: Limits, candidate: Measured, baseline: Measured | None) -> Iterator[Check]:
    for metric, name, key in (
        ("model size in MB", "megabytes", "max_model_megabytes"),
        ("latency in ms", "latency_ms", "max_latency_ms"),
    ):
        bound, found = getattr(limits, key), getattr(candidate, name)
        if bound is not None:
            before = getattr(baseline, name) if baseline else None
            yield Check(metric, found, f"at most {bound:g} (evaluation.{key})", before, found <= bound)


def _share(
    limits: Limits, metric: str, found: float, examples: float, floor: float, key: str, baseline: float | None
) -> Check:
    """A row for a share of the test pictures that must reach a floor, surely so where `confidence` is on."""
    low, note, threshold = found, "", f"at least {floor:g} ({key})"
    if limits.confidence is not None:
        low, _ = interval(found, examples, limits.confidence)
        note = f"with confidence {limits.confidence:g} at least {low:.4f}"
    passed = low >= floor - 1e-9
    if not passed and not note:
        note = f"{floor - found:.4f} below"
    return Check(metric, found, threshold, baseline, passed, note, **_carried(limits, found, examples))


def _carried(limits: Limits, share: float, pictures: float) -> dict[str, Any]:
    """By how much a share is carried: the fields of a row for that."""
    if limits.confidence is None and pictures >= _FEW:
        return {"pictures": pictures}
    confidence = limits.confidence or _USUAL_CONFIDENCE
    return {"pictures": pictures, "interval": [*interval(share, pictures, confidence), confidence]}
