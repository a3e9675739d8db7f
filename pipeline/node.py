"""Runs one node of a compiled pipeline with TFX's launcher; the same for every orchestrator."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.compiler import compiler, constants
from tfx.orchestration import metadata
from tfx.orchestration import pipeline as tfx_pipeline
from tfx.orchestration.local import runner_utils
from tfx.orchestration.portable import launcher, runtime_parameter_utils
from tfx.proto.orchestration import executable_spec_pb2, pipeline_pb2

from configs import schema
from pipeline import beam, outcome

DONE, CACHED = "done", "cached"


class NodeError(RuntimeError):
    """A node that failed; the message is one line, and says why."""


def compile_for_run(pipeline: tfx_pipeline.Pipeline, run_id: str) -> pipeline_pb2.Pipeline:
    """Return TFX's intermediate representation of a pipeline, for one run.

    Args:
      pipeline: as `create_pipeline` returns it.
      run_id: tells this run from all others of the metadata store.
    """
    ir = compiler.Compiler().compile(pipeline)
    runtime_parameter_utils.substitute_runtime_parameter(ir, {constants.PIPELINE_RUN_ID_PARAMETER_NAME: run_id})
    return ir


def launch(ir: pipeline_pb2.Pipeline, node_id: str, connection: outcome.Connection, beam_config: schema.Beam) -> str:
    """Run one node: look up its inputs, take its outputs from the cache or make them, and write all that down.

    A node of this run that was killed is done again, in the place of the attempt before, whose half-written artifacts go.

    Args:
      ir: of the pipeline, for this run.
      node_id: of the node, whose upstream nodes have been run.
      connection: of the metadata store.
      beam_config: how Beam nodes run.

    Returns:
      `DONE` or `CACHED`.

    Raises:
      NodeError: the node failed.
    """
    node = next(node.pipeline_node for node in ir.nodes if node.pipeline_node.node_info.id == node_id)
    deployment = runner_utils.extract_local_deployment_config(ir)
    _remove_attempt(ir, node_id, connection)
    executor_spec = runner_utils.extract_executor_spec(deployment, node_id)
    if isinstance(executor_spec, executable_spec_pb2.BeamExecutableSpec):
        pictures = outcome.read_pictures(connection, ir.runtime_spec.pipeline_run_id.field_value.string_value)
        _set_beam_arguments(executor_spec, beam.arguments(beam_config, pictures))
    try:
        execution = launcher.Launcher(
            pipeline_node=node,
            mlmd_connection=metadata.Metadata(connection),
            pipeline_info=ir.pipeline_info,
            pipeline_runtime_spec=ir.runtime_spec,
            executor_spec=executor_spec,
            custom_driver_spec=runner_utils.extract_custom_driver_spec(deployment, node_id),
        ).launch()
    except Exception as error:
        raise NodeError(f"{node_id} failed: {_in_a_line(error)}") from error
    # The launcher does not raise when a node's inputs are missing.
    execution_id = execution.execution_id if execution else None
    states = {metadata_store_pb2.Execution.CACHED: CACHED, metadata_store_pb2.Execution.COMPLETE: DONE}
    for found in mlmd.MetadataStore(connection).get_executions_by_id([execution_id] if execution_id else []):
        if found.last_known_state in states:
            return states[found.last_known_state]
    raise NodeError(f"{node_id} failed: its inputs could not be resolved")


def _set_beam_arguments(executor_spec: Any, arguments: Sequence[str]) -> None:
    del executor_spec.beam_pipeline_args[:]
    executor_spec.beam_pipeline_args.extend(arguments)


def _remove_attempt(ir: pipeline_pb2.Pipeline, node_id: str, connection: outcome.Connection) -> None:
    """Remove what an attempt at a node of this very run left that was killed; TFX goes on with its execution."""
    run_id = ir.runtime_spec.pipeline_run_id.field_value.string_value
    root = Path(ir.runtime_spec.pipeline_root.field_value.string_value)
    for execution_id in outcome.read_unfinished(connection, run_id, node_id):
        for folder in (root / node_id).glob(f"*/{execution_id}"):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(root / node_id / ".system" / "executor_execution" / str(execution_id), ignore_errors=True)


def _in_a_line(error: Exception) -> str:
    """An exception in one line, without what Beam adds to it."""
    message = str(error).split(" [while running")[0].split("\n\n")[0]
    return f"{type(error).__name__}: {' '.join(message.split())}"
