"""Which Beam runner a node works on, and with which arguments."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import tensorflow as tf
from apache_beam.options import pipeline_options

from configs import environment, schema
from modules import machine
from pipeline import flink

ALL_CORES_FROM = 20_000
"""Pictures from which worker processes pay: each stage waits for them to start.

StatisticsGen and Transform took 7.0 and 6.3 s in one process and 7.6 and 5.6 s in two for 20,000 photographs (2 cores).
"""

_UNPACKED = "--sdk_container_image=none"
"""Without a container image TFX packs itself for remote workers, 1.6 s a node."""
_IN_PROCESS = ("--runner=FnApiRunner", _UNPACKED)
_LOCAL_RUNNERS = {"DirectRunner", "BundleBasedDirectRunner", "FnApiRunner", "PrismRunner"}
_ALL_CORES = (*_IN_PROCESS, "--direct_running_mode=multi_processing")
_OWN_BYTES, _WORKER_BYTES = 1_000_000_000, 400_000_000
"""Memory of the process that starts Beam, and of each worker."""


def arguments(config: schema.Beam, pictures: int = 0, job: str = "job") -> list[str]:
    """Return Beam's arguments for a node.

    Args:
      config: the `beam` section.
      pictures: how many the node works on; 0 if that is not known yet, as in ingestion, which spreads over all cores by
        threads of its own.
      job: name of the job on a cluster.

    Raises:
      flink.UnreachableError: Flink does not answer.
    """
    if config.runner == "auto":
        workers = _workers() if pictures >= ALL_CORES_FROM else 1
        own = [*_ALL_CORES, f"--direct_num_workers={workers}"] if workers > 1 else [*_IN_PROCESS]
    elif config.runner == "flink":
        assert config.flink is not None
        own = flink.arguments(config.flink, job)
    else:
        own = [f"--runner={config.runner}"]
    return [*own, *([_UNPACKED] if _is_external([*own, *config.args]) else []), *config.args]


def check(config: schema.Beam) -> None:
    """Check, before anything is started, that what Beam nodes run on can be used.

    Args:
      config: the `beam` section.

    Raises:
      flink.FlinkError: Flink can't be used as it is configured.
      flink.UnreachableError: Flink does not answer.
    """
    if config.runner == "flink":
        assert config.flink is not None
        flink.check(config.flink)


def is_remote(config: schema.Beam) -> bool:
    """Return whether Beam nodes work in other processes than this one and its children, maybe on other machines.

    Args:
      config: the `beam` section.
    """
    return config.runner not in {"auto", *_LOCAL_RUNNERS}


def _is_external(arguments: list[str]) -> bool:
    """Whether workers are there already, with all that they need in them."""
    options = pipeline_options.PipelineOptions(arguments).view_as(pipeline_options.PortableOptions)
    return bool(options.environment_type == "EXTERNAL")


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
