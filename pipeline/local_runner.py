"""Runs the pipeline on this machine, node by node, as TFX's LocalDagRunner does, and says how each node fares."""

from __future__ import annotations

import contextlib
import datetime
import functools
import logging
import time
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import Any, NamedTuple

from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.components.common import resolver
from tfx.orchestration import pipeline as tfx_pipeline

from components.publisher.component import Publisher
from components.run_report.component import RunReport
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
    config: schema.Config, output_dir: Path, on_status: Callable[[NodeStatus], None], look: str = "", command: str = ""
) -> outcome.Outcome:
    """Run the pipeline of a configuration, with everything it makes below one folder.

    How it ends, also by an interrupt, is written into ML Metadata and told to `notify.url`. Unless it is interrupted,
    `report.html` in the folder shows it.

    Args:
      config: `data.source` must be set.
      output_dir: for `pipeline_root`, `metadata.db`, `serving` and `work`; made if it is missing. What an earlier run left
        here is used again where nothing has changed.
      on_status: called when a node starts and when it ends.
      look: where a person who is told finds more.
      command: that does it again.

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
        run_id = new_run_id()
        done: set[str] = set()
        end = _End(config, folder, connection, run_id, notify.look(config.notify, run_id, look or str(output_dir)), done)
        with _guarded("what the run began with could not be written into ML Metadata"):
            journal.note_start(connection, run_id, history.start_of(config, command))

        def note(status: NodeStatus) -> None:
            if status.state == node.DONE:
                done.add(status.node_id)
            on_status(status)
            if status.node_id in publishers and status.state in {node.DONE, node.CACHED}:
                end.of_whole(pipeline)

        publishers = _ids_of(pipeline, Publisher)
        try:
            fetch = functools.partial(_make_sure_of_weights, config.model.weights)
            here = weights.are_here(config.model.weights)
            if here:
                fetch()  # nothing, unless they are damaged
            run(pipeline, connection, note, config.beam, run_id, None if here else fetch)
        except BaseException as error:
            end.of_part(error)
            raise
        end.show()
        end.tidy()
        assert end.outcome is not None
        return end.outcome


class _End:
    """The end of a run: it is written down, told, and shown, and what nothing needs any more goes.

    Nothing that goes wrong with that changes how the run ended.

    Args:
      config: of the run.
      folder: of the project.
      connection: of its metadata store.
      run_id: of the run.
      look: where a person who is told finds more.
      done: nodes that had work to do.
    """

    def __init__(
        self,
        config: schema.Config,
        folder: Path,
        connection: metadata_store_pb2.ConnectionConfig,
        run_id: str,
        look: str,
        done: Set[str],
    ):
        self._config, self._folder, self._connection, self._run, self._look = config, folder, connection, run_id, look
        self._begun, self._done = datetime.datetime.now(datetime.UTC), done
        self.outcome: outcome.Outcome | None = None
        """Of a whole run, once it has ended."""

    def of_whole(self, pipeline: tfx_pipeline.Pipeline) -> None:
        """End a run whose last node but its report is done."""
        # Looking up and publishing what is published already are no changes, and never cached.
        always = _ids_of(pipeline, resolver.Resolver, Publisher)
        self.outcome = outcome.read(self._connection, self._run)
        self._tell(self.outcome.ending(self._config.name, self._run, unchanged=self._done <= always, look=self._look))

    def of_part(self, error: BaseException) -> None:
        """End a run that something ended."""
        refused, node_id = getattr(error, "refused", False), getattr(error, "node_id", None)
        verdict = Verdict.REFUSED if refused else Verdict.FAILED
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error) or type(error).__name__
        name = self._config.name
        self._tell(Ending(pipeline=name, run=self._run, verdict=verdict, reason=reason, node=node_id, look=self._look))
        if isinstance(error, Exception):  # who interrupts it does not want to wait
            self.show()
            self.tidy()

    def show(self) -> None:
        """Put the page of the run where it is looked for."""
        with _guarded("the report could not be written"):
            from pipeline import report  # which draws, and so takes a while to import

            serving_dir, pictures = str(self._folder / "serving"), self._config.report.pictures
            report.show(self._connection, self._config.name, self._run, serving_dir, pictures, self._folder / report.FILE)

    def tidy(self) -> None:
        """Delete what nothing needs any more."""
        if self._config.keep_runs is not None:
            with _guarded("what nothing needs any more could not be deleted"):
                of_project = project.to_clean(self._connection, self._config.name, self._folder)
                retention.clean(of_project, self._config.keep_runs, alone=True)

    def _tell(self, ended: Ending) -> None:
        first_to_say = True
        with _guarded("how the run ended could not be written into ML Metadata"):
            first_to_say = journal.note_end(self._connection, ended, self._begun)
        if first_to_say:
            notify.post(self._config.notify, ended)


def _ids_of(pipeline: tfx_pipeline.Pipeline, *kinds: type[Any]) -> set[str]:
    return {str(one.id) for one in pipeline.components if isinstance(one, kinds)}


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
      prepare: called before the first node that has work to do; publishing and reporting are none.

    Raises:
      RunError: a node failed; those before it are kept and will be found cached by the next run.
    """
    ir = node.compile_for_run(pipeline, run_id)
    no_work, reports = _ids_of(pipeline, Publisher, RunReport), _ids_of(pipeline, RunReport)
    for one in ir.nodes:
        node_id = one.pipeline_node.node_info.id
        started = time.monotonic()
        on_status(NodeStatus(node_id, RUNNING, 0.0))
        try:
            state = node.launch(ir, node_id, connection, beam_config, execute=prepare is None or node_id in no_work)
            if state == node.DUE and prepare is not None:
                prepare()
                prepare = None
                state = node.launch(ir, node_id, connection, beam_config)
        except node.NodeError as error:
            if node_id in reports:
                _log.warning("%s", error)  # the run itself has ended
                continue
            on_status(NodeStatus(node_id, FAILED, time.monotonic() - started))
            raise RunError(str(error), node_id, failures.exit_code(error) == exit_codes.REFUSED) from error
        on_status(NodeStatus(node_id, state, time.monotonic() - started))


def _make_sure_of_weights(asked_for: str | None) -> None:
    try:
        weights.make_sure(asked_for)
    except weights.WeightsError as error:
        raise RunError(str(error)) from error
