"""Runs the pipeline on this machine, node by node, as TFX's LocalDagRunner does, and says how each node fares."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration import metadata
from tfx.orchestration import pipeline as tfx_pipeline

from configs import schema
from pipeline import node, outcome
from pipeline.pipeline import create_data_pipeline, create_pipeline

_PIPELINE_ROOT = "pipeline_root"

RUNNING, FAILED = "running", "failed"


class NodeStatus(NamedTuple):
    """How a node fares: its id, one of the states above or of `node`, and the seconds since it started."""

    node_id: str
    state: str
    seconds: float


class RunError(RuntimeError):
    """A run that could not be finished; the message says which node failed and why."""


def run_locally(config: schema.Config, output_dir: Path, on_status: Callable[[NodeStatus], None]) -> outcome.Outcome:
    """Run the pipeline of a configuration, with everything it makes below one folder.

    Args:
      config: `data.source` must be set.
      output_dir: for `pipeline_root`, `metadata.db`, `serving` and `work`; made if it is missing. What an earlier run left
        here is used again where nothing has changed.
      on_status: called when a node starts and when it ends.

    Returns:
      What came of it.

    Raises:
      RunError: a node failed, or another run is using the folder.
    """
    with _project(output_dir) as (folder, connection):
        pipeline = create_pipeline(
            config,
            pipeline_root=str(folder / _PIPELINE_ROOT),
            serving_dir=str(folder / "serving"),
            work_dir=str(folder / "work"),
            metadata_connection_config=connection,
        )
        return outcome.read(connection, run(pipeline, connection, on_status, config.beam))


def check_data(config: schema.Config, output_dir: Path, on_status: Callable[[NodeStatus], None]) -> outcome.DataOutcome:
    """Ingest and judge the data of a configuration, and train nothing.

    Args:
      config: `data.source` must be set.
      output_dir: as for `run_locally`; a run with the same folder finds what was ingested. Nothing counts as accepted.
      on_status: called when a node starts and when it ends.

    Returns:
      What was found.

    Raises:
      RunError: a node failed, or a run is using the folder.
    """
    with _project(output_dir) as (folder, connection):
        pipeline = create_data_pipeline(
            config, pipeline_root=str(folder / _PIPELINE_ROOT), metadata_connection_config=connection
        )
        return outcome.read_data(connection, run(pipeline, connection, on_status, config.beam))


def run(
    pipeline: tfx_pipeline.Pipeline,
    connection: metadata_store_pb2.ConnectionConfig,
    on_status: Callable[[NodeStatus], None],
    beam_config: schema.Beam,
) -> str:
    """Run every node of a pipeline in order, in this process.

    Args:
      pipeline: as `create_pipeline` returns it.
      connection: of the metadata store.
      on_status: called when a node starts and when it ends.
      beam_config: how Beam nodes run.

    Returns:
      The id of the run.

    Raises:
      RunError: a node failed; those before it are kept and will be found cached by the next run.
    """
    run_id = datetime.datetime.now(datetime.UTC).isoformat()
    ir = node.compile_for_run(pipeline, run_id)
    for one in ir.nodes:
        node_id = one.pipeline_node.node_info.id
        started = time.monotonic()
        on_status(NodeStatus(node_id, RUNNING, 0.0))
        try:
            state = node.launch(ir, node_id, connection, beam_config)
        except node.NodeError as error:
            on_status(NodeStatus(node_id, FAILED, time.monotonic() - started))
            raise RunError(str(error)) from error
        on_status(NodeStatus(node_id, state, time.monotonic() - started))
    return run_id


@contextlib.contextmanager
def _project(output_dir: Path) -> Iterator[tuple[Path, metadata_store_pb2.ConnectionConfig]]:
    """Keep other runs out of an output folder; the lock ends with the process, however that ends.

    Yields its absolute path and the connection of its metadata store.
    """
    folder = output_dir.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{output_dir}: another run is using this folder") from None
        # Nobody else is here, so these belong to a run that was killed.
        for leftover in folder.glob(f"{_PIPELINE_ROOT}/*/.system/executor_execution/*/.temp"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield folder, metadata.sqlite_metadata_connection_config(str(folder / "metadata.db"))
