"""What became of a project's runs: a line each, from ML Metadata, where it outlives what they made."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from typing import Any

import pydantic

from configs import revision, schema
from pipeline import fingerprint, journal
from pipeline.ending import Verdict
from serving import versions

UNFINISHED = "not finished"
"""Of a run that is under way, or was killed."""
DATA, CODE = "data", "code"
TOLD = {"verdict", "reason", "node", "accuracy", "accuracy_interval", "test_pictures", "baseline_accuracy", "version"}
"""What of a run's end is in its line as it is."""
_COMPARED = ("data", "configuration", "code", "versions")
_NO_DIFFERENCE = {"beam", "kubeflow", "notify", "keep_runs", "name", "report"}
"""Sections and keys that change nothing of the model."""


class Change(pydantic.BaseModel):
    """What is another than in the run before that is known; None where nothing can be compared."""

    data: bool | None = None
    configuration: dict[str, tuple[Any, Any]] | None = None
    """Values before and now, by key."""
    code: bool | None = None
    versions: dict[str, tuple[str | None, str | None]] | None = None
    """Of libraries, before and now."""

    @property
    def words(self) -> list[str]:
        """What changed, a word or a key each."""
        found = [DATA] if self.data else []
        return [*found, *(self.configuration or {}), *([CODE] if self.code else []), *(self.versions or {})]


class Line(pydantic.BaseModel):
    """A run."""

    run: str
    """Its id."""
    begun: datetime.datetime | None = None
    ended: datetime.datetime | None = None
    """None if it has no end: it is under way, or was killed."""
    verdict: Verdict | None = None
    reason: str = ""
    node: str | None = None
    """That failed or refused."""
    pictures: int | None = None
    accuracy: float | None = None
    """Of the model on the test split."""
    accuracy_interval: tuple[float, float] | None = None
    """Wilson's, 95 %."""
    test_pictures: int | None = None
    baseline_accuracy: float | None = None
    """Of the model that was live, on the same pictures."""
    version: int | None = None
    """That was published, now or, if nothing had changed, before."""
    live: bool | None = None
    """Whether that version is live now; None if it can't be seen from here."""
    changed: Change = Change()
    data: str | None = None
    """SHA-256 of the source's listing: names, sizes and times."""
    configuration: dict[str, Any] | None = None
    """What makes a difference to the model, by section and key."""
    code: str | None = None
    """SHA-256 of this project's code."""
    revision: str | None = None
    """Of this project's code, if it is known."""
    versions: dict[str, str] | None = None
    """Of libraries."""
    command: str = ""
    """That does it again; empty if it is not known."""


def start_of(config: schema.Config, command: str = "") -> journal.RunStart:
    """Return what a run that begins now begins with.

    Args:
      config: of the run.
      command: that does it again.
    """
    return journal.RunStart(
        pipeline=config.name,
        begun=datetime.datetime.now(datetime.UTC),
        configuration=config.model_dump(mode="json", exclude=_NO_DIFFERENCE),
        code=fingerprint.project_fingerprint(),
        revision=revision.revision(),
        versions=fingerprint.versions(),
        command=command,
        keep_runs=config.keep_runs,
        report_pictures=config.report.pictures,
    )


def read(connection: journal.Connection, pipeline: str, serving_dir: str | None) -> list[Line]:
    """Return the runs of a pipeline, the newest last. What is read needs no artifacts.

    Args:
      connection: of the metadata store.
      pipeline: its name.
      serving_dir: folder of the versions; None if it can't be seen from here.
    """
    starts, ends = journal.read_starts(connection, pipeline), journal.read_ends(connection, pipeline)
    live = versions.Versions(serving_dir).live if serving_dir is not None and os.path.isdir(serving_dir) else None
    lines = [_line(run_id, starts.get(run_id), ends.get(run_id)) for run_id in {**starts, **ends}]
    lines.sort(key=lambda line: (line.begun or line.ended or datetime.datetime.max.replace(tzinfo=datetime.UTC), line.run))
    before: dict[str, Any] = {}
    found = []
    for line in lines:
        seen = None if live is None or line.version is None else line.version == live
        found.append(line.model_copy(update={"changed": _change(before, line), "live": seen}))
        before |= _known(line)
    return found


def change_between(before: Line, now: Line) -> Change:
    """Return what is another in one run than in an earlier one, of what is known of both."""
    return _change(_known(before), now)


def _line(run_id: str, start: journal.RunStart | None, end: journal.RunRecord | None) -> Line:
    found: dict[str, Any] = {"run": run_id}
    if start is not None:
        found |= start.model_dump(include=set(Line.model_fields))
    if end is not None:
        found |= end.ending.model_dump(include=TOLD)
        found |= end.model_dump(include={"ended", "pictures", "data"})
    return Line(**found)


def _known(line: Line) -> dict[str, Any]:
    """What of a run can be compared."""
    return {name: value for name in _COMPARED if (value := getattr(line, name)) is not None}


def _change(before: Mapping[str, Any], line: Line) -> Change:
    """What is another than before, of what is known of both."""
    known = before.keys() & _known(line).keys()
    return Change(
        data=before["data"] != line.data if "data" in known else None,
        configuration=_differences(_flat(before["configuration"]), _flat(line.configuration or {}))
        if "configuration" in known
        else None,
        code=before["code"] != line.code if "code" in known else None,
        versions=_differences(before["versions"], line.versions or {}) if "versions" in known else None,
    )


def _flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A configuration by whole keys, e.g. `training.phases.1.epochs`; lists of anything but sections are values."""
    found: dict[str, Any] = {}
    for key, value in section.items():
        inner = value
        if isinstance(value, list) and all(isinstance(one, dict) for one in value):
            inner = {str(number): one for number, one in enumerate(value)}
        found |= _flat(inner, f"{prefix}{key}.") if isinstance(inner, dict) and inner else {f"{prefix}{key}": value}
    return found


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    keys = sorted(before.keys() | now.keys())
    return {key: (before.get(key), now.get(key)) for key in keys if before.get(key) != now.get(key)}
