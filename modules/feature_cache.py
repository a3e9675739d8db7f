"""The frozen prefix computed once: its outputs for views of the pictures, kept on disk.

A view is one pass over a split, augmented or plain: features, float16 `[pictures, height, width, channels]`, and labels,
float32 `[pictures, classes]`, each a memory-mapped `.npy` file. Views of one split live in a folder named after all that
they depend on, so that a later run finds those that match; the folders used longest ago make way for new ones.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from modules import autotuning, progress, weights

_FLOAT16_LARGEST = 65504.0
_SECONDS_BETWEEN_SAVES = 15.0


class View(NamedTuple):
    """One pass over a split; both arrays are memory-mapped."""

    features: np.memmap
    """float16 `[pictures, height, width, channels]`."""
    labels: np.memmap
    """float32 `[pictures, classes]`."""


class FeatureCache:
    """Views of pictures through one prefix.

    Args:
      root: the folder of all views, whatever their prefix.
      prefix: from images to features; does not change.
      batch_size: pictures that go through it at once.
      code: fingerprint of the code that makes views of pictures.
    """

    def __init__(self, root: Path, prefix: keras.Model, batch_size: int, code: str):
        self._root, self._prefix, self._batch_size = root, prefix, batch_size
        self._forward = _forward(prefix)
        checksum = weights.checksum(prefix.get_weights())
        self._own = (prefix.input_shape, prefix.layers[-1].name, prefix.compute_dtype, checksum, code)

    def key(self, *parts: object) -> str:
        """Return the name of the folder of views that depend on this prefix and on what is given."""
        return hashlib.sha256(repr((self._own, parts)).encode()).hexdigest()[:32]

    def make_room(self, wanted: int, budget: int, keep: Collection[str]) -> None:
        """Evict the folders used longest ago until others fit.

        Args:
          wanted: bytes that the kept folders will have.
          budget: bytes that all folders may have.
          keep: names of folders that stay.
        """
        others = [folder for folder in self._root.glob("*") if folder.name not in keep]
        sizes = {folder: _size(folder) for folder in sorted(others, key=lambda folder: folder.stat().st_mtime)}
        for folder, size in list(sizes.items()):
            if sum(sizes.values()) + wanted <= budget:
                break
            progress.logger.info("feature cache: %.1f MB, used longest ago, are evicted", size / 1e6)
            shutil.rmtree(folder)
            del sizes[folder]

    def view(self, key: str, name: str, batches: Callable[[int], tf.data.Dataset], pictures: int, classes: int) -> View:
        """Return a view, computing what of it is not there yet; one that was cut short goes on where it was.

        Args:
          key: name of its folder.
          name: of the view, e.g. `view 1`.
          batches: from the number of a batch, the pass's batches of (images, labels) from there on; may be endless.
          pictures: in the split.
          classes: that labels tell apart.
        """
        folder = self._root / key / name.replace(" ", "-")
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder.parent)
        counter = folder / "pictures"
        done = int(counter.read_text()) if counter.exists() else 0
        view = View(
            _memmap(folder / "features.npy", np.float16, (pictures, *self._prefix.output_shape[1:]), new=not done),
            _memmap(folder / "labels.npy", np.float32, (pictures, classes), new=not done),
        )
        if done < pictures:
            self._fill(view, name, batches, done, counter)
        return view

    def _fill(self, view: View, name: str, batches: Callable[[int], tf.data.Dataset], done: int, counter: Path) -> None:
        pictures, first = len(view.features), done
        started = saved = time.monotonic()
        for images, labels in batches(done // self._batch_size):
            end = done + len(labels)
            view.features[done:end], view.labels[done:end] = self._forward(images), labels
            done = end
            progress.logger.info("%s: %d of %d pictures", name, done, pictures, extra={"transient": True})
            if done == pictures or time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
                view.features.flush()
                view.labels.flush()
                _write(counter, str(done))
                saved = time.monotonic()
            if done == pictures:
                break
        progress.logger.info("%s: %d pictures, %.0f s", name, pictures - first, time.monotonic() - started)


def view_bytes(prefix: keras.Model, pictures: int, classes: int) -> int:
    """Return the size of one view."""
    return pictures * (2 * math.prod(prefix.output_shape[1:]) + 4 * classes)


def available(root: Path) -> int:
    """Return the bytes that a cache's folder, which need not be there yet, can have: its own and what its disk has free."""
    there = next(folder for folder in (root, *root.parents) if folder.exists())
    return shutil.disk_usage(there).free + _size(root)


def training_batches(views: Sequence[View], batch_size: int, seed: int, epoch: int = 0, step: int = 0) -> tf.data.Dataset:
    """Return batches without end: epoch e goes over view e modulo their number, in an order of its own.

    Args:
      views: of the train split.
      batch_size: pictures a batch; an epoch's last one is filled up with some of its first.
      seed: of the order.
      epoch: the first one, from 0.
      step: the first batch of that epoch, from 0.

    Returns:
      A dataset of (float32 features `[batch, height, width, channels]`, labels `[batch, num_classes]`).
    """
    pictures = len(views[0].features)

    def order(number: np.int64) -> np.ndarray:
        # The last batch is filled up with pictures of the first, as a batch of one or two would have no statistics to speak
        # of, and as XLA compiles each size anew.
        return np.resize(
            np.random.default_rng((seed, int(number))).permutation(pictures), -(-pictures // batch_size) * batch_size
        )

    def rows(number: tf.Tensor) -> tf.data.Dataset:
        batches = tf.data.Dataset.from_tensor_slices(tf.numpy_function(order, [number], tf.int64)).batch(batch_size)
        return batches.map(lambda rows: (number % len(views), rows))

    return _read(views, tf.data.Dataset.range(epoch, 2**31).flat_map(rows).skip(step))


def evaluation_batches(view: View, batch_size: int) -> tf.data.Dataset:
    """Return the batches of a view in order: (float32 features, labels)."""
    rows = tf.data.Dataset.range(len(view.features)).batch(batch_size)
    return _read([view], rows.map(lambda rows: (tf.constant(0, tf.int64), rows)))


def _forward(prefix: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    """From images to features, float16."""

    @tf.function(input_signature=[tf.TensorSpec([None, *prefix.input_shape[1:]], tf.float32)])
    def forward(images: tf.Tensor) -> tf.Tensor:
        # Beyond the largest float16 lies infinity, which would spoil whole batches.
        outputs = tf.minimum(tf.cast(prefix(images, training=False), tf.float32), _FLOAT16_LARGEST)
        return tf.cast(outputs, tf.float16)

    return forward


def _read(views: Sequence[View], batches: tf.data.Dataset) -> tf.data.Dataset:
    """From batches of (number of a view, rows of it) to those of (features, labels)."""

    def read(view: np.int64, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return views[int(view)].features[rows].astype(np.float32), views[int(view)].labels[rows]

    def from_disk(view: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        features, labels = tf.numpy_function(read, [view, tf.sort(rows)], (tf.float32, tf.float32))
        features.set_shape([None, *views[0].features.shape[1:]])
        labels.set_shape([None, views[0].labels.shape[1]])
        return features, labels

    return autotuning.off(batches.map(from_disk).prefetch(tf.data.AUTOTUNE))


def _memmap(path: Path, dtype: type, shape: tuple[int, ...], new: bool) -> np.memmap:
    if new:
        return np.lib.format.open_memmap(path, "w+", dtype, shape)
    return np.lib.format.open_memmap(path, "r+")


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _write(path: Path, text: str) -> None:
    """Write a small file so that a half-written one is never seen."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(text)
    unfinished.replace(path)
