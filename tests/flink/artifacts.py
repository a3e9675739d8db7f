"""What a run made, in forms that are equal where the runs are: no order where none is promised, no folder's number."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import tensorflow as tf
import tensorflow_data_validation as tfdv
import tensorflow_model_analysis as tfma
from google.protobuf import json_format

_MOST = 5
"""Differences that are named."""


def differences(read: Callable[[Path], Any], one: Path, other: Path, tolerance: float = 0.0) -> list[str]:
    """Return what differs in an artifact of two runs, in words; what is empty isn't equal.

    Args:
      read: of the functions below.
      one: folder of a run's artifacts.
      other: likewise.
      tolerance: how far numbers may differ, as a share of them.
    """
    first = read(one)
    if not first:
        return ["nothing there"]
    found = list(_different(first, read(other), "", tolerance))
    return found[:_MOST] + ([f"and {len(found) - _MOST} more"] if len(found) > _MOST else [])


def examples(root: Path) -> dict[str, Any]:
    """Read the examples of each file, in their order, and what is kept beside them."""
    folder = latest(root, "ImageExampleGen/examples")
    found: dict[str, Any] = {}
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        found[name] = pyarrow.parquet.read_table(path).to_pylist() if path.suffix == ".parquet" else _records(path)
    return found


def example_bytes(root: Path) -> dict[str, bytes]:
    """Read the files with the examples as they are."""
    folder = latest(root, "ImageExampleGen/examples")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in _files(folder)}


def example_writes(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Read the files with the examples, and when each was last written: its number on the disk, its time, its content."""
    folder = latest(root, "ImageExampleGen/examples")
    stats = {path: path.stat() for path in _files(folder)}
    return {
        path.relative_to(folder).as_posix(): (stat.st_ino, stat.st_mtime_ns, path.read_bytes())
        for path, stat in stats.items()
    }


def rejects(root: Path) -> dict[str, list[str]]:
    """Read the lines of each file of the report, sorted."""
    return {path.name: sorted(path.read_text().splitlines()) for path in _files(latest(root, "ImageExampleGen/rejects"))}


def statistics(root: Path) -> dict[str, Any]:
    """Read the statistics of each split and the schema that was inferred from them, by feature."""
    found = {}
    for path in _files(latest(root, "StatisticsGen/statistics")):
        for dataset in tfdv.load_stats_binary(str(path)).datasets:
            features = sorted(map(json_format.MessageToDict, dataset.features), key=lambda one: json.dumps(one["path"]))
            found[f"{path.parent.name}/{dataset.name}"] = [dataset.num_examples, features]
    found["schema"] = sorted((latest(root, "SchemaGen/schema") / "schema.pbtxt").read_text().splitlines())
    return found


def transformed(root: Path) -> dict[str, Any]:
    """Read the transformed examples, if there are any, of each split in any order, and the vocabularies."""
    graph = latest(root, "Transform/transform_graph")
    found: dict[str, Any] = {path.name: path.read_text() for path in _files(graph / "transform_fn" / "assets")}
    if (root / "Transform" / "transformed_examples").exists():
        folder = latest(root, "Transform/transformed_examples")
        for split in sorted(folder.iterdir()):
            found[split.name] = sorted(record for path in _files(split) for record in _records(path))
    return found


def metrics(root: Path) -> dict[str, Any]:
    """Read the metrics of the evaluation, by slice."""
    return {
        json_format.MessageToJson(one.slice_key): {
            json_format.MessageToJson(metric.key): json_format.MessageToDict(metric.value)
            for metric in one.metric_keys_and_values
        }
        for one in tfma.load_metrics(str(latest(root, "Evaluator/evaluation")))
    }


def answers(root: Path) -> list[dict[str, Any]]:
    """Read what the model said of each test picture, by path."""
    paths = _files(latest(root, "Evaluator/predictions"))
    rows = [row for path in paths for row in pyarrow.parquet.read_table(path).to_pylist()]
    return sorted(rows, key=lambda row: row["path"])


def latest(root: Path, output: str) -> Path:
    """Return the folder of the newest artifact, by the number of its execution.

    Raises:
      AssertionError: there is none.
    """
    numbered = [path for path in (root / output).glob("*") if path.name.isdigit()]
    assert numbered, f"{root / output}: no artifact"
    return max(numbered, key=lambda path: int(path.name))


def leftovers(root: Path) -> list[str]:
    """Return the folders in which attempts put something aside, and that should be gone."""
    found = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_dir())
    return [path for path in found if re.search(r"(^|/)(beam-temp-[^/]*|aside)$", path)]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _records(path: Path) -> list[bytes]:
    """The examples of a file, each as bytes that follow from its features alone."""
    records = tf.data.TFRecordDataset(str(path), "GZIP").as_numpy_iterator()
    return [tf.train.Example.FromString(record).SerializeToString(deterministic=True) for record in records]


def _different(one: Any, other: Any, where: str, tolerance: float) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            if key in one and key in other:
                yield from _different(one[key], other[key], f"{where}/{key}", tolerance)
            else:
                yield f"{where}/{key} is only {'here' if key in one else 'there'}"
    elif isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            yield f"{where} has {len(one)} here and {len(other)} there"
        for number, (first, second) in enumerate(zip(one, other, strict=False)):
            yield from _different(first, second, f"{where}/{number}", tolerance)
    elif isinstance(one, float) and isinstance(other, float):
        if not math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance):
            yield f"{where}: {one!r} here, {other!r} there"
    elif one != other:
        yield f"{where}: {_short(one)} here, {_short(other)} there"


def _short(value: Any) -> str:
    return f"{len(value)} bytes" if isinstance(value, bytes) else repr(value)[:120]
