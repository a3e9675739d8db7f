"""Warm-up requests: TensorFlow Serving replays them before a version answers anybody, so that its first answer is fast."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from modules import signatures
from serving.model_info import WARMUP_FILE

BATCH_SIZES = (1, 8)


def requests(name: str, pictures: Sequence[bytes], examples: Sequence[bytes]) -> Iterator[predict_pb2.PredictRequest]:
    """Return a request for each signature and batch size.

    Args:
      name: of the model at the server.
      pictures: encoded, as `modules.images.prepare` makes them.
      examples: serialised tf.Examples of the same pictures.
    """
    inputs = ((signatures.SERVING_DEFAULT, "image", pictures), (signatures.EXAMPLES, "examples", examples))
    for (signature, key, values), size in itertools.product(inputs, BATCH_SIZES):
        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = name, signature
        batch = list(itertools.islice(itertools.cycle(values), size))
        request.inputs[key].CopyFrom(tf.make_tensor_proto(batch, shape=[size]))
        yield request


def write(version: str, to_replay: Iterator[predict_pb2.PredictRequest]) -> None:
    """Write requests into a version.

    Args:
      version: its folder, on this machine.
      to_replay: the requests.
    """
    path = os.path.join(version, WARMUP_FILE)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with tf.io.TFRecordWriter(path) as writer:
        for request in to_replay:
            log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
            writer.write(log.SerializeToString())


def read(version: str) -> list[predict_pb2.PredictRequest]:
    """Return the requests of a version.

    Args:
      version: its folder.
    """
    records = tf.data.TFRecordDataset(os.path.join(version, WARMUP_FILE)).as_numpy_iterator()
    return [prediction_log_pb2.PredictionLog.FromString(record).predict_log.request for record in records]
