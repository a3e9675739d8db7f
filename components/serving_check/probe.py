"""A fresh process that loads an exported model and asks it what a server would.

  python -m components.serving_check.probe MODEL EVALUATION [--reference]

With `--reference` it first loads a model of ours that is known to be good, and prints `{"reference": true}`. Then it prints
`{"wrong": […]}`, a line each, empty if nothing is; `{"broken": "…"}` if the model can't be loaded or fails; or
`{"not_judged": "…"}`.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from components.model_evaluator import samples
from modules import signatures
from serving import check, fresh

BATCH_SIZES = (1, 8)
REFERENCE, WRONG, BROKEN, NOT_JUDGED = "reference", "wrong", "broken", "not_judged"
WITH_REFERENCE = "--reference"


def batches(expected: Sequence[samples.Sample]) -> Iterator[check.Judged]:
    """Yield what is asked: both signatures, with one picture and with eight.

    Args:
      expected: test examples, with what the Evaluator's model said of them.
    """
    for name, size in itertools.product((signatures.SERVING_DEFAULT, signatures.EXAMPLES), BATCH_SIZES):
        batch = list(itertools.islice(itertools.cycle(expected), size))
        values = [sample.example if name == signatures.EXAMPLES else sample.image for sample in batch]
        yield check.Judged(name, values, batch[0].labels, np.stack([sample.probabilities for sample in batch]))


class _Reference(tf.Module):
    """A model that is as good as any: a variable, a picture that is decoded, a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = tf.Variable(tf.ones([3, 3, 3, 1]))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def answer(self, encoded: tf.Tensor) -> tf.Tensor:
        pixels = tf.map_fn(lambda one: tf.io.decode_png(one, channels=3), encoded, fn_output_signature=tf.uint8)
        return tf.reduce_sum(tf.nn.conv2d(tf.cast(pixels, tf.float32), self.kernel, 1, "VALID"))


def _load_reference() -> None:
    picture = tf.io.encode_png(tf.ones([3, 3, 3], tf.uint8))
    with tempfile.TemporaryDirectory() as folder:
        reference = _Reference()
        tf.saved_model.save(reference, folder)
        loaded = tf.saved_model.load(folder)
        if float(loaded.answer(picture[tf.newaxis])) != 27.0:
            raise ValueError("a model of ours that is known to be good answers wrong here")


def main(saved_model: str, evaluation: str, *options: str) -> None:
    """Ask, and print what came of it."""
    if WITH_REFERENCE in options:
        _load_reference()
        print(json.dumps({REFERENCE: True}), flush=True)
    found: dict[str, str | list[str]]
    try:
        expected = samples.read(evaluation)
        if not expected:
            raise fresh.NotJudgedError("the evaluation kept no pictures to ask about")
        found = {WRONG: check.failures(saved_model, batches(expected), expected[0].computed_in)}
    except check.BrokenError as error:
        found = {BROKEN: str(error)}
    except fresh.NotJudgedError as error:
        found = {NOT_JUDGED: str(error)}
    except Exception as error:  # whatever it is, the model did not bring it about
        found = {NOT_JUDGED: " ".join(f"{type(error).__name__}: {error}".split())}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
