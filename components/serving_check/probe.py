"""A fresh process that loads an exported model and asks it what a server would.

  python -m components.serving_check.probe MODEL EVALUATION

prints a JSON list of what is wrong, a line each; empty if nothing is.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from components.model_evaluator import samples
from modules import signatures

BATCH_SIZES = (1, 8)
_TOLERANCE = 1e-4  # kernels may differ by batch size


def failures(saved_model: str, expected: Sequence[samples.Sample]) -> Iterator[str]:
    """Say what is wrong with an exported model, a line each.

    Args:
      saved_model: its folder.
      expected: test examples, with what the Evaluator's model said of them.
    """
    try:
        served = tf.saved_model.load(saved_model).signatures
    except (OSError, ValueError, tf.errors.OpError) as error:
        yield f"the model can't be loaded: {' '.join(str(error).split())}"
        return
    if not expected:
        yield "the evaluation kept no samples to ask about"
        return
    for name, size in itertools.product((signatures.SERVING_DEFAULT, signatures.EXAMPLES), BATCH_SIZES):
        where = f"signature {name}, batch of {size}"
        if name not in served:
            yield f"signature {name} is missing; there are {sorted(served)}"
            continue
        batch = list(itertools.islice(itertools.cycle(expected), size))
        try:
            if name == signatures.EXAMPLES:
                answer = served[name](examples=tf.constant([sample.example for sample in batch]))
            else:
                answer = served[name](image=tf.constant([sample.image for sample in batch]))
        except (TypeError, ValueError, tf.errors.OpError) as error:
            yield f"{where}: {' '.join(str(error).split())}"
            continue
        for line in _wrong({key: value.numpy() for key, value in answer.items()}, batch):
            yield f"{where}: {line}"


def _wrong(answer: dict[str, Any], batch: Sequence[samples.Sample]) -> Iterator[str]:
    """What is wrong with the answer to a batch."""
    size, classes = len(batch), len(batch[0].probabilities)
    declared = {
        signatures.LABEL: ((size,), np.object_),
        signatures.SCORE: ((size,), np.float32),
        signatures.PROBABILITIES: ((size, classes), np.float32),
        signatures.ALL_CLASSES: ((size, classes), np.object_),
    }
    if answer.keys() != declared.keys():
        yield f"outputs are {sorted(answer)}, expected {sorted(declared)}"
        return
    found = {key: (value.shape, value.dtype.type) for key, value in answer.items()}
    if found != declared:
        yield from (f"{key} is {found[key]}, expected {declared[key]}" for key in declared if found[key] != declared[key])
        return
    probabilities = answer[signatures.PROBABILITIES]
    if not np.isfinite(probabilities).all():
        yield "probabilities are not finite"
        return
    if not np.allclose(probabilities.sum(axis=-1), 1.0, atol=1e-3):
        yield f"probabilities sum to {probabilities.sum(axis=-1).min():.4f}, not to 1"
    best = probabilities.argmax(axis=-1)
    if (answer[signatures.LABEL] != answer[signatures.ALL_CLASSES][np.arange(size), best]).any():
        yield "label is not the most probable class"
    if not np.allclose(answer[signatures.SCORE], probabilities.max(axis=-1), atol=1e-6):
        yield "score is not the highest probability"
    difference = float(np.abs(probabilities - np.stack([sample.probabilities for sample in batch])).max())
    if difference > _TOLERANCE:
        yield f"probabilities differ by {difference:.2g} from those that were judged"


if __name__ == "__main__":
    print(json.dumps(list(failures(sys.argv[1], samples.read(sys.argv[2])))))
