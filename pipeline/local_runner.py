"""Runs the pipeline on this machine, node by node, as TFX's LocalDagRunner does, and says how each node fares."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.compiler import compiler, constants
from tfx.orchestration import metadata
from tfx.orchestration import pipeline as tfx_pipeline
from tfx.orchestration.local import runner_utils
from tfx.orchestration.portable import launcher, runtime_parameter_utils

from configs import schema
from pipeline import outcome
from pipeline.pipeline import create_pipeline

RUNNING, DONE, CACHED, FAILED = "running", "done", "cached", "failed"


class NodeStatus(NamedTuple):
    """How a node fares: its id, one of the states above, and the seconds since it started."""

    node_id: str
    state: str
    seconds: float


class RunError(RuntimeError):
    """A run that could not be finished; the message says which node failed and why."""


def run_locally(config: schema.Config, output_dir: Path, on_status: Callable[[NodeStatus], None]) -> outcome.Outcome:
    """Run the pipeline of a configuration, with everything it makes below one folder.

    Args:
      config: `data.source` must be set.
      output_dir: for `pipeline_root`, `metadata.db` and `serving`; made if it is missing. What an earlier run left here is
        used again where nothing has changed.
      on_status: called when a node starts and when it ends.

    Returns:
      What came of it.

    Raises:
      RunError: a node failed, or another run is using the folder.
    """
    folder = output_dir.resolve()
    connection = metadata.sqlite_metadata_connection_config(str(folder / "metadata.db"))
    with _exclusive(folder):
        run_id = run(
            create_pipeline(
                config,
                pipeline_root=str(folder / "pipeline_root"),
                serving_dir=str(folder / "serving"),
                metadata_connection_config=connection,
            ),
            connection,
            on_status,
        )
        return outcome.read(connection, run_id)


def run(
    pipeline: tfx_pipeline.Pipeline,
    connection: metadata_store_pb2.ConnectionConfig,
    on_status: Callable[[NodeStatus], None],
) -> str:
    """Run every node of a pipeline in order, in this process.

    Args:
      pipeline: as `create_pipeline` returns it.
      connection: of the metadata store.
      on_status: called when a node starts and when it ends.

    Returns:
      The id of the run.

    Raises:
      RunError: a node failed; those before it are kept and will be found cached by the next run.
    """
    run_id = datetime.datetime.now(datetime.UTC).isoformat()
    ir = compiler.Compiler().compile(pipeline)
    runtime_parameter_utils.substitute_runtime_parameter(ir, {constants.PIPELINE_RUN_ID_PARAMETER_NAME: run_id})
    deployment = runner_utils.extract_local_deployment_config(ir)
    for node in ir.nodes:
        node_id = node.pipeline_node.node_info.id
        started = time.monotonic()
        on_status(NodeStatus(node_id, RUNNING, 0.0))
        try:
            execution = launcher.Launcher(
                pipeline_node=node.pipeline_node,
                mlmd_connection=metadata.Metadata(connection),
                pipeline_info=ir.pipeline_info,
                pipeline_runtime_spec=ir.runtime_spec,
                executor_spec=runner_utils.extract_executor_spec(deployment, node_id),
                custom_driver_spec=runner_utils.extract_custom_driver_spec(deployment, node_id),
            ).launch()
        except Exception as error:
            on_status(NodeStatus(node_id, FAILED, time.monotonic() - started))
            raise RunError(f"{node_id} failed: {_in_a_line(error)}") from error
        state = _state(connection, execution.execution_id if execution else None)
        on_status(NodeStatus(node_id, state, time.monotonic() - started))
        if state == FAILED:
            raise RunError(f"{node_id} failed: its inputs could not be resolved")
    return run_id


@contextlib.contextmanager
def _exclusive(output_dir: Path) -> Iterator[None]:
    """Keep other runs out of an output folder; the lock ends with the process, however that ends."""
    output_dir.mkdir(parents=True, exist_ok=True)
    with (output_dir / ".lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{output_dir}: another run is using this folder") from None
        yield


def _state(connection: metadata_store_pb2.ConnectionConfig, execution_id: int | None) -> str:
    """What became of an execution: the launcher does not raise when a node's inputs are missing."""
    if execution_id is None:
        return FAILED
    (execution,) = mlmd.MetadataStore(connection).get_executions_by_id([execution_id])
    states = {metadata_store_pb2.Execution.CACHED: CACHED, metadata_store_pb2.Execution.COMPLETE: DONE}
    return states.get(execution.last_known_state, FAILED)


def _in_a_line(error: Exception) -> str:
    """An exception in one line, without what Beam adds to it."""
    message = str(error).split(" [while running")[0].split("\n\n")[0]
    return f"{type(error).__name__}: {' '.join(message.split())}"
