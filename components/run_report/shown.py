"""The pictures that a page shows, with what it says of each."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from components.image_example_gen.rejects import printable
from components.run_report import pictures
from components.run_report.answers import Answer, Pair
from components.run_report.attention import Attention
from components.run_report.facts import Facts
from modules import augmentation, dataset, features, preprocessing

_OF_A_CLASS, _VIEWS, _MOST_CLASSES = 5, 6, 20
_log = logging.getLogger("finetune.components.run_report")


class Card(NamedTuple):
    """A picture and what is said of it."""

    path: str
    src: str | None = None
    """None where the page shows none, or the picture is not there."""
    looks: str | None = None
    """Where the model looked."""
    label: str = ""
    answer: str = ""
    score: float | None = None
    before: str | None = None


class Strip(NamedTuple):
    """Pictures of one label."""

    label: str
    sources: Sequence[str]


class Shown:
    """The pictures of a run.

    Args:
      facts: of the run.
    """

    def __init__(self, facts: Facts):
        self._facts = facts
        self._examples = facts.made.examples if facts.pictures else None
        self._found: dict[str, dict[str, bytes]] = {}

    def look_for(self, split: str, paths: Iterable[str]) -> None:
        """Read pictures that will be asked for, in one pass over their files.

        Args:
          split: that they are in.
          paths: below the source.
        """
        known = self._found.setdefault(split, {})
        missing = {*paths} - known.keys()
        if self._examples is not None and missing:
            known |= pictures.find(self._examples, split, missing)

    def answered(self, answers: Sequence[Answer], labels: Sequence[str] | None = None) -> list[Card]:
        """Return test pictures with what was said of them.

        Args:
          answers: of the pictures, which were looked for.
          labels: of the model, to show where it looked; None shows that of none.
        """
        found = self._find(features.TEST, (one.path for one in answers))
        heats = self._looks([one for one in answers if one.path in found], found, labels) if labels else {}
        return [
            Card(
                printable(one.path),
                pictures.thumbnail(found[one.path]) if one.path in found else None,
                pictures.thumbnail(found[one.path], heats[one.path]) if one.path in heats else None,
                one.label,
                one.answer,
                one.score,
                one.before,
            )
            for one in answers
        ]

    def of_paths(self, paths: Sequence[tuple[str, str]]) -> dict[str, str]:
        """Return pictures by path, as the `src` of an image.

        Args:
          paths: the split and the path of each.
        """
        for split in {split for split, _ in paths}:
            self.look_for(split, (path for of, path in paths if of == split))
        found: dict[str, str] = {}
        for split in {split for split, _ in paths}:
            encoded = self._find(split, (path for of, path in paths if of == split))
            found |= {path: pictures.thumbnail(one) for path, one in encoded.items()}
        return found

    def samples(self, labels: Sequence[str]) -> list[Strip]:
        """Return some training pictures of each label.

        Args:
          labels: whose.
        """
        return [
            Strip(label, [pictures.thumbnail(one) for _, one in found])
            for label, found in self._of_each(labels, _OF_A_CLASS)
        ]

    def augmented(self, labels: Sequence[str]) -> list[Strip]:
        """Return how training saw a picture of each label: as it is, then some views.

        Args:
          labels: whose.
        """
        augment, image = self._facts.configuration.get("augmentation", {}), self._facts.configuration.get("image", {})
        if not augment.get("enabled"):
            return []
        augmenter = augmentation.Augmenter(augment)
        strips = []
        for number, (label, found) in enumerate(self._of_each(labels, 1)):
            for _, encoded in found:
                pixels = preprocessing.decode_and_resize(tf.constant(encoded), image["height"], image["width"])
                batch = tf.repeat(tf.cast(pixels, tf.float32)[tf.newaxis], _VIEWS, axis=0)
                numbers = tf.range(_VIEWS, dtype=tf.int64) + number * _VIEWS
                views = augmenter(batch, numbers, dataset.epoch_seed(0, 0))
                shown = [pixels.numpy(), *np.clip(views.numpy(), 0, 255).astype(np.uint8)]
                strips.append(Strip(label, [pictures.of_pixels(one) for one in shown]))
        return strips

    def _of_each(self, labels: Sequence[str], most: int) -> Iterable[tuple[str, list[tuple[str, bytes]]]]:
        if self._examples is None:
            return []
        return pictures.of_each(self._examples, features.TRAIN, labels[:_MOST_CLASSES], most).items()

    def _find(self, split: str, paths: Iterable[str]) -> dict[str, bytes]:
        known = self._found.get(split, {})
        return {path: known[path] for path in paths if path in known}

    def _looks(self, answers: Sequence[Answer], found: dict[str, bytes], labels: Sequence[str]) -> dict[str, np.ndarray]:
        """Where the model looked, by path; nothing where that can't be said."""
        image = self._facts.configuration.get("image")
        if self._facts.made.model is None or image is None or not answers:
            return {}
        try:
            attention = Attention(self._facts.made.model, labels, image["height"], image["width"])
            looks = attention.of([found[one.path] for one in answers], [one.answer for one in answers])
        except (ValueError, KeyError, OSError, tf.errors.OpError) as error:
            _log.warning("where the model looked can't be shown: %s", error)
            return {}
        return dict(zip((one.path for one in answers), looks, strict=True))


def pair_cards(shown: Shown, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Return the most confused pairs of labels, with pictures of each.

    Args:
      shown: of the run; the pictures were looked for.
      pairs: of labels.
    """
    return [
        {"label": pair.label, "answer": pair.answer, "count": pair.pictures_in_all, "cards": shown.answered(pair.pictures)}
        for pair in pairs
    ]
