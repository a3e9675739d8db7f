"""Runs one node of a compiled pipeline with TFX's launcher; the same for every orchestrator."""

from __future__ import annotations

import functools
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.compiler import compiler, constants
from tfx.dsl.io import fileio
from tfx.orchestration import metadata
from tfx.orchestration import pipeline as tfx_pipeline
from tfx.orchestration.local import runner_utils
from tfx.orchestration.portable import (
    base_executor_operator,
    beam_executor_operator,
    data_types,
    launcher,
    python_executor_operator,
    runtime_parameter_utils,
)
from tfx.proto.orchestration import executable_spec_pb2, execution_result_pb2, pipeline_pb2, placeholder_pb2

from components.data_gate import findings
from components.data_gate.executor import RefusedDataError
from components.image_example_gen import executor as example_gen
from components.image_example_gen import files, spans
from components.run_report import executor as run_report
from configs import schema
from pipeline import beam, failures, flink, jobs, journal, outcome, probe

DONE, CACHED, DUE = "done", "cached", "due"

_log = logging.getLogger("finetune.pipeline.node")

_MOST_FINDINGS = 100

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
        # Who does the work then takes what is there for its own.
        _set_others_aside(execution_info)
        raise _DueError


class _OnBeam(beam_executor_operator.BeamExecutorOperator):
    """Executes what is Beam's work, with arguments that are made once there is work to do.

    Args:
      executor_spec: as TFX hands it on.
      platform_config: likewise.
      arguments: makes them from what TFX knows of the execution.
    """

    def __init__(
        self,
        executor_spec: Any,
        platform_config: Any = None,
        *,
        arguments: Callable[[data_types.ExecutionInfo], Sequence[str]],
    ):
        super().__init__(executor_spec, platform_config)
        self._arguments = arguments

    def run_executor(
        self, execution_info: data_types.ExecutionInfo, make_beam_pipeline_fn: Any = None
    ) -> execution_result_pb2.ExecutorOutput:
        _set_others_aside(execution_info)
        arguments = self._arguments(execution_info)
        self.beam_pipeline_args = [placeholder_pb2.PlaceholderExpression(value={"string_value": one}) for one in arguments]
        with beam.children_without_gpus():
            return super().run_executor(execution_info, make_beam_pipeline_fn)


class _InPython(python_executor_operator.PythonExecutorOperator):
    """Executes what is Python's work, in folders of its own."""

    def run_executor(self, execution_info: data_types.ExecutionInfo) -> execution_result_pb2.ExecutorOutput:
        _set_others_aside(execution_info)
        return super().run_executor(execution_info)


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
    run_id = _run_id(ir)
    attempts = outcome.read_attempts(connection, run_id, node_id)
    for attempt in attempts:
        if attempt.last_known_state in _ENDED:
            return _ENDED[attempt.last_known_state]
    deployment = runner_utils.extract_local_deployment_config(ir)
    executor_spec = runner_utils.extract_executor_spec(deployment, node_id)
    try:
        if attempts and beam_config.runner == "flink":
            jobs.end(beam_config, _job_name(ir, node_id))
    except flink.UnreachableError as error:
        raise NodeError(f"{node_id} failed: {error}") from error
    _remove_artifacts(ir, node_id, attempts)
    operators: dict[type, Any]
    if execute:
        arguments = functools.partial(_beam_arguments, ir, node_id, connection, beam_config)
        operators = {
            executable_spec_pb2.BeamExecutableSpec: functools.partial(_OnBeam, arguments=arguments),
            executable_spec_pb2.PythonClassExecutableSpec: _InPython,
        }
    else:
        operators = dict.fromkeys(_Refusing.SUPPORTED_EXECUTOR_SPEC_TYPE, _Refusing)
    try:
        with run_report.made_by(functools.partial(_page, connection, ir.pipeline_info.id)):
            execution = launcher.Launcher(
                pipeline_node=node,
                mlmd_connection=metadata.Metadata(connection),
                pipeline_info=ir.pipeline_info,
                pipeline_runtime_spec=ir.runtime_spec,
                executor_spec=executor_spec,
                custom_driver_spec=runner_utils.extract_custom_driver_spec(deployment, node_id),
                custom_executor_operators=operators,
            ).launch()
    except _DueError:
        return DUE
    except Exception as error:
        if (refusal := failures.refusal(error)) is not None:
            _note_findings(connection, run_id, refusal)
        raise NodeError(f"{node_id} failed: {_in_a_line(error)}") from error
    # The launcher does not raise when a node's inputs are missing.
    if execution and beam.is_remote(beam_config):
        remove_temporaries(one.uri for artifacts in execution.output_dict.values() for one in artifacts)
    execution_id = execution.execution_id if execution else None
    for found in mlmd.MetadataStore(connection).get_executions_by_id([execution_id] if execution_id else []):
        if found.last_known_state in _ENDED:
            return _ENDED[found.last_known_state]
    raise NodeError(f"{node_id} failed: its inputs could not be resolved")


def _note_findings(connection: outcome.Connection, run_id: str, refusal: RefusedDataError) -> None:
    """Write down what the gate for data found; whether that works changes nothing for its word."""
    together = findings.summed(refusal.found)[:_MOST_FINDINGS]
    try:
        journal.note_findings(connection, run_id, [(one.severity, one.message) for one in together])
    except Exception as error:
        _log.warning("the findings could not be written into ML Metadata: %s", type(error).__name__)


def _page(connection: outcome.Connection, pipeline: str, run_id: str, serving_dir: str, pictures: bool) -> str:
    """The page of a run, for the node that writes it."""
    # They draw, and so take a while to import.
    from components.run_report import page
    from pipeline import report

    return page.render(report.facts(connection, pipeline, run_id, serving_dir, pictures))


def _beam_arguments(
    ir: pipeline_pb2.Pipeline,
    node_id: str,
    connection: outcome.Connection,
    config: schema.Beam,
    execution_info: data_types.ExecutionInfo,
) -> list[str]:
    """Beam's arguments for a node, once what it works on is found to be there."""
    beam.check(config)
    name = _job_name(ir, node_id) if config.runner == "flink" else ""
    arguments = beam.arguments(config, outcome.read_pictures(connection, _run_id(ir)), name)
    if beam.is_remote(config):
        for_look = [*arguments, *flink.at_once(f"{name}-probe")] if name else arguments
        paths = _pictures(execution_info.exec_properties.get(example_gen.LOCATIONS_KEY, "[]"))
        probe.check(os.path.join(_root(ir), jobs.FOLDER), _run_id(ir), for_look, paths)
    return arguments


def _pictures(locations: str) -> list[str]:
    """Files or folders of a source, one of each location, where they are no object store's."""
    found = []
    for uri in (spans.Location(*location).uri for location in json.loads(locations)):
        if files.is_local(files.plain(uri)):
            path = files.plain(uri)
            inside = sorted(os.listdir(path))[:1] if os.path.isdir(path) else []
            found.append(os.path.join(path, *inside) if os.path.exists(path) else os.path.dirname(path))
    return found


def _job_name(ir: pipeline_pb2.Pipeline, node_id: str) -> str:
    return jobs.name(ir.pipeline_info.id, _root(ir), _run_id(ir), node_id)


def _run_id(ir: pipeline_pb2.Pipeline) -> str:
    return str(ir.runtime_spec.pipeline_run_id.field_value.string_value)


def _root(ir: pipeline_pb2.Pipeline) -> str:
    return str(ir.runtime_spec.pipeline_root.field_value.string_value)


def _remove_artifacts(ir: pipeline_pb2.Pipeline, node_id: str, attempts: Sequence[metadata_store_pb2.Execution]) -> None:
    """Remove what attempts left that did not end well; TFX goes on with their execution."""
    root = os.path.join(_root(ir), node_id)
    for attempt in attempts:
        for pattern in ("*", os.path.join(".system", "executor_execution")):
            for folder in fileio.glob(os.path.join(root, pattern, str(attempt.id))):
                fileio.rmtree(folder)


def remove_temporaries(folders: Iterable[str]) -> None:
    """Remove what Beam's sinks had not finished on workers that were lost; the node itself ended well.

    Args:
      folders: URIs of its artifacts.
    """
    for folder in folders:
        for pattern in ("", "*", os.path.join("*", "*")):
            for left in fileio.glob(os.path.join(folder, pattern, "beam-temp-*")):
                fileio.rmtree(left)


def _set_others_aside(execution_info: data_types.ExecutionInfo) -> None:
    """Move away what is in the folders of an execution that has not begun.

    ML Metadata gives numbers anew where it was lost, or is an older one that somebody brought back.
    """
    for artifact in (one for artifacts in execution_info.output_dict.values() for one in artifacts):
        if fileio.isdir(artifact.uri) and fileio.listdir(artifact.uri):
            aside = f"{artifact.uri}.orphaned-{time.strftime('%Y-%m-%dT%H-%M-%S')}"
            fileio.rename(artifact.uri, aside)
            fileio.makedirs(artifact.uri)
            _log.warning("%s was not empty, and ML Metadata knows nothing of it: set aside as %s", artifact.uri, aside)


def _in_a_line(error: Exception) -> str:
    """An exception in one line, without what Beam adds to it."""
    message = str(error).split(" [while running")[0].split("\n\n")[0]
    return f"{type(error).__name__}: {' '.join(message.split())}"
