"""Which devices train, at which precision, and whether XLA compiles the step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras
import tensorflow as tf

_FAST_FLOAT16 = (7, 0)  # compute capability of the first GPUs with tensor cores


class DeviceError(ValueError):
    """A configuration that doesn't suit the devices there are."""


def strategy(batch_size: int) -> tf.distribute.Strategy:
    """Return a strategy that uses all GPUs of this machine, each with a part of every batch; or the one device there is.

    Args:
      batch_size: pictures a step.

    Raises:
      DeviceError: a batch can't be divided into equal parts.
    """
    gpus = len(tf.config.list_logical_devices("GPU"))
    if gpus < 2:
        return tf.distribute.get_strategy()
    if batch_size % gpus:
        raise DeviceError(f"training.batch_size = {batch_size}: must be a multiple of the number of GPUs, {gpus}")
    return tf.distribute.MirroredStrategy()


def precision(setting: str) -> str:
    """Return the dtype policy to train with.

    Args:
      setting: a policy, or `auto`: `mixed_float16` where every GPU gains from it, else `float32`.
    """
    if setting != "auto":
        return setting
    capabilities = [
        tf.config.experimental.get_device_details(gpu).get("compute_capability") or (0, 0)
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    return "mixed_float16" if capabilities and min(capabilities) >= _FAST_FLOAT16 else "float32"


@contextlib.contextmanager
def dtype_policy(policy: str) -> Iterator[None]:
    """Make layers that are built inside compute as a policy says."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def jit_compile(setting: bool | str, cached: bool) -> bool | str:
    """Return whether XLA compiles the training step, as `keras.Model.compile` takes it.

    Args:
      setting: True, False, or `auto`: yes for the small step on kept features, which gains most where Keras's own `auto`
        says no; Keras's choice for the whole model.
      cached: whether the step is one on kept features.
    """
    if setting != "auto":
        return setting
    return True if cached and len(tf.config.list_logical_devices("GPU")) <= 1 else "auto"


def describe(policy: str, compiled: bool | str) -> str:
    """Return a line on what trains, at which precision."""
    gpus = tf.config.list_logical_devices("GPU")
    what = f"{len(gpus)} GPU{'s' if len(gpus) > 1 else ''}" if gpus else "CPU"
    return f"{what}, {policy}{', XLA' if compiled is True else ''}"
