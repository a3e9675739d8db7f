"""What a model looked at when it answered: Grad-CAM on the last convolution.

Selvaraju, Cogswell, Das, Vedantam, Parikh and Batra, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization", 2017.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from modules import model, preprocessing

_LAYER = "block5_conv3"
_DENSE, _PROBABILITIES = "head/dense/kernel", "head/probabilities/kernel"
_MOST_PIXELS = 640 * 640
_MOST_BYTES = 500_000_000
"""Of a model's values, of which there are some copies at a time: the page is made in small pods, too."""


class Attention:
    """Looks of an exported model.

    Args:
      saved_model: its folder, wherever TensorFlow reads.
      labels: in the order of its probabilities.
      height: that pictures are resized to, in pixels.
      width: likewise.

    Raises:
      ValueError: it is not such a model, or too large for a page that is made on the side.
    """

    def __init__(self, saved_model: str, labels: Sequence[str], height: int, width: int):
        self._labels, self._size = list(labels), (height, width)
        if height * width > _MOST_PIXELS or _bytes_of(saved_model) > _MOST_BYTES:
            raise ValueError(f"{saved_model}: too large to be looked through for a page")
        values = _values(saved_model)
        if _DENSE not in values or values[_PROBABILITIES].shape[-1] != len(labels):
            raise ValueError(f"{saved_model}: not the classifier of {len(labels)} labels that this project exports")
        config = {"dense_units": values[_DENSE].shape[-1], "dropout": 0.0, "l2": 0.0}
        classifier = model.build_model(len(labels), height, width, config, None, "float32")
        for variable in classifier.weights:
            variable.assign(values.pop(variable.path))
        place = [layer.name for layer in classifier.layers].index(_LAYER) + 1
        self._below = keras.Model(classifier.input, classifier.layers[place - 1].output)
        above = [layer for layer in classifier.layers[place:] if layer.name != model.HEAD]
        self._above = [*above, *classifier.get_layer(model.HEAD).layers]

    def of(self, pictures: Sequence[bytes], answers: Sequence[str]) -> np.ndarray:
        """Return where each picture speaks for its answer: float32 `[pictures, height, width]`, 0 to 1, coarse.

        Args:
          pictures: encoded, as they were ingested.
          answers: the label of each whose look is wanted.
        """
        return np.stack([self._look(*one) for one in zip(pictures, answers, strict=True)])

    def _look(self, picture: bytes, answer: str) -> np.ndarray:
        pixels = preprocessing.decode_and_resize(tf.constant(picture), *self._size)
        features = self._below(tf.cast(pixels, tf.float32)[tf.newaxis], training=False)
        with tf.GradientTape() as tape:
            tape.watch(features)
            outputs = features
            *hidden, last = self._above
            for layer in hidden:
                outputs = layer(outputs, training=False) if layer.name in _BY_MODE else layer(outputs)
            # Before the softmax, as the paper has it.
            score = (outputs @ last.kernel + last.bias)[0, self._labels.index(answer)]
        weights = tf.reduce_mean(tape.gradient(score, features), axis=(1, 2), keepdims=True)
        looks = tf.nn.relu(tf.reduce_sum(weights * features, axis=-1))[0]
        return tf.math.divide_no_nan(looks, tf.reduce_max(looks)).numpy()


_BY_MODE = {"normalization", "dropout"}
"""Layers that do something else in training."""


def _values(saved_model: str) -> dict[str, np.ndarray]:
    """The values of a model's variables, by their paths."""
    loaded = tf.saved_model.load(saved_model)
    return {variable.name.partition(":")[0]: variable.numpy() for variable in loaded.variables}


def _bytes_of(saved_model: str) -> int:
    files = tf.io.gfile.glob(os.path.join(saved_model, "variables", "*"))
    return sum(tf.io.gfile.stat(file).length for file in files)
