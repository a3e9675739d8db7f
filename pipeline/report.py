"""From ML Metadata to the page on which a person sees what became of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.io import fileio
from tfx.utils import path_utils

from components.baseline_resolver.strategy import GONE
from components.data_gate.findings import Finding
from components.model_evaluator.measured import megabytes_below
from components.run_report import executor as run_report
from components.run_report import page
from components.run_report.facts import Changed, Facts, Made, Node, Run
from modules import durable
from pipeline import history, journal, outcome
from pipeline.ending import Ending, Verdict
from serving import versions

FILE = page.FILE

_OWN = "RunReport"
"""The node that makes the page, of which it can tell nothing."""
_OUTPUTS = {
    "rejects": ("ImageExampleGen", "rejects"),
    "verdict": ("DataGate", "verdict"),
    "statistics": ("StatisticsGen", "statistics"),
    "examples": ("ImageExampleGen", "examples"),
    "cross_validation": ("CrossValidator", "cross_validation"),
    "model": ("Trainer", "model"),
    "model_run": ("Trainer", "model_run"),
    "evaluation": ("Evaluator", "evaluation"),
    "predictions": ("Evaluator", "predictions"),
}


def facts(
    connection: journal.Connection,
    pipeline: str,
    run_id: str,
    serving_dir: str | None,
    pictures: bool,
    looks: bool = True,
) -> Facts:
    """Return what the page of a run says, also of one that did not come to its end.

    Args:
      connection: of the metadata store.
      pipeline: its name.
      run_id: of the run.
      serving_dir: folder of the versions; None if it can't be seen from here.
      pictures: whether the page may show some.
      looks: whether it shows where the model looked, for which the model is run.
    """
    lines = history.read(connection, pipeline, serving_dir)
    own = next((one for one in lines if one.run == run_id), None)
    if own is None:
        raise LookupError(f"ML Metadata knows no run {run_id} of {pipeline}")
    record = journal.read_end(connection, run_id)
    ending = record.ending if record else _without_end(pipeline, run_id)
    served = versions.Versions(serving_dir) if serving_dir else None
    before = _compared_with(lines, own, served)
    made = _made(connection, run_id)
    change = history.change_between(before, own) if before else history.Change()
    differences = [*(change.configuration or {}).items(), *(change.versions or {}).items()]
    return Facts(
        pipeline=pipeline,
        run=run_id,
        verdict=str(ending.verdict),
        reason=ending.reason,
        node=ending.node,
        version=ending.version,
        live=served.live if served else None,
        accuracy=ending.accuracy,
        accuracy_interval=ending.accuracy_interval,
        test_pictures=ending.test_pictures,
        baseline_accuracy=ending.baseline_accuracy,
        made=made,
        compared_with=before.version if before else None,
        made_before=_made(connection, before.run) if before else Made(),
        configuration=own.configuration or {},
        differences=[Changed(what, *values) for what, values in differences],
        code_changed=change.code,
        history=[_run(one) for one in lines],
        nodes=[Node(*one) for one in outcome.read_nodes(connection, run_id) if one[0] != _OWN],
        lineage=_lineage(own, ending, made.model),
        again=own.command,
        findings=[Finding(*one) for one in journal.read_findings(connection, run_id)],
        pictures=pictures,
        looks=looks,
    )


def newest_run(connection: journal.Connection, pipeline: str) -> str | None:
    """Return the id of the newest run of a pipeline; None if there is none.

    Args:
      connection: of the metadata store.
      pipeline: its name.
    """
    lines = history.read(connection, pipeline, None)
    return lines[-1].run if lines else None


def may_show_pictures(connection: journal.Connection, pipeline: str, run_id: str) -> bool:
    """Return whether the configuration of a run, and that of the newest one, let a page show pictures.

    Args:
      connection: of the metadata store.
      pipeline: its name.
      run_id: of the run.
    """
    starts = journal.read_starts(connection, pipeline)
    return all(start is not None and start.report_pictures for start in (starts.get(run_id), journal.newest(starts)))


def write(found: Facts, into: Path) -> None:
    """Write the page, in the place of another one's.

    Args:
      found: what it says.
      into: the file.
    """
    _replace(into, page.render(found).encode(errors="backslashreplace"))


def show(connection: journal.Connection, pipeline: str, run_id: str, serving_dir: str, pictures: bool, into: Path) -> None:
    """Put the page of a run where a person looks for it: the one that its node made, or one of what there is.

    Args:
      connection: of the metadata store.
      pipeline: its name.
      run_id: of the run.
      serving_dir: folder of the versions.
      pictures: whether the page may show some.
      into: the file.
    """
    made = outcome.read_outputs(connection, run_id).get((_OWN, run_report.REPORT_KEY))
    if made is None:
        into.parent.mkdir(parents=True, exist_ok=True)
        # Whoever makes it on the side has little time and memory.
        write(facts(connection, pipeline, run_id, serving_dir, pictures, looks=False), into)
        return
    with fileio.open(os.path.join(made.uri, FILE), "rb") as opened:
        _replace(into, opened.read())


def _replace(into: Path, content: bytes) -> None:
    durable.replace(into, lambda opened: opened.write(content))


def _without_end(pipeline: str, run_id: str) -> Ending:
    return Ending(
        pipeline=pipeline, run=run_id, verdict=Verdict.FAILED, reason="it has no end: it is under way, or was killed"
    )


def _compared_with(
    lines: Sequence[history.Line], own: history.Line, served: versions.Versions | None
) -> history.Line | None:
    """The run that published what was live before this one."""
    earlier = [one for one in lines[: lines.index(own)] if one.verdict == Verdict.PUBLISHED and one.version != own.version]
    withdrawn = served.withdrawn if served else []
    live = [one for one in earlier if served and one.version == served.live]
    return next(reversed(live or [one for one in earlier if one.version not in withdrawn]), None)


def _made(connection: journal.Connection, run_id: str) -> Made:
    found = outcome.read_outputs(connection, run_id)
    uris = {name: _uri(found.get(key)) for name, key in _OUTPUTS.items()}
    if uris["model"]:
        uris["model"] = path_utils.serving_model_path(uris["model"])
    return Made(**uris)


def _uri(artifact: metadata_store_pb2.Artifact | None) -> str | None:
    return None if artifact is None or artifact.state in GONE else artifact.uri


def _run(line: history.Line) -> Run:
    return Run(
        run=line.run,
        begun=line.begun or line.ended,
        verdict=str(line.verdict or history.UNFINISHED),
        accuracy=line.accuracy,
        accuracy_interval=line.accuracy_interval,
        pictures=line.pictures,
        version=line.version,
        live=bool(line.live),
        changed=line.changed.words,
        reason=line.reason,
    )


def _lineage(line: history.Line, ending: Ending, model: str | None) -> Mapping[str, str]:
    known = {
        "run": line.run,
        "version": ending.version,
        "exported model": _size(model) if model else None,
        "data, SHA-256 of the listing": line.data,
        "code, SHA-256": line.code,
        "revision": line.revision,
        **(line.versions or {}),
        "machine": os.uname().machine,
        "look": ending.look,
    }
    return {name: str(value) for name, value in known.items() if value not in {None, ""}}


def _size(model: str) -> str | None:
    try:
        megabytes = megabytes_below(model)
    except Exception:  # whatever it is: a page without the size is better than none
        return None
    return f"{megabytes:.1f} MB" if megabytes else None
