"""How long one picture takes through an exported model on one core of this machine.

  python -m components.model_evaluator.latency MODEL EVALUATION

prints `{"calls": [[WALL, CPU], …]}`, seconds each.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import time
from collections.abc import Sequence

import tensorflow as tf

from components.model_evaluator import samples
from modules import signatures
from serving import fresh

_CALLS = 50
_MOST_CALLS = 500
_ENOUGH = 25
_AGREEMENT = 0.2
_SECONDS = 60.0
"""In which further calls begin."""
_LONGEST_SECONDS = 900.0


def measure(saved_model: str, evaluation: str) -> float:
    """Return the median time of `serving_default` on one picture, in milliseconds, decoding included.

    It is taken in a fresh process on one core, without GPUs, so that an undisturbed call takes as much CPU time as time.

    Args:
      saved_model: folder of the exported model.
      evaluation: the artifact with samples of test pictures.

    Raises:
      fresh.NotJudgedError: the machine was busy with something else, or the model could not be asked.
    """
    ended = fresh.ask(__name__, saved_model, evaluation, seconds=_LONGEST_SECONDS)
    if "calls" not in ended.said:
        raise fresh.NotJudgedError(f"the latency could not be measured: {ended.fault}")
    return of_undisturbed(ended.said["calls"]) * 1000.0


def of_undisturbed(calls: Sequence[tuple[float, float]]) -> float:
    """Return the median time of the calls whose CPU time agrees with it within 20 %: the others waited for the machine.

    Args:
      calls: time and CPU time of each, in seconds.

    Raises:
      fresh.NotJudgedError: those are too few to count.
    """
    times = [wall for wall, cpu in calls if _agrees(wall, cpu)]
    if len(times) < _ENOUGH:
        raise fresh.NotJudgedError(
            f"the latency was not measured: the machine is busy; in {len(times)} of {len(calls)} calls CPU time agreed with"
            f" wall time within {_AGREEMENT:.0%}, and {_ENOUGH} are needed"
        )
    return statistics.median(times)


def _agrees(wall: float, cpu: float) -> bool:
    return abs(wall - cpu) <= _AGREEMENT * wall


def _time_calls(saved_model: str, pictures: Sequence[bytes]) -> list[tuple[float, float]]:
    """Time calls until enough were undisturbed, or time is up."""
    loaded = tf.saved_model.load(saved_model)
    serve = loaded.signatures[signatures.SERVING_DEFAULT]
    batches = [tf.constant([picture]) for picture in pictures]
    for batch in batches:  # the first call of a shape builds its kernels
        serve(image=batch)
    calls: list[tuple[float, float]] = []
    begun, undisturbed = time.perf_counter(), 0
    for batch in itertools.islice(itertools.cycle(batches), _MOST_CALLS):
        cpu, wall = time.process_time(), time.perf_counter()
        serve(image=batch)[signatures.SCORE].numpy()
        calls.append((time.perf_counter() - wall, time.process_time() - cpu))
        undisturbed += _agrees(*calls[-1])
        if undisturbed == _CALLS or (time.perf_counter() - begun > _SECONDS and len(calls) >= _ENOUGH):
            break
    return calls


def _use_one_core() -> None:
    """Let time and CPU time be the same thing: one thread, and nothing else to wait for."""
    tf.config.set_visible_devices([], "GPU")
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


if __name__ == "__main__":
    _use_one_core()
    kept = samples.read(sys.argv[2])
    print(json.dumps({"calls": _time_calls(sys.argv[1], [sample.image for sample in kept])}))
