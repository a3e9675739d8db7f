"""Runs one node of a compiled pipeline with TFX's launcher; the same for every orchestrator."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any, NoReturn

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.compiler import compiler, constants
from tfx.dsl.io import fileio
from tfx.orchestration import metadata
from tfx.orchestration import pipeline as tfx_pipeline
from tfx.orchestration.local import runner_utils
from tfx.orchestration.portable import base_executor_operator, data_types, launcher, runtime_parameter_utils
from tfx.proto.orchestration import executable_spec_pb2, pipeline_pb2

from configs import schema
from pipeline import beam, outcome

DONE, CACHED, DUE = "done", "cached", "due"

_ENDED = {metadata_store_pb2.Execution.CACHED: CACHED, metadata_store_pb2.Execution.COMPLETE: DONE}


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


class _DueError(BaseException):
    """There is work to do; no Exception, as TFX would write down that the node failed."""


class _Refusing(base_executor_operator.BaseExecutorOperator):
    """Executes nothing."""

    SUPPORTED_EXECUTOR_SPEC_TYPE = (executable_spec_pb2.PythonClassExecutableSpec, executable_spec_pb2.BeamExecutableSpec)
    SUPPORTED_PLATFORM_CONFIG_TYPE = ()

    def run_executor(self, execution_info: data_types.ExecutionInfo) -> NoReturn:
        raise _DueError


def launch(
    ir: pipeline_pb2.Pipeline,
    node_id: str,
    connection: outcome.Connection,
    beam_config: schema.Beam,
    execute: bool = True,
) -> str:
    """Run one node: look up its inputs, take its outputs from the cache or make them, and write all that down.

    A node that ended well in this very run is left as it is. One that was killed is done again, in the place of the attempt
    before, whose half-written artifacts go.

    Args:
      ir: of the pipeline, for this run.
      node_id: of the node, whose upstream nodes have been run.
      connection: of the metadata store.
      beam_config: how Beam nodes run.
      execute: whether the work is done where the cache does not have it.

    Returns:
      `DONE`, `CACHED`, or `DUE` for work that was not done.

    Raises:
      NodeError: the node failed.
    """
    node = next(node.pipeline_node for node in ir.nodes if node.pipeline_node.node_info.id == node_id)
    run_id = ir.runtime_spec.pipeline_run_id.field_value.string_value
    attempts = outcome.read_attempts(connection, run_id, node_id)
    for attempt in attempts:
        if attempt.last_known_state in _ENDED:
            return _ENDED[attempt.last_known_state]
    _remove_artifacts(ir, node_id, attempts)
    deployment = runner_utils.extract_local_deployment_config(ir)
    executor_spec = runner_utils.extract_executor_spec(deployment, node_id)
    children: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if isinstance(executor_spec, executable_spec_pb2.BeamExecutableSpec):
        _set_beam_arguments(executor_spec, beam.arguments(beam_config, outcome.read_pictures(connection, run_id)))
        children = beam.children_without_gpus()
    try:
        with children:
            execution = launcher.Launcher(
                pipeline_node=node,
                mlmd_connection=metadata.Metadata(connection),
                pipeline_info=ir.pipeline_info,
                pipeline_runtime_spec=ir.runtime_spec,
                executor_spec=executor_spec,
                custom_driver_spec=runner_utils.extract_custom_driver_spec(deployment, node_id),
                custom_executor_operators=None
                if execute
                else dict.fromkeys(_Refusing.SUPPORTED_EXECUTOR_SPEC_TYPE, _Refusing),
            ).launch()
    except _DueError:
        return DUE
    except Exception as error:
        raise NodeError(f"{node_id} failed: {_in_a_line(error)}") from error
    # The launcher does not raise when a node's inputs are missing.
    execution_id = execution.execution_id if execution else None
    for found in mlmd.MetadataStore(connection).get_executions_by_id([execution_id] if execution_id else []):
        if found.last_known_state in _ENDED:
            return _ENDED[found.last_known_state]
    raise NodeError(f"{node_id} failed: its inputs could not be resolved")


def _set_beam_arguments(executor_spec: Any, arguments: Sequence[str]) -> None:
    del executor_spec.beam_pipeline_args[:]
    executor_spec.beam_pipeline_args.extend(arguments)


def _remove_artifacts(ir: pipeline_pb2.Pipeline, node_id: str, attempts: Sequence[metadata_store_pb2.Execution]) -> None:
    """Remove what attempts left that did not end well; TFX goes on with their execution."""
    root = os.path.join(ir.runtime_spec.pipeline_root.field_value.string_value, node_id)
    for attempt in attempts:
        for pattern in ("*", os.path.join(".system", "executor_execution")):
            for folder in fileio.glob(os.path.join(root, pattern, str(attempt.id))):
                fileio.rmtree(folder)


def _in_a_line(error: Exception) -> str:
    """An exception in one line, without what Beam adds to it."""
    message = str(error).split(" [while running")[0].split("\n\n")[0]
    return f"{type(error).__name__}: {' '.join(message.split())}"
