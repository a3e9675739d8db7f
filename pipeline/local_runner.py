"""Runs the pipeline on this machine, node by node, as TFX's LocalDagRunner does, and says how each node fares."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import functools
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.components.common import resolver
from tfx.orchestration import metadata
from tfx.orchestration import pipeline as tfx_pipeline

from components.publisher.component import Publisher
from configs import schema
from modules import weights
from pipeline import exit_codes, failures, flink, jobs, journal, node, notify, outcome, output_folder, place
from pipeline.ending import Ending, Verdict
from pipeline.pipeline import create_data_pipeline, create_pipeline, served_name
from serving import versions

RUNNING, FAILED = "running", "failed"
_log = logging.getLogger("finetune.pipeline.local_runner")


class NodeStatus(NamedTuple):
    """How a node fares: its id, one of the states above or of `node`, and the seconds since it started."""

    node_id: str
    state: str
    seconds: float


class RunError(RuntimeError):
    """A run that could not be finished; the message says which node failed and why.

    Args:
      message: in a line.
      node_id: of the node; None if none had begun.
      refused: whether a gate said so.
    """

    def __init__(self, message: str, node_id: str | None = None, refused: bool = False):
        super().__init__(message)
        self.node_id, self.refused = node_id, refused


def run_locally(
    config: schema.Config, output_dir: Path, on_status: Callable[[NodeStatus], None], look: str = ""
) -> outcome.Outcome:
    """Run the pipeline of a configuration, with everything it makes below one folder.

    How it ends, also by an interrupt, is written into ML Metadata and told to `notify.url`.

    Args:
      config: `data.source` must be set.
      output_dir: for `pipeline_root`, `metadata.db`, `serving` and `work`; made if it is missing. What an earlier run left
        here is used again where nothing has changed.
      on_status: called when a node starts and when it ends.
      look: where a person who is told finds more.

    Returns:
      What came of it.

    Raises:
      RunError: a node failed, or another run is using the folder.
      output_folder.FolderError: the folder can't be used, or belongs to another pipeline.
    """
    with _project(output_dir, config) as (folder, connection):
        root, serving_dir = place.pipeline_root(config, str(folder)), str(folder / "serving")
        pipeline = create_pipeline(
            config,
            pipeline_root=root,
            serving_dir=serving_dir,
            work_dir=place.WORK,
            metadata_connection_config=connection,
        )
        begun, run_id = datetime.datetime.now(datetime.UTC), new_run_id()
        done: set[str] = set()

        def note(status: NodeStatus) -> None:
            if status.state == node.DONE:
                done.add(status.node_id)
            on_status(status)

        def end(ended: Ending) -> None:
            try:
                journal.note_end(connection, ended, begun)
            except Exception as error:  # nothing that goes wrong here may change how the run ended
                _log.warning("how the run ended could not be written into ML Metadata: %s", type(error).__name__)
            notify.post(config.notify, ended)

        look = notify.look(config.notify, run_id, look or str(output_dir))
        try:
            fetch = functools.partial(_make_sure_of_weights, config.model.weights)
            here = weights.are_here(config.model.weights)
            if here:
                fetch()  # nothing, unless they are damaged
            run(pipeline, connection, note, config.beam, run_id, None if here else fetch)
            found = outcome.read(connection, run_id)
        except BaseException as error:
            refused, node_id = getattr(error, "refused", False), getattr(error, "node_id", None)
            verdict = Verdict.REFUSED if refused else Verdict.FAILED
            reason = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error) or type(error).__name__
            end(Ending(pipeline=config.name, run=run_id, verdict=verdict, reason=reason, node=node_id, look=look))
            raise
        # Looking up and publishing what is published already are no changes, and never cached.
        always = {one.id for one in pipeline.components if isinstance(one, resolver.Resolver | Publisher)}
        end(found.ending(config.name, run_id, unchanged=done <= always, look=look))
        return found


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
      output_folder.FolderError: the folder can't be used, or belongs to another pipeline.
    """
    with _project(output_dir, config) as (folder, connection):
        root = place.pipeline_root(config, str(folder))
        pipeline = create_data_pipeline(config, pipeline_root=root, metadata_connection_config=connection)
        run_id = new_run_id()
        run(pipeline, connection, on_status, config.beam, run_id)
        return outcome.read_data(connection, run_id)


def new_run_id() -> str:
    """Return an id for a run: the time, in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat()


def run(
    pipeline: tfx_pipeline.Pipeline,
    connection: metadata_store_pb2.ConnectionConfig,
    on_status: Callable[[NodeStatus], None],
    beam_config: schema.Beam,
    run_id: str,
    prepare: Callable[[], None] | None = None,
) -> None:
    """Run every node of a pipeline in order, in this process.

    Args:
      pipeline: as `create_pipeline` returns it.
      connection: of the metadata store.
      on_status: called when a node starts and when it ends.
      beam_config: how Beam nodes run.
      run_id: tells this run from all others of the metadata store.
      prepare: called before the first node that has work to do; publishing is none.

    Raises:
      RunError: a node failed; those before it are kept and will be found cached by the next run.
    """
    ir = node.compile_for_run(pipeline, run_id)
    publishers = {one.id for one in pipeline.components if isinstance(one, Publisher)}
    for one in ir.nodes:
        node_id = one.pipeline_node.node_info.id
        started = time.monotonic()
        on_status(NodeStatus(node_id, RUNNING, 0.0))
        try:
            state = node.launch(ir, node_id, connection, beam_config, execute=prepare is None or node_id in publishers)
            if state == node.DUE and prepare is not None:
                prepare()
                prepare = None
                state = node.launch(ir, node_id, connection, beam_config)
        except node.NodeError as error:
            on_status(NodeStatus(node_id, FAILED, time.monotonic() - started))
            raise RunError(str(error), node_id, failures.exit_code(error) == exit_codes.REFUSED) from error
        on_status(NodeStatus(node_id, state, time.monotonic() - started))


def _make_sure_of_weights(asked_for: str | None) -> None:
    try:
        weights.make_sure(asked_for)
    except weights.WeightsError as error:
        raise RunError(str(error)) from error


@contextlib.contextmanager
def _project(output_dir: Path, config: schema.Config) -> Iterator[tuple[Path, metadata_store_pb2.ConnectionConfig]]:
    """Keep other runs and other pipelines out of an output folder, and work in it; the lock ends with the process.

    Yields its absolute path and the connection of its metadata store.
    """
    folder = output_dir.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    output_folder.check(folder)
    with (folder / ".lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{output_dir}: another run is using this folder") from None
        # Nobody else is here, so these belong to a run that was killed.
        try:
            jobs.end_all(config.beam, config.name, place.pipeline_root(config, str(folder)))
        except flink.UnreachableError as error:
            raise RunError(str(error)) from None
        for leftover in folder.glob(f"{place.PIPELINE_ROOT}/*/.system/executor_execution/*/.temp"):
            shutil.rmtree(leftover, ignore_errors=True)
        database = folder / output_folder.METADATA_FILE
        place.set_orphans_aside(str(folder), has_metadata=database.exists())
        connection = metadata.sqlite_metadata_connection_config(str(database))
        owner = _other_owner(output_dir, database, connection, config)
        if owner is not None:
            raise output_folder.FolderError(
                f"{output_dir} belongs to the pipeline {owner}, and the configuration's name is {config.name}: name another"
                " --output-dir, or give it that name"
            )
        with place.inside(str(folder)):
            place.note_deleted(connection, config.name)
            yield folder, connection


def _other_owner(
    output_dir: Path, database: Path, connection: metadata_store_pb2.ConnectionConfig, config: schema.Config
) -> str | None:
    """Another pipeline that an output folder belongs to, by its metadata or, where that is gone, by what is served."""
    try:
        place.make_relative(connection)
        names = [context.name for context in mlmd.MetadataStore(connection).get_contexts_by_type("pipeline")]
    except (mlmd.errors.StatusError, RuntimeError) as error:
        reason = str(error).removeprefix("Error when executing query: ").split(" query:")[0]
        raise output_folder.FolderError(
            f"{output_dir / database.name} can't be read ({reason}): restore it, or move it away; then all is made again and"
            " compared with what is served"
        ) from None
    if names:
        return names[0] if names[0] != config.name else None
    served = versions.Versions(str(database.parent / "serving")).name
    return served if served != served_name(config) else None
