"""A classifier without training: a picture is `dark` or `light`, by the mean of its pixels."""

from pathlib import Path

import tensorflow as tf

from modules import signatures

LABELS = ["dark", "light"]


class _Brightness(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image")])
    def classify(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        light = tf.map_fn(_mean, image, fn_output_signature=tf.float32)
        probabilities = tf.stack([1 - light, light], axis=1)
        names = tf.broadcast_to(tf.constant(LABELS), tf.shape(probabilities))
        return {signatures.PROBABILITIES: probabilities, signatures.ALL_CLASSES: names}


def _mean(encoded: tf.Tensor) -> tf.Tensor:
    pixels = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    return tf.reduce_mean(tf.cast(pixels, tf.float32)) / 255


def export(folder: Path) -> None:
    """Write it as a SavedModel."""
    model = _Brightness()
    tf.saved_model.save(model, str(folder), {signatures.SERVING_DEFAULT: model.classify})


def publish(folder: Path) -> Path:
    """Write it as version 1 into a folder, with the `models.config` of a server; returns the folder."""
    export(folder / "1")
    config = (
        f'name: "tiny" base_path: "{folder}" model_platform: "tensorflow" model_version_policy {{specific {{versions: 1}}}}'
    )
    (folder / "models.config").write_text(f"model_config_list {{config {{{config}}}}}")
    return folder
