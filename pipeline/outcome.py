"""What came of a run: its data, accuracy, baseline, the gate's word and where the model lies."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2
from tfx.components.evaluator import constants as evaluator_constants

from components.baseline_resolver.strategy import GONE, PUSHED_DESTINATION
from components.cross_validator import executor as cross_validator
from components.cross_validator import suspects
from components.data_gate import executor as data_gate
from components.data_gate import findings
from components.image_example_gen import belonging, rejects
from components.image_example_gen.executor import PICTURES_PROPERTY
from components.model_evaluator import gate
from components.serving_check import executor as serving_check
from pipeline.ending import Ending, Verdict
from pipeline.journal import FINISHED, Connection, made_by

_STATES = {
    metadata_store_pb2.Execution.COMPLETE: "done",
    metadata_store_pb2.Execution.CACHED: "cached",
    metadata_store_pb2.Execution.RUNNING: "running",
}


@dataclasses.dataclass(frozen=True)
class DataOutcome:
    """What ingestion and the gate for data made of a source.

    Attributes:
      summary: pictures by split and label, rejects and copies.
      findings: what speaks against the data.
      findings_path: the file that has them, a line each.
      together: near-copies, and what became of splits for what belongs together.
    """

    summary: rejects.Summary
    findings: tuple[findings.Finding, ...]
    findings_path: str
    together: belonging.Summary = dataclasses.field(default_factory=belonging.Summary)

    @property
    def accepted(self) -> bool:
        """Whether nothing was found that is refused."""
        return not any(finding.severity == findings.REFUSED for finding in self.findings)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of a finished run.

    Attributes:
      data: what it was trained on.
      checks: the gate's table.
      blessed: whether the gate let the model pass.
      failures: why the exported model can't be served, a line each; empty if it can.
      pushed_to: folder of the pushed version; None if the model was refused, or rolled back before.
      suspects: how many labels may be wrong, and the CSV that names them; None without cross-validation.
    """

    data: DataOutcome
    checks: tuple[gate.Check, ...]
    blessed: bool
    failures: tuple[str, ...]
    pushed_to: str | None
    suspects: tuple[int, str] | None = None

    def ending(self, pipeline: str, run_id: str, unchanged: bool, look: str) -> Ending:
        """Return how the run ended, in words and numbers.

        Args:
          pipeline: its name.
          run_id: of the run.
          unchanged: whether nothing was due.
          look: where to look for more.
        """
        rows = {check.metric: check for check in self.checks}
        accuracy, examples, compared = rows[gate.ACCURACY], rows["test examples"], gate.comparison(self.checks)
        reasons = [*(check.line for check in self.checks if not check.passed), *self.failures]
        if not reasons and self.pushed_to is None:
            reasons = ["the model was rolled back before" if self.blessed else "the gate did not bless the model"]
        published = Verdict.UP_TO_DATE if unchanged else Verdict.PUBLISHED
        return Ending(
            pipeline=pipeline,
            run=run_id,
            verdict=published if self.pushed_to else Verdict.REFUSED,
            reason="" if self.pushed_to else "; ".join(reasons),
            version=int(self.pushed_to.rstrip("/").rpartition("/")[2]) if self.pushed_to else None,
            accuracy=accuracy.value,
            accuracy_interval=gate.interval(accuracy.value or 0.0, round(examples.value or 0), 0.95),
            test_pictures=round(examples.value or 0),
            baseline_accuracy=compared.baseline if compared else None,
            baseline_note=compared.note if compared else "",
            look=look,
        )


def read(connection: Connection, run_id: str) -> Outcome:
    """Read the result of a finished run from the metadata store and the artifacts.

    Args:
      connection: of the metadata store.
      run_id: of the run.
    """
    artifacts = read_outputs(connection, run_id)
    return Outcome(
        data=_data_outcome(artifacts),
        checks=tuple(gate.read(artifacts["Evaluator", "evaluation"].uri)),
        blessed=is_blessed(artifacts["Evaluator", "blessing"]),
        failures=tuple(_serving_failures(artifacts)),
        pushed_to=pushed_to(artifacts["Pusher", "pushed_model"]),
        suspects=_suspects(artifacts.get(("CrossValidator", "cross_validation"))),
    )


def read_data(connection: Connection, run_id: str) -> DataOutcome:
    """Read what a run, finished or not, made of its data; its gate for data must have let it pass.

    Args:
      connection: of the metadata store.
      run_id: of the run.
    """
    return _data_outcome(read_outputs(connection, run_id))


def _suspects(found: metadata_store_pb2.Artifact | None) -> tuple[int, str] | None:
    if found is None:
        return None
    count = found.custom_properties[cross_validator.SUSPECTS_PROPERTY].int_value
    return count, _for_a_person(os.path.join(found.uri, suspects.FILE))


def _for_a_person(path: str) -> str:
    """A path as it is found from anywhere."""
    return path if "://" in path else os.path.abspath(path)


def is_blessed(blessing: metadata_store_pb2.Artifact) -> bool:
    """Return whether the gate let a model pass.

    Args:
      blessing: the Evaluator's.
    """
    value = blessing.custom_properties[evaluator_constants.ARTIFACT_PROPERTY_BLESSED_KEY]
    return value.int_value == evaluator_constants.BLESSED_VALUE


def pushed_to(pushed: metadata_store_pb2.Artifact) -> str | None:
    """Return the folder of a published version; None if nothing was published.

    Args:
      pushed: the Pusher's output.
    """
    properties = pushed.custom_properties
    return properties[PUSHED_DESTINATION].string_value if PUSHED_DESTINATION in properties else None


def read_outputs(connection: Connection, run_id: str) -> dict[tuple[str, str], metadata_store_pb2.Artifact]:
    """Return what the nodes of a run made, or took from the cache, by the node's id and the output's name.

    Args:
      connection: of the metadata store.
      run_id: of the run.
    """
    store = mlmd.MetadataStore(connection)
    nodes = {
        execution.id: _node_id(store, execution.id)
        for execution in _executions(store, run_id)
        if execution.last_known_state in FINISHED
    }
    made = {
        event.artifact_id: (nodes[event.execution_id], event.path.steps[0].key)
        for event in store.get_events_by_execution_ids(list(nodes))
        if event.type == metadata_store_pb2.Event.OUTPUT
    }
    return {made[artifact.id]: artifact for artifact in store.get_artifacts_by_id(list(made))}


def read_nodes(connection: Connection, run_id: str) -> list[tuple[str, str, float]]:
    """Return how the nodes of a run fared, in the order in which they began: id, state and seconds of the last attempt.

    Args:
      connection: of the metadata store.
      run_id: of the run.
    """
    store = mlmd.MetadataStore(connection)
    found: dict[str, tuple[str, str, float]] = {}
    for one in sorted(_executions(store, run_id), key=lambda execution: execution.id):
        node_id = _node_id(store, one.id)
        seconds = (one.last_update_time_since_epoch - one.create_time_since_epoch) / 1000
        found[node_id] = node_id, _STATES.get(one.last_known_state, "failed"), seconds
    return list(found.values())


def read_only(database: Path) -> metadata_store_pb2.ConnectionConfig:
    """Return the connection of a metadata store that is only looked at, also while a run writes.

    Args:
      database: SQLite's file.
    """
    connection = metadata_store_pb2.ConnectionConfig()
    connection.sqlite.filename_uri = str(database)
    connection.sqlite.connection_mode = metadata_store_pb2.SqliteMetadataSourceConfig.READONLY
    return connection


def find_predictions(connection: Connection, run_id: str | None) -> str | None:
    """Return the folder with what was said of each test picture, as ML Metadata names it.

    Args:
      connection: of the metadata store.
      run_id: of the run; None takes the newest that judged a model.

    Returns:
      None if there is none.
    """
    runs = mlmd.MetadataStore(connection).get_contexts_by_type("pipeline_run")
    newest_first = sorted(runs, key=lambda run: (run.create_time_since_epoch, run.id), reverse=True)
    for name in (run.name for run in newest_first if run_id in {None, run.name}):
        made = read_outputs(connection, name).get(("Evaluator", "predictions"))
        if made is not None and made.state not in GONE:
            return made.uri
    return None


def read_pictures(connection: Connection, run_id: str) -> int:
    """Return the number of pictures that a run has ingested, 0 if it has not yet.

    Args:
      connection: of the metadata store.
      run_id: of the run.
    """
    outputs = made_by(mlmd.MetadataStore(connection), run_id)
    return max((artifact.custom_properties[PICTURES_PROPERTY].int_value for artifact in outputs), default=0)


def read_attempts(connection: Connection, run_id: str, node_id: str) -> list[metadata_store_pb2.Execution]:
    """Return the executions of a node in a run, however they ended.

    Args:
      connection: of the metadata store.
      run_id: of the run.
      node_id: of the node.
    """
    store = mlmd.MetadataStore(connection)
    of_node = [context.id for context in store.get_contexts_by_type("node") if context.name.endswith(f".{node_id}")]
    begun = {execution.id for context in of_node for execution in store.get_executions_by_context(context)}
    return [execution for execution in _executions(store, run_id) if execution.id in begun]


def _executions(store: mlmd.MetadataStore, run_id: str) -> Sequence[metadata_store_pb2.Execution]:
    """All executions of a run; none if nothing of it has begun."""
    context = store.get_context_by_type_and_name("pipeline_run", run_id)
    return store.get_executions_by_context(context.id) if context else []


def _serving_failures(outputs: dict[tuple[str, str], metadata_store_pb2.Artifact]) -> Iterator[str]:
    """Why a model can't be served: what our own check found, and the word of TFX's, if that was asked."""
    yield from serving_check.read_failures(outputs["ServingCheck", "blessing"].uri)
    container = outputs.get(("InfraValidator", "blessing"))
    if container is not None and not container.custom_properties[serving_check.BLESSED_PROPERTY].int_value:
        yield "TensorFlow Serving's container does not serve it; the log of InfraValidator says why"


def _node_id(store: mlmd.MetadataStore, execution_id: int) -> str:
    """The node that an execution is of; TFX names its context after the pipeline and the node."""
    contexts = {context.type: context.name for context in store.get_contexts_by_execution(execution_id)}
    return contexts["node"].removeprefix(f"{contexts['pipeline']}.")


def _data_outcome(outputs: dict[tuple[str, str], metadata_store_pb2.Artifact]) -> DataOutcome:
    verdict, report = outputs["DataGate", "verdict"].uri, outputs["ImageExampleGen", "rejects"].uri
    found = tuple(data_gate.read_findings(verdict))
    path = _for_a_person(verdict)
    return DataOutcome(
        rejects.read_summary(report), found, os.path.join(path, data_gate.FINDINGS_FILE), belonging.read_summary(report)
    )
