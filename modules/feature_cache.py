"""The frozen prefix computed once: its outputs for views of the pictures, kept on disk.

A view is one pass over a split, augmented or plain: float16 features `[pictures, height, width, channels]`. What a picture
becomes in a view depends on nothing but the picture, the one it is mixed with, the seed and the number of the view: so it is
found again by the picture, whatever other pictures come and go.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from modules import autotuning, dataset, progress, segments, weights

_FLOAT16_LARGEST = 65504.0
_SECONDS_BETWEEN_SAVES = 15.0
_MOST_SECONDS_BETWEEN_SAVES = 600.0
_PART_BETWEEN_SAVES = 0.1
"""Of the time that a view has taken: a long one must not become thousands of segments."""
_MOST_OPEN = 64
_BYTES_OF_ID_AND_SHARE = 36


class Wanted(NamedTuple):
    """What a view is to be made of."""

    name: str
    """For people."""
    split: dataset.Split
    seed: int = 0
    """Of the augmentation."""
    augment: dict[str, Any] | None = None
    """The section `augmentation` of the configuration; None leaves the pictures as they are."""
    epoch: int = 0
    """Whose augmentation it has, from 0."""
    below: View | None = None
    """The view of the same pictures that the prefix is fed with; None feeds it with the pictures."""


class View:
    """One pass over a split, in the order of the pictures' ids.

    Args:
      store: keeps what is in use as long as this is there.
      plan: with all rows there.
    """

    def __init__(self, store: segments.Store, plan: _Plan):
        contents, self._wanted = plan.wanted.split.contents, plan.wanted
        self.key = plan.key
        """All that a row depends on but for its picture."""
        order = np.argsort(contents.ids)
        lengths = [len(segment.ids) for segment in plan.segments]
        self._first = np.concatenate([[0], np.cumsum(lengths)])
        self._places, self._shares = plan.places[order], plan.shares[order]
        self._labels, self._partners = contents.label_ids[order], contents.label_ids[plan.partners][order]
        self.num_classes = contents.num_classes
        """That labels tell apart."""
        self._store, self.shape = store, plan.shape
        """Height, width and channels of the features."""

        self._rows = functools.lru_cache(_MOST_OPEN)(lambda number: plan.segments[number].rows())

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self._places)

    def features(self, rows: np.ndarray) -> np.ndarray:
        """Return what the prefix made of some pictures.

        Args:
          rows: int64 `[pictures]`.

        Returns:
          float16 `[pictures, height, width, channels]`.
        """
        self.sign()
        places = self._places[rows]
        numbers = np.searchsorted(self._first, places, "right") - 1
        found = np.empty((len(rows), *self.shape), np.float16)
        for number in np.unique(numbers):
            own = numbers == number
            found[own] = self._rows(int(number))[places[own] - self._first[number]]
        return found

    def labels(self, rows: np.ndarray) -> np.ndarray:
        """Return the labels of some pictures: float32 `[pictures, num_classes]`, one-hot, or mixed as the pictures are.

        Args:
          rows: int64 `[pictures]`.
        """
        own, partners = (ids[rows, np.newaxis] == np.arange(self.num_classes) for ids in (self._labels, self._partners))
        return dataset.mixed_labels(own, partners, self._shares[rows])

    def sign(self) -> None:
        """Show that what this is kept in, and what it was made of, is in use."""
        self._store.sign()
        if self._wanted.below is not None:
            self._wanted.below.sign()

    def shares(self, rows: np.ndarray) -> np.ndarray:
        """Return the share of each of some pictures in its own row: float32 `[pictures]`.

        Args:
          rows: int64 `[pictures]`.
        """
        return self._shares[rows]

    def above(self, layer: str) -> Wanted:
        """Return what this is to become further up.

        Args:
          layer: up to which, for people.
        """
        return self._wanted._replace(name=f"{self._wanted.name} at {layer}", below=self)


class _Plan(NamedTuple):
    """Where the rows of a view are, in the order of the split's files."""

    wanted: Wanted
    collection: str
    key: dict[str, Any]
    shape: tuple[int, ...]
    segments: list[segments.Segment]
    partners: np.ndarray
    """Places of the pictures that each is mixed with; its own where it is not."""
    ids: np.ndarray
    """Of the rows, `S32`."""
    places: np.ndarray
    """In all the segments' rows, one segment after the other; -1 where a row is missing."""
    shares: np.ndarray
    """Of each picture in its own row, float32."""

    @property
    def missing(self) -> np.ndarray:
        return np.flatnonzero(self.places < 0)

    def parts(self) -> dict[Path, float]:
        """Which part of each segment is needed."""
        lengths = [len(segment.ids) for segment in self.segments]
        numbers = np.searchsorted(np.cumsum(lengths), self.places[self.places >= 0], "right")
        used = np.bincount(numbers, minlength=len(lengths))
        return {one.folder: float(u / n) for one, u, n in zip(self.segments, used, lengths, strict=True)}


class FeatureCache:
    """Views of pictures through one prefix.

    Args:
      root: the folder of all views, whatever their prefix.
      prefix: from images, or from the features of other views, to features; does not change.
      batch_size: pictures that go through it at once.
      code: fingerprint of the code that makes views of pictures.
    """

    def __init__(self, root: Path, prefix: keras.Model, batch_size: int, code: str):
        self._root, self._batch_size = root, batch_size
        self.layer: str = prefix.layers[-1].name
        """The prefix's last one."""
        self._forward = _forward(prefix)
        self._shape = tuple(prefix.output_shape[1:])
        self._own = {
            "input_shape": list(prefix.input_shape[1:]),
            "layer": self.layer,
            "dtypes": sorted({layer.compute_dtype for layer in prefix.layers if layer.weights}),
            "weights": weights.checksum(prefix.get_weights()),
            "code": code,
        }

    def above(self, frozen: keras.Model) -> FeatureCache:
        """Return a cache in the same folder of what views of this one become further up.

        Args:
          frozen: from this one's features to others; does not change.
        """
        return FeatureCache(self._root, frozen, self._batch_size, self._own["code"])

    def parts(self, wanted: Sequence[Wanted]) -> dict[Path, float]:
        """Return which part of each segment on disk some views would need, by folder.

        Args:
          wanted: what they are made of.
        """
        plans = [self._plan(one) for one in wanted]
        store = segments.Store(self._root, [plan.collection for plan in plans])
        return _parts([_located(plan, store) for plan in plans])

    def views(
        self,
        wanted: Sequence[Wanted],
        budget: int,
        interrupted: Callable[[], bool] = lambda: False,
        to_come: Callable[[], Mapping[Path, float]] = dict,
    ) -> list[View]:
        """Return views, computing what of them is not there yet; what was cut short goes on where it was.

        Args:
          wanted: what they are made of.
          budget: bytes that everything that is kept may have.
          interrupted: says whether the process was asked to end.
          to_come: says which part of each segment will be needed later, by folder; is asked if something is missing.

        Raises:
          OSError: there is no room for them.
          KeyboardInterrupt: the process was asked to end; what was done is kept.
        """
        plans = [self._plan(one) for one in wanted]
        store = segments.Store(self._root, [plan.collection for plan in plans])
        plans = [_located(plan, store) for plan in plans]
        missing = sum(len(plan.missing) for plan in plans)
        gone = store.make_room(missing * row_bytes(self._shape), budget, _parts(plans, to_come())) if missing else 0
        if gone:
            progress.logger.info("feature cache: %.1f MB, used longest ago, are evicted", gone / 1e6)
            plans = [_located(plan, store) for plan in plans]
        return [View(store, self._filled(store, plan, interrupted)) for plan in plans]

    def _key(self, wanted: Wanted) -> dict[str, Any]:
        """All that a row depends on but for its picture."""
        if wanted.below is not None:
            return self._own | {"below": wanted.below.key}
        if wanted.augment is None:
            return self._own
        return self._own | {"augmentation": wanted.augment, "seed": wanted.seed, "epoch": wanted.epoch}

    def _plan(self, wanted: Wanted) -> _Plan:
        """What rows a view has, before it is known which of them are there."""
        key = self._key(wanted)
        ids, partners = wanted.split.contents.ids, np.arange(wanted.split.contents.total)
        if _mixes(wanted.augment):
            partners = _partners(ids, wanted.seed, wanted.epoch)
            ids = np.array([_hashed(one, other) for one, other in zip(ids, ids[partners], strict=True)], "S32")
        missing, alone = np.full(len(ids), -1), np.ones(len(ids), np.float32)
        return _Plan(wanted, _collection(key, wanted), key, self._shape, [], partners, ids, missing, alone)

    def _filled(self, store: segments.Store, plan: _Plan, interrupted: Callable[[], bool]) -> _Plan:
        """The plan with all rows there."""
        wanted, missing, started = plan.wanted, plan.missing, time.monotonic()
        if not len(missing):
            return plan
        done, batches = 0, self._batches(plan)
        while done < len(missing):
            with store.writing(plan.collection, plan.key, self._shape) as writer:
                begun = time.monotonic()
                for rows, shares, features in batches:
                    writer.add(plan.ids[rows], shares, features)
                    done += len(rows)
                    progress.logger.info("%s: %d of %d pictures", wanted.name, done, len(missing), extra={"transient": True})
                    now = time.monotonic()
                    pause = min(_MOST_SECONDS_BETWEEN_SAVES, _PART_BETWEEN_SAVES * (now - started))
                    if interrupted() or now - begun > max(_SECONDS_BETWEEN_SAVES, pause):
                        break
            if interrupted():
                raise KeyboardInterrupt
        seconds, kept = time.monotonic() - started, len(plan.ids) - len(missing)
        there = f" ({kept:,} were there)" if kept else ""
        progress.logger.info("%s: %d pictures, %.0f s%s", wanted.name, len(missing), seconds, there)
        filled = _located(plan, store)
        if len(filled.missing):
            raise OSError(errno.ESTALE, "kept features are gone as soon as they are written", str(self._root))
        return filled

    def _batches(self, plan: _Plan) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The rows that are missing: their places, the shares of the pictures in them, and their features."""
        wanted, missing = plan.wanted, plan.missing
        if wanted.below is not None:
            yield from self._batches_above(wanted.below, np.argsort(np.argsort(wanted.split.contents.ids)), missing)
            return
        partners = plan.partners[missing] if _mixes(wanted.augment) else None
        batches = dataset.view_batches(
            wanted.split, missing, self._batch_size, wanted.seed, wanted.augment, wanted.epoch, partners
        )
        done = 0
        for images, shares in batches:
            rows = missing[done : done + len(shares)]
            done += len(rows)
            yield rows, shares.numpy(), self._forward(images).numpy()

    def _batches_above(
        self, below: View, ranks: np.ndarray, missing: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The same for a view that is made of another.

        Args:
          below: the other one.
          ranks: the row in it of each picture, in the order of the split's files.
          missing: places of the pictures whose rows are missing.
        """
        for start in range(0, len(missing), self._batch_size):
            rows = missing[start : start + self._batch_size]
            features = below.features(ranks[rows]).astype(np.float32)
            yield rows, below.shares(ranks[rows]), self._forward(tf.constant(features)).numpy()


def row_bytes(shape: Sequence[int]) -> int:
    """Return the bytes that one picture takes in a view.

    Args:
      shape: of its features.
    """
    return 2 * math.prod(shape) + _BYTES_OF_ID_AND_SHARE


def can_keep(split: dataset.Split, augment: dict[str, Any]) -> bool:
    """Return whether views of a split can be made: for those that mix pictures, they have to fit into memory."""
    return not _mixes(augment) or dataset.fits_in_memory(split)


def training_batches(views: Sequence[View], batch_size: int, seed: int, epoch: int = 0, step: int = 0) -> tf.data.Dataset:
    """Return batches without end, in an order of its own for each epoch.

    Of each picture two views are drawn, and a point between them: so a few views do for many fresh augmentations.
    Interpolation between neighbours is from "Dataset Augmentation in Feature Space", DeVries and Taylor, 2017.

    Args:
      views: of the train split.
      batch_size: pictures a batch; an epoch's last one is filled up with some of its first.
      seed: of the order and of what is drawn.
      epoch: the first one, from 0.
      step: the first batch of that epoch, from 0.

    Returns:
      A dataset of (float32 features `[batch, height, width, channels]`, labels `[batch, num_classes]`).
    """
    pictures = len(views[0])

    def draw(number: np.int64) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        random = np.random.default_rng((seed, int(number)))
        # The last batch is filled up with pictures of the first, as a batch of one or two would have no statistics to speak
        # of, and as XLA compiles each size anew.
        rows = np.resize(random.permutation(pictures), -(-pictures // batch_size) * batch_size)
        first, second = random.integers(len(views), size=(2, len(rows)))
        return rows, first, second, random.uniform(size=len(rows)).astype(np.float32)

    def drawn(number: tf.Tensor) -> tf.data.Dataset:
        found = tf.numpy_function(draw, [number], (tf.int64, tf.int64, tf.int64, tf.float32))
        return tf.data.Dataset.from_tensor_slices(tuple(found)).batch(batch_size)

    def read(rows: np.ndarray, first: np.ndarray, second: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, ...]:
        order = np.argsort(rows)  # as they lie on disk
        rows, first, second, shares = rows[order], first[order], second[order], shares[order]
        one, labels = _of_views(views, first, rows)
        other, other_labels = one.copy(), labels.copy()
        differ = first != second
        other[differ], other_labels[differ] = _of_views(views, second[differ], rows[differ])
        return one, other, shares, dataset.mixed_labels(labels, other_labels, shares)

    def from_disk(*drawn: tf.Tensor) -> tuple[tf.Tensor, ...]:
        one, other, shares, labels = tf.numpy_function(read, drawn, (tf.float16, tf.float16, tf.float32, tf.float32))
        labels.set_shape([None, views[0].num_classes])
        return tf.ensure_shape(one, [None, *views[0].shape]), tf.ensure_shape(other, [None, *views[0].shape]), shares, labels

    def between(one: tf.Tensor, other: tf.Tensor, shares: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        one, other = tf.cast(one, tf.float32), tf.cast(other, tf.float32)
        return other + (one - other) * tf.reshape(shares, [-1, 1, 1, 1]), labels

    batches = tf.data.Dataset.range(epoch, 2**31).flat_map(drawn).skip(step).map(from_disk)
    return autotuning.off(batches.map(between, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE))


def evaluation_batches(view: View, batch_size: int) -> tf.data.Dataset:
    """Return the batches of a view in order: (float32 features, labels)."""

    def read(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return view.features(rows), view.labels(rows)

    def from_disk(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        features, labels = tf.numpy_function(read, [rows], (tf.float16, tf.float32))
        labels.set_shape([None, view.num_classes])
        return tf.cast(tf.ensure_shape(features, [None, *view.shape]), tf.float32), labels

    return autotuning.off(tf.data.Dataset.range(len(view)).batch(batch_size).map(from_disk).prefetch(tf.data.AUTOTUNE))


def _mixes(augment: dict[str, Any] | None) -> bool:
    return augment is not None and augment["mix"] != "none"


def _partners(ids: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Whom each picture is mixed with, as places: few change with a few pictures.

    All pictures stand on a circle, at random, and each has a point there besides: the next one from there is its partner.
    """

    def turns(what: str) -> np.ndarray:
        return np.array([_hashed(one, f"{what} {seed} {epoch}".encode()) for one in ids], "S32")

    stand = turns("stands")
    order = np.argsort(stand)
    next_ones = np.searchsorted(stand, turns("looks"), sorter=order)
    partners = order[next_ones % len(ids)]
    own = partners == np.arange(len(ids))
    partners[own] = order[(next_ones[own] + 1) % len(ids)]
    return partners


def _parts(plans: Sequence[_Plan], others: Mapping[Path, float] | None = None) -> dict[Path, float]:
    """Which part of each segment is needed, added to what others need of them."""
    found = dict(others or {})
    for plan in plans:
        for folder, part in plan.parts().items():
            # Plain views of two splits lie in the same segments.
            found[folder] = min(1.0, found.get(folder, 0.0) + part)
    return found


def _hashed(*parts: bytes) -> bytes:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:32].encode()


def _located(plan: _Plan, store: segments.Store) -> _Plan:
    """A plan with what is there now."""
    found = store.segments(plan.collection, plan.key)
    if not found:
        return plan._replace(segments=found, places=np.full(len(plan.ids), -1))
    there = np.concatenate([segment.ids for segment in found])
    order = np.argsort(there, kind="stable")
    candidates = order[np.minimum(np.searchsorted(there, plan.ids, sorter=order), len(there) - 1)]
    places = np.where(there[candidates] == plan.ids, candidates, -1)
    shares = np.concatenate([segment.shares for segment in found])[places]
    return plan._replace(segments=found, places=places, shares=shares)


def _collection(key: dict[str, Any], wanted: Wanted) -> str:
    rest = {name: value for name, value in key.items() if name != "epoch"}
    name = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:32]
    return f"{name}/{'plain' if wanted.augment is None else f'view-{wanted.epoch + 1}'}"


def _forward(prefix: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    """From images to features, float16."""

    @tf.function(input_signature=[tf.TensorSpec([None, *prefix.input_shape[1:]], tf.float32)])
    def forward(images: tf.Tensor) -> tf.Tensor:
        # Beyond the largest float16 lies infinity, which would spoil whole batches.
        outputs = tf.minimum(tf.cast(prefix(images, training=False), tf.float32), _FLOAT16_LARGEST)
        return tf.cast(outputs, tf.float16)

    return forward


def _of_views(views: Sequence[View], choice: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row's features, float16, and labels, from the view that is chosen for it."""
    features = np.empty((len(rows), *views[0].shape), np.float16)
    labels = np.empty((len(rows), views[0].num_classes), np.float32)
    for number in np.unique(choice):
        own = choice == number
        features[own], labels[own] = views[number].features(rows[own]), views[number].labels(rows[own])
    return features, labels
