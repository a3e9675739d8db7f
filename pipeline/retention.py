"""What a project keeps of all that its runs have made, and what goes.

What the last runs, the model that is live and the data accepted last need stays, and what runs that are under way may need.
What goes is marked in ML Metadata before it is deleted, so that no cache ever has half of it; its rows stay, and tell what
there was. A folder that ML Metadata does not know is never touched: it may be somebody else's, or ML Metadata the wrong one.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import ml_metadata as mlmd
import tensorflow as tf
from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.io import fileio

from pipeline import needs
from pipeline.needs import Project

LIVE, MARKED, DELETED = (
    metadata_store_pb2.Artifact.LIVE,
    metadata_store_pb2.Artifact.MARKED_FOR_DELETION,
    metadata_store_pb2.Artifact.DELETED,
)
NO_NUMBER = "keep_runs = null deletes nothing; give --keep-runs N"
"""For who asks to clean, and has not said how many runs stay."""
_SETTLE_SECONDS = 10.0
"""Between marking and deleting, where runs may be under way: a node that found something in the cache says so by then."""
_WRITTEN_AT_ONCE = 50
_log = logging.getLogger("finetune.pipeline.retention")


class Surplus(NamedTuple):
    """What nothing needs."""

    path: str
    artifact: metadata_store_pb2.Artifact | None
    """None for what an execution left that did not end well."""
    is_there: bool
    """Whether anything is left to be deleted."""


class Freed(NamedTuple):
    """What was deleted, or would be."""

    folders: int
    bytes: int


def plan(project: Project, keep_runs: int, alone: bool) -> list[Surplus]:
    """Return what nothing needs, in the order of the paths.

    Args:
      project: the pipeline.
      keep_runs: how many of the last runs keep all that they made and used; as many checks of data do.
      alone: whether no run of the pipeline is under way, and none can begin.

    Raises:
      needs.UnseenError: the folder of the versions is not here, though there was something published.
    """
    root = _path(project.root)
    there = set(_folders(root))  # first, as it may take long: what is marked then follows from what is so at once
    store = mlmd.MetadataStore(project.connection)
    context = store.get_context_by_type_and_name("pipeline", project.name)
    if context is None:
        return []
    runs = needs.Runs(store, context.id, project, keep_runs, alone)
    artifacts = store.get_artifacts_by_context(context.id)
    needed = runs.needed(artifacts)
    needed_paths = {_path(one.uri) for one in artifacts if one.id in needed}
    spare = {
        path: one
        for one in artifacts
        if one.id not in needed and (path := _path(one.uri)) not in needed_paths and path.startswith(f"{root}/")
    }
    known = {_path(one.uri) for one in artifacts}
    left = {path for path in there - known if runs.is_leftover(path)}
    found = [Surplus(path, one, path in there) for path, one in spare.items() if path in there or one.state != DELETED]
    return sorted(found + [Surplus(path, None, is_there=True) for path in left], key=lambda one: one.path)


def clean(
    project: Project, keep_runs: int, alone: bool, on_removed: Callable[[Surplus, int], None] = lambda one, size: None
) -> Freed:
    """Delete what nothing needs. One that is killed is gone on with by the next; two at once do not disturb each other.

    Args:
      project: the pipeline.
      keep_runs: as for `plan`.
      alone: likewise.
      on_removed: called with what was deleted and its bytes.

    Raises:
      needs.UnseenError: as for `plan`.
    """
    store = mlmd.MetadataStore(project.connection)
    going = plan(project, keep_runs, alone)
    # What others have begun to delete is whole no more, whoever needs it now.
    whole = {one.artifact.id for one in going if one.artifact is not None and one.artifact.state == LIVE}
    _mark(store, going, MARKED)
    if going and not alone:
        time.sleep(_SETTLE_SECONDS)
        still = {one.path for one in plan(project, keep_runs, alone)}
        _restore(store, whole & {one.artifact.id for one in going if one.artifact is not None and one.path not in still})
        going = [one for one in going if one.path in still]
    freed = Freed(0, 0)
    for start in range(0, len(going), _WRITTEN_AT_ONCE):
        portion = going[start : start + _WRITTEN_AT_ONCE]
        for one in portion:
            size = size_of(one.path) if one.is_there else 0
            _delete(one.path)
            freed = Freed(freed.folders + 1, freed.bytes + size)
            on_removed(one, size)
        _mark(store, portion, DELETED)
    if freed.bytes:
        _log.info("deleted %s that nothing needs any more (keep_runs = %d)", in_words(freed), keep_runs)
    return freed


def look(project: Project, keep_runs: int, alone: bool, on_found: Callable[[Surplus, int], None]) -> Freed:
    """Find what `clean` would delete, and delete nothing.

    Args:
      project: the pipeline.
      keep_runs: as for `plan`.
      alone: likewise.
      on_found: called with what would be deleted and its bytes.

    Raises:
      needs.UnseenError: as for `plan`.
    """
    freed = Freed(0, 0)
    for one in plan(project, keep_runs, alone):
        size = size_of(one.path) if one.is_there else 0
        freed = Freed(freed.folders + 1, freed.bytes + size)
        on_found(one, size)
    return freed


def size_of(folder: str) -> int:
    """Return the bytes of all files below a folder; what goes meanwhile counts nothing.

    Args:
      folder: wherever TensorFlow reads.
    """
    total = 0
    for path, _, names in fileio.walk(folder):
        for name in names:
            try:
                total += tf.io.gfile.stat(os.path.join(path, name)).length
            except (OSError, tf.errors.OpError):
                continue
    return total


def in_words(freed: Freed) -> str:
    """Return how much was deleted, e.g. `12 folders, 3.1 GB`."""
    return f"{freed.folders} {'folder' if freed.folders == 1 else 'folders'}, {readable(freed.bytes)}"


def readable(size: float) -> str:
    """Return a number of bytes for a person, with a decimal unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _folders(root: str) -> Iterator[str]:
    """Folders of artifacts and of executions: NODE/OUTPUT/ID, and NODE/.system/KIND/ID."""
    for node in _names(root):
        for output in _names(os.path.join(root, node)):
            for name in _names(os.path.join(root, node, output)):
                path = os.path.join(root, node, output, name)
                if output == needs.SYSTEM:
                    yield from (os.path.join(path, inner) for inner in _names(path))
                else:
                    yield path


def _names(folder: str) -> Iterable[str]:
    return [name.rstrip("/") for name in fileio.listdir(folder)] if fileio.isdir(folder) else []


def _path(uri: str) -> str:
    """A path that is the same whichever way it was written down."""
    return uri.rstrip("/") if "://" in uri else os.path.abspath(uri)


def _mark(store: mlmd.MetadataStore, going: Sequence[Surplus], state: metadata_store_pb2.Artifact.State.ValueType) -> None:
    changed = [one.artifact for one in going if one.artifact is not None and one.artifact.state != state]
    for artifact in changed:
        artifact.state = state
    for start in range(0, len(changed), _WRITTEN_AT_ONCE):
        store.put_artifacts(changed[start : start + _WRITTEN_AT_ONCE])


def _restore(store: mlmd.MetadataStore, ids: set[int]) -> None:
    """Make live again what was marked and not deleted: a run has taken it from the cache meanwhile."""
    artifacts = store.get_artifacts_by_id(sorted(ids)) if ids else []
    found = [Surplus(one.uri, one, is_there=True) for one in artifacts if one.state == MARKED and fileio.exists(one.uri)]
    _mark(store, found, LIVE)


def _delete(folder: str) -> None:
    """Delete a folder, which somebody else may be at as well."""
    for last_try in (False, True):
        try:
            if fileio.exists(folder):
                fileio.rmtree(folder)
        except (OSError, tf.errors.OpError):
            if last_try:
                raise
        else:
            return
