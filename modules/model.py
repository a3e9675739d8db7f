"""The classifier: VGG16 without its top, and a regularised head.

VGG16: "Very Deep Convolutional Networks for Large-Scale Image Recognition", Simonyan and Zisserman, 2015.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import keras
import tensorflow as tf

from modules import weights

# With a few hundred pictures an epoch is a few dozen steps: at Keras's 0.99 the moving averages that evaluation uses
# would lag epochs behind the batches that training uses.
_BATCH_STATISTICS_MOMENTUM = 0.9

HEAD = "head"
"""Name of the new part; its variables' paths start with `head/`."""


def build_model(
    num_classes: int, height: int, width: int, config: dict[str, Any], weights_path: str | None, policy: str
) -> keras.Model:
    """Build the classifier.

    Args:
      num_classes: size of the output.
      height: of the images, in pixels.
      width: of the images, in pixels.
      config: the `model` section of the configuration.
      weights_path: an H5 file for VGG16 without its top, or None for random weights.
      policy: Keras's dtype policy, of the model and of all its layers but the last: `float32`, `mixed_float16` or
        `mixed_bfloat16`.

    Returns:
      A model from images `[batch, height, width, 3]`, RGB in 0 to 255, to float32 probabilities `[batch, num_classes]`.
      VGG16's layers keep their names (`block5_conv1`), the new ones are inside `head`.
    """
    backbone = keras.applications.VGG16(include_top=False, weights=None, input_shape=(height, width, 3))
    if weights_path is not None:
        weights.load(weights_path, backbone)
    head = build_head(num_classes, backbone.output.shape[1:], config, policy)
    images = keras.Input((height, width, 3), name="images")
    # BGR, each channel's ImageNet mean subtracted, not scaled: what VGG16's weights expect.
    outputs = keras.applications.vgg16.preprocess_input(images)
    # Keras builds its VGG16 in no other policy than the global one.
    for layer in backbone.layers[1:]:
        ours = type(layer).from_config(layer.get_config() | {"dtype": policy})
        outputs = ours(outputs)
        ours.set_weights(layer.get_weights())
    return _model(images, head(outputs), "classifier", policy)


def split(classifier: keras.Model, trained: Collection[str]) -> tuple[keras.Model, keras.Model] | None:
    """Divide a classifier below its lowest layer that is ever trained.

    Args:
      classifier: as `build_model` returns it.
      trained: paths of the variables that are trained at some time.

    Returns:
      The prefix, from images to features `[batch, height, width, channels]`, and the suffix, from those to probabilities:
      together they are the classifier, whose layers and dtype policy they share. None if nothing lies below the lowest
      trained layer.
    """
    layers, lowest = _layers(classifier, trained)
    if lowest == 0:
        return None
    boundary = layers[lowest].input
    prefix = _model(classifier.input, boundary, "prefix", classifier.dtype_policy.name)
    return prefix, _chain(layers[lowest:], boundary.shape[1:], "suffix", classifier.dtype_policy.name)


def split_suffix(suffix: keras.Model, trained: Collection[str]) -> tuple[keras.Model, keras.Model] | None:
    """Divide what `split` left above the prefix once more, for a phase that trains less of it.

    Args:
      suffix: from features to probabilities.
      trained: paths of the variables that the phase trains.

    Returns:
      The part that stays frozen, from features to features, and the part above it; as for `split`. None if nothing stays
      frozen.
    """
    layers, lowest = _layers(suffix, trained)
    if lowest == 0:
        return None
    frozen = _chain(layers[:lowest], suffix.input_shape[1:], "frozen", suffix.dtype_policy.name)
    return frozen, _chain(layers[lowest:], frozen.output_shape[1:], "top", suffix.dtype_policy.name)


def _layers(whole: keras.Model, trained: Collection[str]) -> tuple[list[keras.layers.Layer], int]:
    """VGG16's layers and the head, as far as they are there, and the number of the lowest that is trained."""
    layers = [layer for layer in whole.layers if layer.weights or layer.name.endswith("_pool")]
    return layers, next(i for i, layer in enumerate(layers) if any(variable.path in trained for variable in layer.weights))


def _chain(layers: Sequence[keras.layers.Layer], shape: tuple[int, ...], name: str, policy: str) -> keras.Model:
    """A model of layers one after the other, from features of a shape."""
    features = keras.Input(shape, name="features")
    outputs = features
    for layer in layers:
        outputs = layer(outputs)
    return _model(features, outputs, name, policy)


def _model(inputs: keras.KerasTensor, outputs: keras.KerasTensor, name: str, policy: str) -> keras.Model:
    found = keras.Model(inputs, outputs, name=name)
    # Keras takes no policy for a functional model, and goes by it: `compile` scales the loss.
    found.dtype_policy = policy
    return found


def build_head(num_classes: int, features_shape: tuple[int, ...], config: dict[str, Any], policy: str) -> keras.Model:
    """Build the part on top of VGG16: flatten, dense, batch normalisation, dropout, softmax.

    Args:
      num_classes: size of the output.
      features_shape: `(height, width, channels)` of the backbone's output.
      config: the `model` section of the configuration.
      policy: as for `build_model`.

    Returns:
      A model from features `[batch, *features_shape]` to float32 probabilities `[batch, num_classes]`.
    """
    penalty = keras.regularizers.L2(config["l2"]) if config["l2"] else None
    # Statistics of the whole batch, also where devices share it.
    shared = tf.distribute.get_strategy().num_replicas_in_sync > 1
    head = keras.Sequential(
        [
            keras.Input(features_shape),
            keras.layers.Flatten(dtype=policy, name="flatten"),
            keras.layers.Dense(
                config["dense_units"], activation="relu", dtype=policy, kernel_regularizer=penalty, name="dense"
            ),
            keras.layers.BatchNormalization(
                momentum=_BATCH_STATISTICS_MOMENTUM, synchronized=shared, dtype=policy, name="normalization"
            ),
            keras.layers.Dropout(config["dropout"], dtype=policy, name="dropout"),
            keras.layers.Dense(
                num_classes,
                activation="softmax",
                dtype="float32",
                kernel_regularizer=penalty,
                name="probabilities",
            ),
        ],
        name=HEAD,
    )
    head.dtype_policy = policy
    return head
