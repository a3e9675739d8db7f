"""Where a project is, and what is still there.

Artifacts are named by paths relative to the project's folder, so that it can be moved, copied or mounted elsewhere.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Sequence

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2

from configs import schema
from pipeline.journal import Connection

PIPELINE_ROOT, WORK = "pipeline_root", "work"

_EMPTY_BY_NATURE = {"PushedModel", "ModelRun"}
"""Types of artifacts that may hold nothing but properties; a training that is found finished logs nothing."""
_SHOWN = 3
_log = logging.getLogger("finetune.pipeline.place")


def pipeline_root(config: schema.Config, base: str, folder: str = "") -> str:
    """Return the folder for artifacts, as it is written down in ML Metadata.

    Args:
      config: of the pipeline.
      base: absolute, where the processes of a run work (`inside`).
      folder: of the project, relative to it.

    Returns:
      A relative path; an absolute one where Beam's workers are on other machines, which do not work there.
    """
    relative = os.path.join(folder, PIPELINE_ROOT)
    return relative if config.beam.runner == "auto" else os.path.join(base, relative)


@contextlib.contextmanager
def inside(base: str) -> Iterator[None]:
    """Work in a folder: what is relative in ML Metadata starts there, in this process and its children.

    Args:
      base: absolute.
    """
    before = os.getcwd()
    os.chdir(base)
    try:
        yield
    finally:
        os.chdir(before)


def make_relative(connection: Connection) -> None:
    """Make the paths of artifacts relative that earlier versions of this project wrote down whole, wherever they lay then.

    Args:
      connection: of a metadata store that is one project's alone.
    """
    store = mlmd.MetadataStore(connection)
    marker = f"/{PIPELINE_ROOT}/"
    moved = []
    for artifact in store.get_artifacts():
        _, found, rest = artifact.uri.rpartition(marker)
        if found and artifact.uri.startswith("/"):
            artifact.uri = f"{PIPELINE_ROOT}/{rest}"
            moved.append(artifact)
    if moved:
        store.put_artifacts(moved)


def set_orphans_aside(folder: str, has_metadata: bool) -> None:
    """Move artifacts away of which no metadata is left: new ones would be written among them.

    Args:
      folder: of the project.
      has_metadata: whether its metadata store is there.
    """
    root = os.path.join(folder, PIPELINE_ROOT)
    if has_metadata or not os.path.isdir(root) or not os.listdir(root):
        return
    aside = f"{root}.orphaned-{time.strftime('%Y-%m-%dT%H-%M-%S')}"
    os.rename(root, aside)
    _log.warning("ML Metadata is gone, so that nobody knows the artifacts: they are set aside as %s", aside)


def note_deleted(connection: Connection, pipeline_name: str) -> list[str]:
    """Write down which artifacts somebody deleted, so that they are made again or left out, and never read.

    Args:
      connection: of the metadata store.
      pipeline_name: of the pipeline whose artifacts are looked at; those on object stores are not.

    Returns:
      Their paths.
    """
    store = mlmd.MetadataStore(connection)
    context = store.get_context_by_type_and_name("pipeline", pipeline_name)
    artifacts = store.get_artifacts_by_context(context.id) if context else []
    gone = [one for one in artifacts if one.state == metadata_store_pb2.Artifact.LIVE and _is_gone(one)]
    for artifact in gone:
        artifact.state = metadata_store_pb2.Artifact.DELETED
    if gone:
        store.put_artifacts(gone)
        paths = [artifact.uri for artifact in gone]
        _log.warning("deleted by hand, and made again where it is needed: %s", _some(paths))
    return [artifact.uri for artifact in gone]


def _is_gone(artifact: metadata_store_pb2.Artifact) -> bool:
    if "://" in artifact.uri or artifact.type in _EMPTY_BY_NATURE:
        return False
    try:
        return not os.listdir(artifact.uri)
    except NotADirectoryError:
        return False
    except FileNotFoundError:
        return True


def _some(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return f"{', '.join(paths[:_SHOWN])}{more}"
