"""The jobs that a pipeline has on a cluster: by their names they are found again, whoever started them and was killed."""

from __future__ import annotations

import hashlib
import logging
import os
import uuid

from tfx.dsl.io import fileio

from configs import schema
from pipeline import flink

FOLDER = ".beam"
"""For what concerns Beam's workers, in the folder for artifacts."""
_SECONDS = 60.0
"""For a job to end that is cancelled: a task that does not is killed by Flink after 180 s, with its task manager."""
_log = logging.getLogger("finetune.pipeline.jobs")


def name(pipeline: str, root: str, run_id: str, node_id: str) -> str:
    """Return the name of a node's job, which no other output folder's jobs have.

    Args:
      pipeline: its name.
      root: for its artifacts.
      run_id: of the run.
      node_id: of the node.
    """
    path = _id_file(root)
    if not fileio.exists(path):
        fileio.makedirs(os.path.dirname(path))
        with fileio.open(path, "w") as file:
            file.write(uuid.uuid4().hex[:12])
    return f"{_prefix(pipeline, path)}{hashlib.sha256(run_id.encode()).hexdigest()[:8]}-{node_id}"


def end(config: schema.Beam, name: str) -> None:
    """End a job whose driver was killed: it would write into what is done anew.

    Args:
      config: the `beam` section.
      name: of the job, or what the names of several begin with.

    Raises:
      flink.UnreachableError: Flink does not answer, or they have not ended within a minute.
    """
    assert config.flink is not None
    for job in flink.Cluster(config.flink.master).cancel(name, _SECONDS):
        _log.warning("the Flink job %s, whose run was killed, was still %s: cancelled", job.name, job.state)


def end_all(config: schema.Beam, pipeline: str, root: str) -> None:
    """End all jobs of an output folder that nobody else works in.

    Args:
      config: the `beam` section.
      pipeline: its name.
      root: for its artifacts.

    Raises:
      flink.UnreachableError: Flink does not answer, or they have not ended within a minute.
    """
    path = _id_file(root)
    if config.runner == "flink" and fileio.exists(path):
        end(config, _prefix(pipeline, path))


def _id_file(root: str) -> str:
    return os.path.join(root, FOLDER, "id")


def _prefix(pipeline: str, path: str) -> str:
    with fileio.open(path, "r") as file:
        return f"finetune-{pipeline}-{file.read()}-"
