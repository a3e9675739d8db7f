"""What nodes tell Kubeflow Pipelines besides ML Metadata, so that its page shows it."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tensorflow_model_analysis as tfma
from kfp import dsl
from ml_metadata.proto import metadata_store_pb2
from rich.console import Console
from rich.table import Table
from tfx.dsl.io import fileio

from components.model_evaluator import gate, samples
from components.run_report import executor as run_report
from kubeflow.tasks import EVALUATOR, PUSHER, REPORT, UP_TO_DATE
from pipeline import outcome

YES, NO = "yes", "no"

OUTPUTS: dict[str, dict[str, Any]] = {
    UP_TO_DATE: {"up_to_date": dsl.OutputPath(str)},
    EVALUATOR: {
        "metrics": dsl.Output[dsl.Metrics],
        "confusion": dsl.Output[dsl.ClassificationMetrics],
        "gate": dsl.Output[dsl.HTML],
        "blessing": dsl.OutputPath(str),
    },
    PUSHER: {"model_uri": dsl.OutputPath(str)},
    REPORT: {"report": dsl.Output[dsl.HTML]},
}
"""Outputs of the tasks, by node."""

Task = dict[str, Any]
"""What Kubeflow Pipelines says of a task: its ExecutorInput."""


def of(nodes: Iterable[str]) -> dict[str, Any]:
    """Return the outputs of the task of some nodes, each with its type.

    Args:
      nodes: their ids.
    """
    return {key: annotation for node_id in nodes for key, annotation in OUTPUTS.get(node_id, {}).items()}


def write(node_id: str, task: Task, connection: outcome.Connection, run_id: str) -> None:
    """Write a node's outputs where Kubeflow Pipelines looks for them.

    Args:
      node_id: of the node, which has ended well.
      task: that the node is in.
      connection: of the metadata store.
      run_id: of the run.
    """
    if node_id == EVALUATOR:
        made = outcome.read_outputs(connection, run_id)
        checks = gate.read(made[EVALUATOR, "evaluation"].uri)
        blessed = outcome.is_blessed(made[EVALUATOR, "blessing"])
        _write_parameter(task, "blessing", "blessed" if blessed else "refused")
        _write_html(task, "gate", checks)
        metadata = {
            # The launcher reads strict JSON, which knows no NaN and no infinity.
            "metrics": {
                check.metric.replace(" ", "_"): check.value
                for check in checks
                if check.value is not None and math.isfinite(check.value)
            },
            "confusion": _confusion_matrix(task, "confusion", made[EVALUATOR, "evaluation"]),
        }
        _write_artifacts(task, metadata)
    elif node_id == PUSHER:
        pushed = outcome.read_outputs(connection, run_id)[PUSHER, "pushed_model"]
        _write_parameter(task, "model_uri", outcome.pushed_to(pushed) or "")

    elif node_id == REPORT:
        made = outcome.read_outputs(connection, run_id)[REPORT, "report"]
        with fileio.open(os.path.join(made.uri, run_report.FILE), "rb") as opened:
            page = opened.read()
        _local_path(task, "report").write_bytes(page)
        _write_artifacts(task, {})


def write_up_to_date(task: Task, up_to_date: bool) -> None:
    """Write the answer of the task `UP_TO_DATE`, by which the other tasks run or do not."""
    _write_parameter(task, "up_to_date", YES if up_to_date else NO)


def _write_parameter(task: Task, name: str, value: str) -> None:
    path = Path(task["outputs"]["parameters"][name]["outputFile"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value, encoding="utf-8")


def _artifact(task: Task, name: str) -> dict[str, Any]:
    (artifact,) = task["outputs"]["artifacts"][name]["artifacts"]
    return artifact


def _write_artifacts(task: Task, metadata: dict[str, dict[str, Any]]) -> None:
    """Write the metadata of artifacts into the file that Kubeflow Pipelines takes it from, beside those of nodes before."""
    path = Path(task["outputs"]["outputFile"])
    before = json.loads(path.read_text(encoding="utf-8"))["artifacts"] if path.exists() else {}
    known = {name: one["artifacts"][0]["metadata"] for name, one in before.items()} | metadata
    artifacts = {
        name: {"artifacts": [_artifact(task, name) | {"metadata": known.get(name, {})}]}
        for name in task["outputs"]["artifacts"]
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"artifacts": artifacts}, allow_nan=False), encoding="utf-8")


def _write_html(task: Task, name: str, checks: list[gate.Check]) -> None:
    table = Table(*gate.COLUMNS)
    for check in checks:
        table.add_row(*check.cells)
    console = Console(record=True, width=140, file=io.StringIO())
    console.print(table)
    if (compared := gate.comparison(checks)) and compared.note:
        console.print(f"baseline: {compared.note}", markup=False, highlight=False, soft_wrap=True)
    _local_path(task, name).write_text(console.export_html(), encoding="utf-8")


def _local_path(task: Task, name: str) -> Path:
    """Where Kubeflow Pipelines looks for an artifact's content, and uploads it."""
    path = Path(dsl.HTML(uri=_artifact(task, name)["uri"]).path or os.devnull)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _confusion_matrix(task: Task, name: str, evaluation: metadata_store_pb2.Artifact) -> dict[str, Any]:
    """TFMA's confusion matrix of the whole test split as metadata of an artifact: truth by row."""
    labels = samples.read(evaluation.uri)[0].labels
    rows = [[0] * len(labels) for _ in labels]
    (overall,) = (metrics for metrics in tfma.load_metrics(evaluation.uri) if not metrics.slice_key.single_slice_keys)
    for item in overall.metric_keys_and_values:
        if item.key.name == "confusion_matrix" and item.key.model_name in {"", tfma.CANDIDATE_KEY} and not item.key.is_diff:
            (matrix,) = item.value.multi_class_confusion_matrix_at_thresholds.matrices
            for entry in matrix.entries:
                rows[entry.actual_class_id][entry.predicted_class_id] = round(entry.num_weighted_examples)
    artifact = dsl.ClassificationMetrics(uri=_artifact(task, name)["uri"], metadata={})
    artifact.log_confusion_matrix(labels, rows)
    return artifact.metadata
