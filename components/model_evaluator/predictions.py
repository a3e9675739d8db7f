"""A row a test picture: what it shows, what the model says, and what the baseline said. Parquet files in one folder."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
import tensorflow_model_analysis as tfma
from apache_beam.io import filesystems

from modules import features, signatures

BEST = 5
"""Labels that are kept of a picture, at most."""

SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("answer", pa.string(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("best_labels", pa.list_(pa.string()), nullable=False),
        pa.field("best_scores", pa.list_(pa.float32()), nullable=False),
        pa.field("baseline_answer", pa.string()),
        pa.field("baseline_score", pa.float32()),
    ]
)
"""Of the files: path below the source; the right label; the most probable one and its probability, 0 to 1; the `BEST` most
probable ones, best first, and their probabilities; what the baseline said, null where there was none."""

_PREFIX, _SUFFIX = "predictions", ".parquet"
_ROWS = 10_000
"""Of a row group; as many are in memory at once."""


def keeping(folder: str) -> beam.PTransform:
    """Return a transform that writes a row for each of TFMA's extracts with predictions, and hands on what came.

    Args:
      folder: URI of the artifact.
    """
    return _keep(os.path.join(folder, _PREFIX))


@beam.ptransform_fn
def _keep(extracts: beam.PCollection, prefix: str) -> beam.PCollection:
    _ = (
        extracts
        | "Rows" >> beam.FlatMap(_rows)
        # A row group is written as soon as there is anything to write: each record batch is one.
        | "Write"
        >> beam.io.WriteToParquet(
            prefix, SCHEMA, row_group_buffer_size=1, record_batch_size=_ROWS, codec="zstd", file_name_suffix=_SUFFIX
        )
    )
    return extracts


def read(folder: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a `predictions` artifact by column, a row group at a time in memory, in no particular order.

    Args:
      folder: its URI.

    Raises:
      FileNotFoundError: there are none.
    """
    (found,) = filesystems.FileSystems.match([os.path.join(folder, f"{_PREFIX}*{_SUFFIX}")])
    if not found.metadata_list:
        raise FileNotFoundError(errno.ENOENT, "no predictions are there", folder)
    for path in sorted(one.path for one in found.metadata_list):
        with filesystems.FileSystems.open(path) as opened:
            for batch in pq.ParquetFile(opened).iter_batches(batch_size=_ROWS):
                yield from batch.to_pylist()


def _rows(batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
    candidate, baseline = by_model(batch)
    for place, serialized in enumerate(batch[tfma.INPUT_KEY]):
        feature = tf.train.Example.FromString(serialized).features.feature
        labels, scores = _best(candidate, place, BEST)
        before = ([None], [None]) if baseline is None else _best(baseline, place, 1)
        yield {
            "path": _text(feature, features.PATH),
            "label": _text(feature, features.LABEL),
            "answer": labels[0],
            "score": scores[0],
            "best_labels": labels,
            "best_scores": scores,
            "baseline_answer": before[0][0],
            "baseline_score": before[1][0],
        }


def by_model(batch: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray] | None]:
    """Return what the candidate, and the baseline if there is one, say of a batch of TFMA's extracts.

    Args:
      batch: the extracts; with a baseline there is one more level, by the model's name.
    """
    predictions = batch[tfma.PREDICTIONS_KEY]
    return predictions.get(tfma.CANDIDATE_KEY, predictions), predictions.get(tfma.BASELINE_KEY)


def _best(model: dict[str, np.ndarray], place: int, most: int) -> tuple[list[str], list[float]]:
    """The most probable labels of a picture, best first, and their probabilities."""
    row, names = model[signatures.PROBABILITIES][place], model[signatures.ALL_CLASSES][place]
    order = np.argsort(-row, kind="stable")[:most]
    return [names[one].decode() for one in order], [float(row[one]) for one in order]


def _text(feature: Any, name: str) -> str:
    values = feature[name].bytes_list.value
    return values[0].decode(errors="replace") if values else ""
