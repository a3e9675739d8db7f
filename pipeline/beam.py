"""Which Beam runner a node works on, and with which arguments."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import tensorflow as tf

from configs import environment, schema
from modules import machine

ALL_CORES_FROM = 20_000
"""Pictures from which worker processes pay: each stage waits for them to start.

StatisticsGen and Transform took 7.0 and 6.3 s in one process and 7.6 and 5.6 s in two for 20,000 photographs (2 cores).
"""

_IN_PROCESS = (
    "--runner=FnApiRunner",
    # Without a container image TFX packs itself for remote workers, 1.6 s a node, though there are none.
    "--sdk_container_image=none",
)
_ALL_CORES = (*_IN_PROCESS, "--direct_running_mode=multi_processing")
_OWN_BYTES, _WORKER_BYTES = 1_000_000_000, 400_000_000
"""Memory of the process that starts Beam, and of each worker."""


def arguments(config: schema.Beam, pictures: int = 0) -> list[str]:
    """Return Beam's arguments for a node.

    Args:
      config: the `beam` section.
      pictures: how many the node works on; 0 if that is not known yet, as in ingestion, which spreads over all cores by
        threads of its own.
    """
    if config.runner != "auto":
        return [f"--runner={config.runner}", *config.args]
    workers = _workers() if pictures >= ALL_CORES_FROM else 1
    return [*((*_ALL_CORES, f"--direct_num_workers={workers}") if workers > 1 else _IN_PROCESS), *config.args]


def _workers() -> int:
    """How many processes the cores and the memory that there are, in a container of it, have room for."""
    return max(1, min(machine.cores(), (machine.memory() - _OWN_BYTES) // _WORKER_BYTES))


@contextlib.contextmanager
def children_without_gpus() -> Iterator[None]:
    """Let processes that are started meanwhile, such as Beam's, one a core, see no GPU; this one keeps those that it has."""
    # Once TensorFlow has looked for GPUs it does not ask the environment again.
    tf.config.list_logical_devices()
    before = os.environ.pop(environment.VISIBLE_GPUS, None)
    environment.hide_gpus(os.environ)
    try:
        yield
    finally:
        del os.environ[environment.VISIBLE_GPUS]
        if before is not None:
            os.environ[environment.VISIBLE_GPUS] = before
