"""How long one picture takes through an exported model on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import tensorflow as tf

from modules import signatures

_CALLS = 50


def measure(saved_model: str, pictures: Sequence[bytes]) -> float:
    """Return the median time of `serving_default` on one picture, in milliseconds, decoding included.

    Args:
      saved_model: folder of the exported model.
      pictures: encoded; taken in turn.
    """
    loaded = tf.saved_model.load(saved_model)
    serve = loaded.signatures[signatures.SERVING_DEFAULT]
    batches = [tf.constant([picture]) for picture in pictures]
    for batch in batches:  # the first call of a shape builds its kernels
        serve(image=batch)
    times = []
    for call in range(_CALLS):
        started = time.perf_counter()
        serve(image=batches[call % len(batches)])[signatures.SCORE].numpy()
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1000.0
