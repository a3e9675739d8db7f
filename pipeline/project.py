"""The output folder of a project on this machine: one run at a time works in it, and one pipeline owns it."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration import metadata

from configs import schema
from pipeline import flink, jobs, journal, needs, outcome, output_folder, place, retention
from pipeline.pipeline import served_name
from serving import versions


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


@contextlib.contextmanager
def opened(
    output_dir: Path, config: schema.Config, to_run: bool = True
) -> Iterator[tuple[Path, metadata_store_pb2.ConnectionConfig]]:
    """Keep other runs and other pipelines out of an output folder, and work in it; the lock ends with the process.

    Args:
      output_dir: made if it is missing.
      config: of the pipeline.
      to_run: whether what a killed run has under way is ended, and its temporary files go.

    Yields:
      Its absolute path, and the connection of its metadata store.

    Raises:
      RunError: a run is using it.
      output_folder.FolderError: it can't be used, or belongs to another pipeline.
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
        if to_run:
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


def owner(output_dir: Path) -> str:
    """Return the name of the pipeline whose runs a folder is of.

    Args:
      output_dir: of the runs.

    Raises:
      output_folder.FolderError: there were none, or ML Metadata can't be read.
    """
    database = output_dir / output_folder.METADATA_FILE
    names = _pipelines(database, outcome.read_only(database)) if database.is_file() else []
    if not names:
        raise output_folder.FolderError(f"{output_dir}: no runs here; expected the --output-dir of one")
    return names[0]


def clean(
    output_dir: Path,
    keep_runs: int | None,
    config: schema.Config | None = None,
    dry_run: bool = False,
    on_removed: Callable[[retention.Surplus, int], None] = lambda one, size: None,
) -> retention.Freed:
    """Delete what nothing needs of what the runs of a folder made.

    Args:
      output_dir: of the runs.
      keep_runs: as for `retention.plan`; None takes the configuration's.
      config: of the pipeline; None takes its name, and what its newest run was told to keep.
      dry_run: whether nothing is deleted, and only looked for.
      on_removed: called with what was deleted, or would be, and its bytes.

    Raises:
      RunError: a run is using the folder.
      output_folder.FolderError: it is none of runs, can't be used, or belongs to another pipeline.
      needs.UnseenError: as for `retention.plan`.
    """
    if config is None and (output_dir / place.PIPELINE_ROOT / jobs.FOLDER / "id").exists():
        raise output_folder.FolderError(
            f"{output_dir} has had jobs on Flink, which may still write there: give --config FILE"
        )
    if config is None:
        name = owner(output_dir)
        newest = journal.newest(journal.read_starts(outcome.read_only(output_dir / output_folder.METADATA_FILE), name))
        config = schema.Config.model_validate({"name": name} | ({"keep_runs": newest.keep_runs} if newest else {}))
    keep_runs = keep_runs or config.keep_runs
    if keep_runs is None:
        raise output_folder.FolderError(retention.NO_NUMBER)
    with opened(output_dir, config, to_run=not dry_run and config.beam.runner == "flink") as (folder, connection):
        found = to_clean(connection, config.name, folder)
        if not dry_run:
            return retention.clean(found, keep_runs, True, on_removed)
        return retention.look(found, keep_runs, True, on_removed)


def to_clean(connection: metadata_store_pb2.ConnectionConfig, pipeline: str, folder: Path) -> needs.Project:
    """Return what `retention` works on.

    Args:
      connection: as `opened` yields it.
      pipeline: its name.
      folder: as `opened` yields it.
    """
    return needs.Project(connection, pipeline, place.PIPELINE_ROOT, str(folder / "serving"))


def _other_owner(
    output_dir: Path, database: Path, connection: metadata_store_pb2.ConnectionConfig, config: schema.Config
) -> str | None:
    """Another pipeline that an output folder belongs to, by its metadata or, where that is gone, by what is served."""
    names = _pipelines(output_dir / database.name, connection, make_relative=True)
    if names:
        return names[0] if names[0] != config.name else None
    served = versions.Versions(str(database.parent / "serving")).name
    return served if served != served_name(config) else None


def _pipelines(database: Path, connection: metadata_store_pb2.ConnectionConfig, make_relative: bool = False) -> list[str]:
    """The names of the pipelines that a metadata store knows."""
    try:
        if make_relative:
            place.make_relative(connection)
        return [context.name for context in mlmd.MetadataStore(connection).get_contexts_by_type("pipeline")]
    except (mlmd.errors.StatusError, RuntimeError) as error:
        reason = str(error).removeprefix("Error when executing query: ").split(" query:")[0]
        raise output_folder.FolderError(
            f"{database} can't be read ({reason}): restore it, or move it away; then all is made again and compared with"
            " what is served"
        ) from None
