"""Which of the artifacts of a pipeline something needs, and which of its executions are over."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import NamedTuple

import ml_metadata as mlmd
import tensorflow as tf
from ml_metadata.proto import metadata_store_pb2

from components.baseline_resolver.adoption import DIGEST_PROPERTY
from components.baseline_resolver.strategy import was_published_from
from components.data_gate import executor as data_gate
from pipeline import journal
from serving import model_info, versions

SYSTEM, _OF_EXECUTIONS = ".system", "executor_execution"
"""TFX's folders for what a node needs while it goes on: this kind has a folder for each execution, by its id."""
_UNDER_WAY_SECONDS = 30 * 86_400.0
"""After which nobody is at a run that has no end, nor at an execution, where others may be: no pod is given more time."""


class UnseenError(RuntimeError):
    """What is live can't be seen, so that nobody knows what it needs; the message is one line."""


class Project(NamedTuple):
    """A pipeline and its folders, as processes see them that work where relative paths start (`place.inside`)."""

    connection: journal.Connection
    """Of the metadata store."""
    name: str
    """Of the pipeline."""
    root: str
    """For artifacts."""
    serving_dir: str
    """For versions."""


class Runs:
    """The runs of a pipeline: which of them keep what they made, and which may be under way.

    Args:
      store: the metadata store.
      context_id: of the pipeline.
      project: likewise.
      keep_runs: as for `retention.plan`.
      alone: likewise.
    """

    def __init__(self, store: mlmd.MetadataStore, context_id: int, project: Project, keep_runs: int, alone: bool):
        self._store = store
        ends = journal.read_ends(project.connection, project.name)
        begun = {*journal.read_starts(project.connection, project.name), *ends}
        contexts = [one for one in store.get_children_contexts_by_context(context_id) if one.type == "pipeline_run"]
        # One that was killed right after its context was made is nobody's child.
        orphans = begun - {one.name for one in contexts}
        found = (store.get_context_by_type_and_name("pipeline_run", name) for name in sorted(orphans))
        contexts += [one for one in found if one is not None]
        newest_first = sorted(contexts, key=lambda one: (one.create_time_since_epoch, one.id), reverse=True)
        whole = [one for one in newest_first if one.name in begun]
        others = [one for one in newest_first if one.name not in begun]
        oldest = (time.time() - _UNDER_WAY_SECONDS) * 1000
        self._under_way = [
            one for one in newest_first if not alone and one.name not in ends and one.create_time_since_epoch > oldest
        ]
        served = versions.Versions(project.serving_dir)
        numbers = _served_numbers(served, any(record.ending.version for record in ends.values()))
        infos = [model_info.read(served.path(number)) for number in numbers]
        serving = {info.lineage["run"] for info in infos if info is not None and "run" in info.lineage}
        serving |= {name for name, record in ends.items() if record.ending.version in numbers}
        self._digests = {info.model_digest for info in infos if info is not None}
        self._kept = {
            one.id: one
            for one in (
                *whole[:keep_runs],
                *others[:keep_runs],
                *self._under_way,
                *(one for one in contexts if one.name in serving),
            )
        }
        # A node may work though its run has an end: beside the one that ended it, or tried again since.
        executions = store.get_executions_by_context(context_id)
        over = [one for one in executions if alone or one.last_update_time_since_epoch < oldest]
        self._over = {str(one.id) for one in over}
        self._torn = {str(one.id) for one in over if one.last_known_state not in journal.FINISHED}
        self._alone = alone

    def needed(self, artifacts: Sequence[metadata_store_pb2.Artifact]) -> set[int]:
        """Return ids of the artifacts that stay: what kept runs made and used, and what was with the data accepted last."""
        executions = [one.id for run in self._kept.values() for one in self._store.get_executions_by_context(run.id)]
        accepted = sorted(
            (one.id for one in artifacts if one.state == metadata_store_pb2.Artifact.LIVE and _is_accepted(one)),
            reverse=True,
        )
        newest = next((one for one in accepted if was_published_from(self._store, one)), None)
        if newest is not None:
            events = self._store.get_events_by_artifact_ids([newest])
            executions += [event.execution_id for event in events if event.type == metadata_store_pb2.Event.OUTPUT]
        events = self._store.get_events_by_execution_ids(sorted({*executions})) if executions else []
        return {event.artifact_id for event in events} | {one.id for one in artifacts if self._is_adopted(one)}

    def _is_adopted(self, artifact: metadata_store_pb2.Artifact) -> bool:
        """Whether it is a model that was copied from what is served."""
        properties = artifact.custom_properties
        return DIGEST_PROPERTY in properties and properties[DIGEST_PROPERTY].string_value in self._digests

    def is_leftover(self, path: str) -> bool:
        """Return whether a folder that is no artifact's is one of an execution that is over, and needed no more."""
        folder, name = os.path.split(path)
        if os.path.basename(os.path.dirname(folder)) != SYSTEM:
            return name in self._torn
        if os.path.basename(folder) == _OF_EXECUTIONS:
            return name in self._over
        return self._alone or _is_old(path)


def _is_old(path: str) -> bool:
    """Whether nothing was made in a folder for so long that nobody is at it; False where nobody knows."""
    try:
        changed = tf.io.gfile.stat(path).mtime_nsec / 1e9
    except (OSError, tf.errors.OpError):  # it has just gone
        return False
    return 0 < changed < time.time() - _UNDER_WAY_SECONDS


def _is_accepted(artifact: metadata_store_pb2.Artifact) -> bool:
    # Only to look at a property that is missing adds an empty one, which ML Metadata does not take.
    properties = artifact.custom_properties
    return data_gate.ACCEPTED_PROPERTY in properties and bool(properties[data_gate.ACCEPTED_PROPERTY].int_value)


def _served_numbers(served: versions.Versions, was_published: bool) -> set[int]:
    """The version that is live, and the one that new models are judged against."""
    numbers = {number for number in (served.live, served.served) if number is not None}
    if was_published and not numbers:
        raise UnseenError(
            f"{served.folder}: no version is live here, though runs have published some; what is live must be seen, so that"
            " nothing goes that it needs"
        )
    return numbers
