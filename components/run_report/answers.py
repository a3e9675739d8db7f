"""What the answers to the test pictures say: who is taken for whom, the surest mistakes, how far scores can be trusted.

Rows are read once, in any order, and only the few that are shown are kept, whatever their number.
"""

from __future__ import annotations

import collections
import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

MOST = 24
"""Pictures of a kind that are kept."""
_OF_A_PAIR = 4
_MOST_PAIRS = 10_000
"""Pairs of labels of which pictures are kept; in any page far fewer are shown."""


class Answer(NamedTuple):
    """What was said of a test picture."""

    path: str
    """Below the source."""
    label: str
    answer: str
    score: float
    """Of the answer, 0 to 1."""
    before: str | None
    """What the live model answers; None without one."""


class _Last(str):
    """A path, the other way round in order: of two, the one that comes first is the greater one."""

    __slots__ = ()

    def __lt__(self, other: str) -> bool:
        return str.__gt__(self, other)


class _Ranked(NamedTuple):
    """An answer by how sure it is; of equally sure ones the first by path is the greatest."""

    score: float
    path: _Last
    answer: Answer


class Pair(NamedTuple):
    """Pictures of one label that are taken for another."""

    label: str
    answer: str
    pictures_in_all: int
    pictures: tuple[Answer, ...]


class Class(NamedTuple):
    """How a label fared on the test split."""

    label: str
    pictures: int
    right: int
    answered: int
    """Pictures that it was the answer to."""
    right_before: int | None
    """Those that the live model recognises; None without one, and where it does not know the label."""

    @property
    def recall(self) -> float | None:
        """Share of its pictures that are recognised; None without any."""
        return self.right / self.pictures if self.pictures else None

    @property
    def precision(self) -> float | None:
        """Share of the pictures with this answer that are of the label; None without any."""
        return self.right / self.answered if self.answered else None


class Answers:
    """What the predictions of a run say.

    Args:
      rows: as `components.model_evaluator.predictions.read` yields them.
      known_before: labels that the live model knows; None takes it for knowing all.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]], known_before: Collection[str] | None = None):
        self._known_before = known_before
        self._counts: collections.Counter[tuple[str, str]] = collections.Counter()
        self._right_before: collections.Counter[str] = collections.Counter()
        self._of_pairs: dict[tuple[str, str], list[_Ranked]] = {}
        self._compared = False
        self._lost = self._won = 0
        wrong: list[_Ranked] = []
        lost: list[_Ranked] = []
        won: list[_Ranked] = []
        scores, right = [], []
        for row in rows:
            one = Answer(row["path"], row["label"], row["answer"], row["score"], row["baseline_answer"])
            is_right, was_right = one.answer == one.label, one.before == one.label
            compared = one.before is not None and (known_before is None or one.label in known_before)
            self._counts[one.label, one.answer] += 1
            self._right_before[one.label] += was_right
            self._compared |= one.before is not None
            scores.append(one.score)
            right.append(is_right)
            if not is_right:
                _keep(wrong, one, MOST)
                if len(self._of_pairs) < _MOST_PAIRS or (one.label, one.answer) in self._of_pairs:
                    _keep(self._of_pairs.setdefault((one.label, one.answer), []), one, _OF_A_PAIR)
                if was_right:
                    self._lost += 1
                    _keep(lost, one, MOST)
            elif compared and not was_right:
                self._won += 1
                _keep(won, one, MOST)
        self.scores, self.right = np.array(scores, np.float32), np.array(right, bool)
        self.surest_mistakes, self.lost, self.won = _sorted(wrong), _sorted(lost), _sorted(won)
        self.labels = sorted({label for pair in self._counts for label in pair})

    @property
    def total(self) -> int:
        """Test pictures."""
        return len(self.scores)

    @property
    def mistakes(self) -> int:
        """Pictures whose answer is not their label."""
        return self.total - int(self.right.sum())

    @property
    def compared(self) -> bool:
        """Whether there was a live model."""
        return self._compared

    @property
    def lost_count(self) -> int:
        """Mistakes that the live model does not make."""
        return self._lost

    @property
    def won_count(self) -> int:
        """Mistakes of the live model that this one does not make."""
        return self._won

    def confusion(self, labels: Sequence[str]) -> np.ndarray:
        """Return how often each of some labels was answered with each, int64 `[labels, labels]`, the truth by row."""
        return np.array([[self._counts[label, answer] for answer in labels] for label in labels], np.int64)

    def confused(self, most: int) -> list[Pair]:
        """Return the pairs of labels that are confused most often, with some pictures of each.

        Args:
          most: pairs.
        """
        wrong = [(count, *pair) for pair, count in self._counts.items() if pair[0] != pair[1]]
        order = sorted(wrong, key=lambda one: (-one[0], one[1], one[2]))[:most]
        return [
            Pair(label, answer, count, _sorted(self._of_pairs.get((label, answer), []))) for count, label, answer in order
        ]

    def classes(self) -> list[Class]:
        """Return how each label fared, by name."""
        pictures: collections.Counter[str] = collections.Counter()
        answered: collections.Counter[str] = collections.Counter()
        for (label, answer), count in self._counts.items():
            pictures[label] += count
            answered[answer] += count
        return [
            Class(
                label,
                pictures[label],
                self._counts[label, label],
                answered[label],
                self._right_before[label] if self._compared and self._knew(label) else None,
            )
            for label in self.labels
        ]

    def _knew(self, label: str) -> bool:
        return self._known_before is None or label in self._known_before

    def coverage(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what answers are worth of which only the surest are taken.

        Returns:
          Thresholds on the score, from the highest, the share of the pictures with at least that score, and their accuracy;
          float64 `[different scores]` each.
        """
        order = np.argsort(-self.scores, kind="stable")
        scores, right = self.scores[order].astype(np.float64), np.cumsum(self.right[order])
        last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1) if len(scores) else np.empty(0, np.int64)
        return scores[last], (last + 1) / max(1, self.total), right[last] / (last + 1)


def _keep(heap: list[_Ranked], one: Answer, most: int) -> None:
    """Keep an answer if it is among the surest ones; of equally sure ones the first by path."""
    heapq.heappush(heap, _Ranked(one.score, _Last(one.path), one))
    if len(heap) > most:
        heapq.heappop(heap)


def _sorted(heap: Iterable[_Ranked]) -> tuple[Answer, ...]:
    """The surest first."""
    return tuple(ranked.answer for ranked in sorted(heap, reverse=True))


def threshold_for(accuracy: float, coverage: tuple[np.ndarray, np.ndarray, np.ndarray]) -> tuple[float, float, float] | None:
    """Return the lowest threshold on the score from which answers are as accurate as is asked for.

    Args:
      accuracy: that is asked for, 0 to 1.
      coverage: as `Answers.coverage` returns it.

    Returns:
      The threshold, the share of the pictures that have at least that score, and their accuracy; None if there is none.
    """
    good = np.flatnonzero(coverage[2] >= accuracy)
    if not len(good):
        return None
    threshold, share, reached = (float(values[good[-1]]) for values in coverage)
    return threshold, share, reached
