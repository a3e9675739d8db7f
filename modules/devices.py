"""Which devices train, at which precision, and whether XLA compiles the step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

FLOAT32, TENSOR_FLOAT32 = "float32", "tf32"
"""What float32 kernels compute in: all 24 bits of a number, or the 11 that GPUs with tensor cores take for faster."""

_SMALLEST_FOR_XLA = 3  # height and width of features
_LARGEST_FOR_XLA_ON_AVX512 = 7
_FAST_FLOAT16, _FAST_BFLOAT16 = (7, 0), (8, 0)  # compute capabilities of the first GPUs whose tensor cores take it


class DeviceError(ValueError):
    """A configuration that doesn't suit the devices there are."""


def strategy(batch_size: int, watched: int) -> tf.distribute.Strategy:
    """Return a strategy that uses all GPUs of this machine, each with a part of every batch; or the one device there is.

    Args:
      batch_size: pictures a step.
      watched: pictures of the eval split.

    Raises:
      DeviceError: a batch can't be divided into equal parts, or there are fewer pictures to watch than GPUs.
    """
    gpus = len(tf.config.list_logical_devices("GPU"))
    if gpus < 2:
        return tf.distribute.get_strategy()
    if batch_size % gpus:
        raise DeviceError(f"training.batch_size = {batch_size}: must be a multiple of the number of GPUs, {gpus}")
    if watched < gpus:
        raise DeviceError(f"the eval split has {watched} pictures: fewer than GPUs, {gpus}; see data.splits")
    return tf.distribute.MirroredStrategy()


def precision(setting: str) -> str:
    """Return the dtype policy to train with.

    On a CPU with AVX512_BF16 both VGG16's blocks 1 to 4 and a training step on block 5 took half the time in bfloat16.

    Args:
      setting: a policy, or `auto`: `mixed_bfloat16`, whose range is that of float32, where every GPU computes in it, or the
        CPU where there is none; else `mixed_float16` where every GPU gains from it; else `float32`.
    """
    if setting != "auto":
        return setting
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "mixed_bfloat16" if _cpu_flags() & {"avx512_bf16", "amx_bf16"} else "float32"
    capabilities = [tf.config.experimental.get_device_details(gpu).get("compute_capability") or (0, 0) for gpu in gpus]
    if min(capabilities) >= _FAST_BFLOAT16:
        return "mixed_bfloat16"
    return "mixed_float16" if min(capabilities) >= _FAST_FLOAT16 else "float32"


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Have this process compute in all of float32 while a model is judged: GPUs then answer as CPUs do."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def computes_in() -> str:
    """Return what float32 kernels of this process compute in: `FLOAT32`, or `TENSOR_FLOAT32` where a device gains."""
    return TENSOR_FLOAT32 if tf.config.experimental.tensor_float_32_execution_enabled() else FLOAT32


def jit_compile(setting: bool | str, kept: tuple[int, int, int] | None, policy: str) -> bool | str:
    """Return whether XLA compiles the training step, as `keras.Model.compile` takes it.

    On a CPU with AVX2 a step on kept features (block 5 and a head; 32 of 8 x 8 x 512, 64 of 3 x 3 x 512) took 0.61 and 0.28
    s compiled, 1.29 s not. On one with AVX-512 (taken for Intel's), in float32, 32 of 3 x 3, 4 x 4, 7 x 7 and 14 x 14 took
    56, 86, 204 and 763 ms compiled, and 94, 114, 207 and 670 ms not; in bfloat16 compiled took longer from 4 x 4 on. On
    AMD's (Zen 4), where 3 x 3, 4 x 4 and 7 x 7 took 74, 112 and 302 ms compiled, and 73, 103 and 266 ms not, it never gains,
    and to compile takes 1.3 s. At 2 x 2 it is thirty times as long everywhere.

    Args:
      setting: True, False, or `auto`: yes on kept features where it gains, which Keras's own `auto` does not see, and
        Keras's choice for the whole model.
      kept: height, width and channels of kept features; None where pictures go through the whole model.
      policy: dtype policy of the model.
    """
    if setting != "auto":
        return setting
    if kept is None or len(tf.config.list_logical_devices("GPU")) > 1:
        return "auto"
    if tf.config.list_logical_devices("GPU"):
        return True
    size = min(kept[:2])
    if "avx512f" in _cpu_flags():
        gains = _cpu("vendor_id") == "GenuineIntel" and policy == "float32"
        return gains and _SMALLEST_FOR_XLA <= size < _LARGEST_FOR_XLA_ON_AVX512
    return size >= _SMALLEST_FOR_XLA


def _cpu_flags() -> set[str]:
    """What this machine's processor can do."""
    return set(_cpu("flags").split())


def _cpu(what: str) -> str:
    """What /proc/cpuinfo tells of this machine's processor; nothing where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(what)), "")


def describe(policy: str, compiled: bool | str) -> str:
    """Return a line on what trains, at which precision."""
    gpus = tf.config.list_logical_devices("GPU")
    what = f"{len(gpus)} GPU{'s' if len(gpus) > 1 else ''}" if gpus else "CPU"
    return f"{what}, {policy}{', XLA' if compiled is True else ''}"
