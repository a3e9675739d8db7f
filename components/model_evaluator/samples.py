"""Some test examples with the Evaluator's own predictions: what a served model is compared with, and warmed up by."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import tensorflow as tf
import tensorflow_model_analysis as tfma

from components.model_evaluator import predictions
from modules import devices, features, signatures

SAMPLES_FILE = "samples.tfrecord"
SAMPLES = 16

_EXAMPLE = "example"
_BASELINE_CLASSES = "baseline_classes"
_COMPUTED_IN = "computed_in"


class Sample(NamedTuple):
    """One test example, and what the Evaluator's model said of it."""

    example: bytes
    """Serialised tf.Example, as ingested."""
    probabilities: np.ndarray
    """float32 `[n]`."""
    labels: list[str]
    """`n`, in the order of the probabilities."""
    baseline_labels: list[str]
    """Those that the baseline knows; empty without one."""
    computed_in: str | None
    """What the probabilities were computed in, as `modules.devices.computes_in` says it; None if it is not known."""

    @property
    def image(self) -> bytes:
        """The encoded picture."""
        return tf.train.Example.FromString(self.example).features.feature[features.IMAGE].bytes_list.value[0]


def keeping(folder: str) -> beam.PTransform:
    """Return a transform that writes some of TFMA's extracts with predictions aside, and hands on what came.

    Args:
      folder: URI of the evaluation artifact.
    """
    return _keep(os.path.join(folder, SAMPLES_FILE))


def read(folder: str) -> list[Sample]:
    """Read the samples of an evaluation artifact.

    Args:
      folder: its URI.
    """
    found = []
    for record in tf.data.TFRecordDataset(os.path.join(folder, SAMPLES_FILE)).as_numpy_iterator():
        feature = tf.train.Example.FromString(record).features.feature
        probabilities = np.array(feature[signatures.PROBABILITIES].float_list.value, np.float32)
        labels, of_baseline = (
            [label.decode() for label in feature[name].bytes_list.value]
            for name in (signatures.ALL_CLASSES, _BASELINE_CLASSES)
        )
        (computed_in,) = feature[_COMPUTED_IN].bytes_list.value or [b""]
        example = feature[_EXAMPLE].bytes_list.value[0]
        found.append(Sample(example, probabilities, labels, of_baseline, computed_in.decode() or None))
    return found


@beam.ptransform_fn
def _keep(extracts: beam.PCollection, path: str) -> beam.PCollection:
    """Write those with the smallest digests of their pictures aside, and hand on what came."""
    _ = (
        extracts
        | "Unbatch" >> beam.FlatMap(_samples)
        | "Choose" >> beam.combiners.Top.Smallest(SAMPLES, key=lambda pair: pair[0])
        | "Spread" >> beam.FlatMap(lambda pairs: [record for _, record in pairs])
        | "Write" >> beam.io.WriteToTFRecord(path, shard_name_template="")
    )
    return extracts


def _samples(batch: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    candidate, baseline = predictions.by_model(batch)
    of_baseline = [] if baseline is None else baseline[signatures.ALL_CLASSES][0]
    rows = zip(candidate[signatures.PROBABILITIES], candidate[signatures.ALL_CLASSES], strict=True)
    for example, (row, labels) in zip(batch[tfma.INPUT_KEY], rows, strict=True):
        sample = {
            _EXAMPLE: features.bytes_feature(example),
            signatures.PROBABILITIES: tf.train.Feature(float_list=tf.train.FloatList(value=row)),
            signatures.ALL_CLASSES: tf.train.Feature(bytes_list=tf.train.BytesList(value=labels)),
            _COMPUTED_IN: features.bytes_feature(devices.computes_in().encode()),
            _BASELINE_CLASSES: tf.train.Feature(bytes_list=tf.train.BytesList(value=of_baseline)),
        }
        record = tf.train.Example(features=tf.train.Features(feature=sample)).SerializeToString(deterministic=True)
        yield _digest(example), record


def _digest(example: bytes) -> str:
    """Of the picture and where it was, whatever else is known of it and in whichever order that is serialised."""
    feature = tf.train.Example.FromString(example).features.feature
    (image,), (path,) = (feature[name].bytes_list.value for name in (features.IMAGE, features.PATH))
    return hashlib.sha256(image + path).hexdigest()
