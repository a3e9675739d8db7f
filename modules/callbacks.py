"""What happens between the steps and epochs of a training."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from modules import checkpoint

_SECONDS_BETWEEN_SAVES = 600.0


class TrainingError(RuntimeError):
    """A training that can't go on; the message says what to try."""


class BestWeights(keras.callbacks.Callback):
    """Keeps the weights of the best epoch, over all the phases it is used in, as they were when it was evaluated.

    Args:
      monitor: `loss` (lower is better) or `accuracy` (higher is better), of the eval split.
    """

    def __init__(self, monitor: str):
        super().__init__()
        self._monitor = monitor
        self._sign = 1.0 if monitor == "accuracy" else -1.0
        self.value: float | None = None
        self.weights: list[np.ndarray] | None = None

    def on_test_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Keep the weights if this epoch is the best so far."""
        value = self._sign * float((logs or {})[self._monitor])
        if self.value is None or value > self.value:
            self.value, self.weights = value, self.model.get_weights()

    def put_back(self, model: keras.Model) -> None:
        """Give a model the best weights."""
        if self.weights is not None:
            model.set_weights(self.weights)


class EarlyStopping(keras.callbacks.EarlyStopping):
    """Keras's, which goes on where an interrupted training was.

    Args:
      history: what was measured in the epochs before.
      options: as Keras's.
    """

    def __init__(self, history: Sequence[Mapping[str, float]], **options: Any):
        super().__init__(**options)
        self._before = list(history)

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Live through the earlier epochs again."""
        super().on_train_begin(logs)
        for epoch, measured in enumerate(self._before):
            self.on_epoch_end(epoch, dict(measured))


class StopAfterSteps(keras.callbacks.Callback):
    """Ends training after a number of steps.

    Args:
      steps: how many.
    """

    def __init__(self, steps: int):
        super().__init__()
        self._left = steps

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Count the step."""
        self._left -= 1
        if self._left <= 0:
            self.model.stop_training = True


class StopOnNaN(keras.callbacks.Callback):
    """Ends training with an error as soon as the loss is no number.

    Args:
      where: of the training, for the message.
    """

    def __init__(self, where: str):
        super().__init__()
        self._where, self._epoch = where, 0

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Note the epoch."""
        self._epoch = epoch + 1

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Look at the loss."""
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            raise TrainingError(
                f"the loss is no longer finite in phase {self._where}, epoch {self._epoch}, step {batch + 1}: try lower"
                " learning_rates, warmup_epochs: 1, training.optimizer.clip_norm=1, or training.precision=float32"
            )


class SaveState(keras.callbacks.Callback):
    """Saves the state after each epoch, now and then during a long one, and when the process is asked to end.

    Must be the last callback, so that the state holds what the others did.

    Args:
      saved: where to.
      position: where the training is.
      steps: in a whole epoch.
      epochs: of the phase.
      best: its weights are saved too.
      interrupted: says whether the process was asked to end.
    """

    def __init__(
        self,
        saved: checkpoint.Checkpoint,
        position: checkpoint.Position,
        steps: int,
        epochs: int,
        best: BestWeights,
        interrupted: Callable[[], bool],
    ):
        super().__init__()
        self._saved, self._steps, self._epochs, self._best = saved, steps, epochs, best
        self._interrupted = interrupted
        self._position = dataclasses.replace(position)
        self._saved_at = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Move on by a step."""
        self._position.step += 1
        if self._position.step >= self._steps:
            return  # the end of the epoch saves, evaluated
        if self._interrupted() or time.monotonic() - self._saved_at > _SECONDS_BETWEEN_SAVES:
            self._save()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Move on by an epoch."""
        measured = {name: float(value) for name, value in (logs or {}).items()}
        self._position = dataclasses.replace(
            self._position,
            epoch=epoch + 1,
            step=0,
            history=[*self._position.history, measured],
            over=self.model.stop_training or epoch + 1 >= self._epochs,
        )
        self._save()

    def _save(self) -> None:
        self._position.best = self._best.value
        self._saved.save(self._position, self.model, self.model.optimizer, self._best.weights)
        self._saved_at = time.monotonic()
        if self._interrupted():
            raise KeyboardInterrupt
