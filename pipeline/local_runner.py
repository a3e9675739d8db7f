"""Runs the pipeline on this machine, node by node, as TFX's LocalDagRunner does, and says how each node fares."""

from __future__ import annotations

import contextlib
import datetime
import functools
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.components.common import resolver
from tfx.orchestration import pipeline as tfx_pipeline

from components.publisher.component import Publisher
from configs import schema
from modules import weights
from pipeline import exit_codes, failures, history, journal, needs, node, notify, outcome, place, project, retention
from pipeline.ending import Ending, Verdict
from pipeline.pipeline import create_data_pipeline, create_pipeline
from pipeline.project import RunError

RUNNING, FAILED = "running", "failed"
_log = logging.getLogger("finetune.pipeline.local_runner")


class NodeStatus(NamedTuple):
    """How a node fares: its id, one of the states above or of `node`, and the seconds since it started."""

    node_id: str
    state: str
    seconds: float


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
    with project.opened(output_dir, config) as (folder, connection):
        root, serving_dir = place.pipeline_root(config, str(folder)), str(folder / "serving")
        pipeline = create_pipeline(
            config,
            pipeline_root=root,
            serving_dir=serving_dir,
            work_dir=place.WORK,
            metadata_connection_config=connection,
        )
        begun, run_id = datetime.datetime.now(datetime.UTC), new_run_id()
        with _guarded("what the run began with could not be written into ML Metadata"):
            journal.note_start(connection, run_id, history.start_of(config))
        done: set[str] = set()

        def note(status: NodeStatus) -> None:
            if status.state == node.DONE:
                done.add(status.node_id)
            on_status(status)

        def end(ended: Ending) -> None:
            with _guarded("how the run ended could not be written into ML Metadata"):
                journal.note_end(connection, ended, begun)
            notify.post(config.notify, ended)

        def tidy() -> None:
            if config.keep_runs is not None:
                with _guarded("what nothing needs any more could not be deleted"):
                    retention.clean(project.to_clean(connection, config.name, folder), config.keep_runs, alone=True)

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
            if isinstance(error, Exception):  # who interrupts it does not want to wait
                tidy()
            raise
        # Looking up and publishing what is published already are no changes, and never cached.
        always = {one.id for one in pipeline.components if isinstance(one, resolver.Resolver | Publisher)}
        end(found.ending(config.name, run_id, unchanged=done <= always, look=look))
        tidy()
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
    with project.opened(output_dir, config) as (folder, connection):
        root = place.pipeline_root(config, str(folder))
        pipeline = create_data_pipeline(config, pipeline_root=root, metadata_connection_config=connection)
        run_id = new_run_id()
        run(pipeline, connection, on_status, config.beam, run_id)
        return outcome.read_data(connection, run_id)


@contextlib.contextmanager
def _guarded(what: str) -> Iterator[None]:
    """Let nothing that goes wrong with what is not the run itself change how it ends."""
    try:
        yield
    except Exception as error:
        _log.warning("%s: %s", what, error if isinstance(error, needs.UnseenError) else type(error).__name__)


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
