"""The exported model: one signature over encoded pictures and one over tf.Examples.

Preprocessing, weights and label names travel together: both signatures run Transform's own graph, then the classifier.

Who only asks a model needs the names alone, so TensorFlow is imported where a model is written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras
    import tensorflow as tf
    import tensorflow_transform as tft

SERVING_DEFAULT = "serving_default"
EXAMPLES = "examples"

LABEL, SCORE, PROBABILITIES, ALL_CLASSES = "label", "score", "probabilities", "all_classes"


_PREPARATION_FILE = os.path.join("assets.extra", "preparation.json")  # TensorFlow Serving leaves assets.extra to others


def export(
    model: keras.Model, transform_output: tft.TFTransformOutput, path: str, preparation: Mapping[str, Any] | None = None
) -> None:
    """Write a SavedModel with the signatures `serving_default` and `examples`.

    Both return `label` (string `[batch]`), `score` (float32 `[batch]`), `probabilities` (float32 `[batch, n]`) and
    `all_classes` (string `[batch, n]`). `serving_default` takes encoded pictures, string `[batch]`; `examples` takes
    serialised tf.Examples with the raw feature `image`, string `[batch]`.

    Args:
      model: from float32 images `[batch, height, width, 3]` in 0 to 255 to probabilities `[batch, n]`.
      transform_output: what Transform learnt: the preprocessing graph and the vocabulary of `n` labels.
      path: the folder to write.
      preparation: keyword arguments of `modules.images.prepare` that the pictures of training went through.
    """
    import keras
    import tensorflow as tf

    from modules import features

    transform = transform_output.transform_features_layer()
    labels = transform_output.vocabulary_by_name(features.LABEL_VOCABULARY)
    _, height, width, _ = model.input_shape

    def classify(encoded: tf.Tensor) -> dict[str, tf.Tensor]:
        images = tf.ensure_shape(transform({features.IMAGE: encoded})[features.PIXELS], [None, height, width, 3])
        probabilities = model(images, training=False)
        names = tf.constant(labels)
        return {
            LABEL: tf.gather(names, tf.argmax(probabilities, axis=-1)),
            SCORE: tf.reduce_max(probabilities, axis=-1),
            PROBABILITIES: probabilities,
            ALL_CLASSES: tf.repeat(names[tf.newaxis, :], tf.shape(probabilities)[0], axis=0),
        }

    def classify_examples(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        spec = {features.IMAGE: tf.io.FixedLenFeature([], tf.string)}
        return classify(tf.io.parse_example(examples, spec)[features.IMAGE])

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.track(transform)
    archive.add_endpoint(SERVING_DEFAULT, classify, [tf.TensorSpec([None], tf.string, name="image")])
    archive.add_endpoint(EXAMPLES, classify_examples, [tf.TensorSpec([None], tf.string, name="examples")])
    archive.write_out(path, verbose=False)
    file = os.path.join(path, _PREPARATION_FILE)
    tf.io.gfile.makedirs(os.path.dirname(file))
    with tf.io.gfile.GFile(file, "w") as opened:
        opened.write(json.dumps(dict(preparation or {})))


def read_preparation(path: str) -> dict[str, Any]:
    """Return how files are prepared for an exported model: keyword arguments of `modules.images.prepare`.

    Args:
      path: its folder, on a file system.
    """
    try:
        with open(os.path.join(path, _PREPARATION_FILE), encoding="utf-8") as opened:
            return json.loads(opened.read())
    except FileNotFoundError:
        return {}
