"""What a run says of itself in ML Metadata, for who looks from outside: how its nodes, their attempts and it ended.

One context a node and one a run, each written by one process; artifacts and logs are not needed to read them.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import ml_metadata as mlmd
import pydantic
from ml_metadata.proto import metadata_store_pb2

from pipeline.ending import Ending

Connection: TypeAlias = metadata_store_pb2.ConnectionConfig | metadata_store_pb2.MetadataStoreClientConfig
"""Of a metadata store: a database, or a server that has one."""

_NODE_TYPE, _START_TYPE, _RUN_TYPE = "finetune_node", "finetune_start", "finetune_run"
_FINDINGS_TYPE = "finetune_findings"
_PROPERTY = "record"
FINISHED = (metadata_store_pb2.Execution.COMPLETE, metadata_store_pb2.Execution.CACHED)
"""States of executions that ended well."""
_PICTURES, _FINGERPRINT = "pictures", "input_fingerprint"
"""Properties of what was ingested, and of nothing else together."""
_log = logging.getLogger("finetune.pipeline.journal")
_Record = TypeVar("_Record", bound=pydantic.BaseModel)


class Attempt(pydantic.BaseModel):
    """An attempt of a node that did not end well."""

    ended: datetime.datetime
    seconds: float
    code: int
    """As finetune-node's: 1 may pass, 2 will not, 3 refused."""
    reason: str


class NodeRecord(pydantic.BaseModel):
    """How a node of a run ended."""

    state: str
    """As `node.launch` says it, or `failed`."""
    seconds: float | None = None
    """Of the attempt that ended well."""
    failures: list[Attempt] = []


class RunStart(pydantic.BaseModel):
    """What a run began with."""

    pipeline: str
    """Its name."""
    begun: datetime.datetime
    configuration: dict[str, Any]
    """What makes a difference to the model, by section and key."""
    code: str
    """SHA-256 of this project's code."""
    revision: str | None = None
    """Of this project's code, if it is known."""
    versions: dict[str, str] = {}
    """Of libraries."""
    command: str = ""
    """That does it again; empty if it is not known."""
    keep_runs: int | None = None
    """Of the configuration, for who cleans without one."""
    report_pictures: bool = False
    """Of the configuration, for who makes the page anew without one."""


class Findings(pydantic.BaseModel):
    """What speaks against data that were refused: the severity and a sentence each."""

    found: list[tuple[str, str]]


class RunRecord(pydantic.BaseModel):
    """How a run ended, and on which data."""

    ended: datetime.datetime
    ending: Ending
    pictures: int | None = None
    """That were ingested; None if the run did not come that far."""
    data: str | None = None
    """SHA-256 of the source's listing: names, sizes and times."""


def note_node(
    connection: Connection,
    run_id: str,
    node_id: str,
    state: str,
    failures: Sequence[Attempt] = (),
    seconds: float | None = None,
) -> None:
    """Write down how a node ended, after the failures of earlier pods.

    Args:
      connection: of the metadata store.
      run_id: of the run.
      node_id: of the node.
      state: `done`, `cached` or `failed`.
      failures: its attempts that did not end well.
      seconds: of the one that did; a look by a later pod, which finds it done, takes the place of none.
    """
    store, name = mlmd.MetadataStore(connection), _node_name(run_id, node_id)
    before = _read(store, _NODE_TYPE, name, NodeRecord)
    if before and before.state == state and before.seconds is not None:
        seconds = before.seconds
    failed = [*(before.failures if before else []), *failures]
    _write(store, _NODE_TYPE, name, NodeRecord(state=state, seconds=seconds, failures=failed))


def note_start(connection: Connection, run_id: str, start: RunStart) -> None:
    """Write down what a run begins with, unless that is done: it may be gone on with later.

    Args:
      connection: of the metadata store.
      run_id: of the run.
      start: what is written.
    """
    store = mlmd.MetadataStore(connection)
    if _read(store, _START_TYPE, run_id, RunStart) is None:
        _write(store, _START_TYPE, run_id, start)


def note_findings(connection: Connection, run_id: str, found: Sequence[tuple[str, str]]) -> None:
    """Write down what speaks against data that were refused: the node that refuses them leaves no artifact.

    Args:
      connection: of the metadata store.
      run_id: of the run.
      found: severity and sentence of each.
    """
    _write(mlmd.MetadataStore(connection), _FINDINGS_TYPE, run_id, Findings(found=list(found)))


def read_findings(connection: Connection, run_id: str) -> list[tuple[str, str]]:
    """Return what `note_findings` wrote down; empty if the data were not refused.

    Args:
      connection: of the metadata store.
      run_id: of the run.
    """
    found = _read(mlmd.MetadataStore(connection), _FINDINGS_TYPE, run_id, Findings)
    return found.found if found else []


def note_end(connection: Connection, ending: Ending, begun: datetime.datetime) -> bool:
    """Write down how a run ended, unless another node did so while this one ran.

    Args:
      connection: of the metadata store.
      ending: of the run.
      begun: when the node that says so began; an older end is one that the run was tried again after.

    Returns:
      Whether it was written.
    """
    store = mlmd.MetadataStore(connection)
    for last_try in (False, True):
        before = _read(store, _RUN_TYPE, ending.run, RunRecord)
        if before and not ending.succeeded and (before.ended > begun or before.ending.succeeded):
            return False
        try:
            _write(store, _RUN_TYPE, ending.run, _record(store, ending))
        except mlmd.errors.AlreadyExistsError:
            # Another node was at it between the two.
            if last_try:
                raise
        else:
            break
    return True


def read_node(connection: Connection, run_id: str, node_id: str) -> NodeRecord | None:
    """Return how a node ended; None if nothing is written of it.

    Args:
      connection: of the metadata store.
      run_id: of the run.
      node_id: of the node.
    """
    return _read(mlmd.MetadataStore(connection), _NODE_TYPE, _node_name(run_id, node_id), NodeRecord)


def read_end(connection: Connection, run_id: str) -> RunRecord | None:
    """Return how a run ended; None if nothing is written of it.

    Args:
      connection: of the metadata store.
      run_id: of the run.
    """
    return _read(mlmd.MetadataStore(connection), _RUN_TYPE, run_id, RunRecord)


def read_starts(connection: Connection, pipeline: str) -> dict[str, RunStart]:
    """Return what the runs of a pipeline began with, by their ids.

    Args:
      connection: of the metadata store.
      pipeline: its name.
    """
    found = _read_all(mlmd.MetadataStore(connection), _START_TYPE, RunStart)
    return {run_id: start for run_id, start in found.items() if start.pipeline == pipeline}


def newest(starts: Mapping[str, RunStart]) -> RunStart | None:
    """Return what the newest of some runs began with; None if there are none.

    Args:
      starts: as `read_starts` returns them.
    """
    return max(starts.values(), key=lambda start: start.begun, default=None)


def read_ends(connection: Connection, pipeline: str) -> dict[str, RunRecord]:
    """Return how the runs of a pipeline ended, those that did, by their ids.

    Args:
      connection: of the metadata store.
      pipeline: its name.
    """
    found = _read_all(mlmd.MetadataStore(connection), _RUN_TYPE, RunRecord)
    return {run_id: record for run_id, record in found.items() if record.ending.pipeline == pipeline}


def made_by(store: mlmd.MetadataStore, run_id: str) -> Sequence[metadata_store_pb2.Artifact]:
    """Return what the nodes of a run made, or took from the cache.

    Args:
      store: the metadata store.
      run_id: of the run.
    """
    context = store.get_context_by_type_and_name("pipeline_run", run_id)
    executions = store.get_executions_by_context(context.id) if context else []
    ended = [one.id for one in executions if one.last_known_state in FINISHED]
    events = store.get_events_by_execution_ids(ended) if ended else []
    made = {event.artifact_id for event in events if event.type == metadata_store_pb2.Event.OUTPUT}
    return store.get_artifacts_by_id(list(made)) if made else []


def _record(store: mlmd.MetadataStore, ending: Ending) -> RunRecord:
    """What is written of the end of a run."""
    ended = datetime.datetime.now(datetime.UTC)
    for artifact in made_by(store, ending.run):
        properties = artifact.custom_properties
        if _PICTURES in properties and _FINGERPRINT in properties:
            return RunRecord(
                ended=ended,
                ending=ending,
                pictures=properties[_PICTURES].int_value,
                data=properties[_FINGERPRINT].string_value,
            )
    return RunRecord(ended=ended, ending=ending)


def _node_name(run_id: str, node_id: str) -> str:
    return f"{run_id}.{node_id}"


def _read(store: mlmd.MetadataStore, type_name: str, name: str, record: type[_Record]) -> _Record | None:
    context = store.get_context_by_type_and_name(type_name, name)
    return record.model_validate_json(context.custom_properties[_PROPERTY].string_value) if context else None


def _read_all(store: mlmd.MetadataStore, type_name: str, record: type[_Record]) -> dict[str, _Record]:
    """All records of a type, by name."""
    try:
        contexts = store.get_contexts_by_type(type_name)
    except mlmd.errors.NotFoundError:
        return {}
    found = {}
    for one in contexts:
        try:
            found[one.name] = record.model_validate_json(one.custom_properties[_PROPERTY].string_value)
        except pydantic.ValidationError:  # a later version of this project wrote it
            _log.warning("%s %s can't be read by this version", type_name, one.name)
    return found


def _write(store: mlmd.MetadataStore, type_name: str, name: str, record: pydantic.BaseModel) -> None:
    context: Any = store.get_context_by_type_and_name(type_name, name)
    if context is None:
        type_id = _type_id(store, type_name)
        context = metadata_store_pb2.Context(type_id=type_id, name=name)
    context.custom_properties[_PROPERTY].string_value = record.model_dump_json()
    store.put_contexts([context])


def _type_id(store: mlmd.MetadataStore, name: str) -> int:
    """The type of a context, made if it is missing; nodes that begin at once may both find it so."""
    wanted = metadata_store_pb2.ContextType(name=name)
    try:
        return store.put_context_type(wanted)
    except (mlmd.errors.AlreadyExistsError, mlmd.errors.AbortedError, mlmd.errors.InternalError):
        return store.put_context_type(wanted)
