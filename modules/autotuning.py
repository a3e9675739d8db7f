"""tf.data without its autotuning, which makes whoever drops an iterator wait."""

from __future__ import annotations

import tensorflow as tf


def off(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Return the same dataset, as parallel as there are cores, up to 16, and not tuned while it runs.

    The thread that tunes sleeps twice as long each time, up to a minute. An iterator that goes away wakes it, often before
    it can see why (TensorFlow 2.21, `Model::OptimizeLoop`: callbacks of a cancellation run before `IsCancelled` is true): it
    sleeps on while the iterator waits for it, after a pass of 6 s for 4.2 s.

    Args:
      dataset: the outermost one; what it has been made of follows.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
