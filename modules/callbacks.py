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

_SECONDS_BETWEEN_LOOKS = 0.5


class TrainingError(RuntimeError):
    """A training that can't go on; the message says what to try."""


class CallbackList(keras.callbacks.CallbackList):
    """Keras's, which tells what a step measured now and then: to tell it is to wait for the device.

    It is told at the first step of an epoch and the last two, twice a second between them, and when the process is asked to
    end: so no state is kept whose loss nobody has looked at.

    Args:
      callbacks: those that are called.
      interrupted: says whether the process was asked to end.
      options: as Keras's.
    """

    def __init__(self, callbacks: Sequence[keras.callbacks.Callback], interrupted: Callable[[], bool], **options: Any):
        super().__init__(list(callbacks), add_history=True, **options)
        self._interrupted = interrupted
        self._told = 0.0

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Call all, with what was measured if it is time for that."""
        is_at_an_end = batch == 0 or batch + 2 >= self.params["steps"]
        if is_at_an_end or self._interrupted() or time.monotonic() - self._told >= _SECONDS_BETWEEN_LOOKS:
            super().on_train_batch_end(batch, logs)
            self._told = time.monotonic()
        else:
            super().on_train_batch_end(batch)

    def on_test_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Call all; what a part of the eval split measures is of no interest."""
        super().on_test_batch_end(batch)


class BestWeights(keras.callbacks.Callback):
    """Keeps the weights of the best epoch, over all the phases it is used in, as they were when it was evaluated.

    Args:
      whole: the model whose weights are kept; what is fitted shares its layers, and may be less of it.
      monitor: `loss` (lower is better) or `accuracy` (higher is better), of the eval split.
    """

    def __init__(self, whole: keras.Model, monitor: str):
        super().__init__()
        self._whole, self._monitor = whole, monitor
        self._sign = 1.0 if monitor == "accuracy" else -1.0
        self.value: float | None = None
        self.weights: list[np.ndarray] | None = None

    def on_test_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Keep the weights if this epoch is the best so far; what is no number never is."""
        value = self._sign * float((logs or {})[self._monitor])
        if not math.isnan(value) and (self.value is None or value > self.value):
            self.value, self.weights = value, self._whole.get_weights()

    def put_back(self) -> None:
        """Give the model the best weights."""
        if self.weights is not None:
            self._whole.set_weights(self.weights)


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
    """Ends training with an error when the loss turns out to be no number, in training or in evaluation.

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
        """Look at the loss, the mean of the epoch's so far."""
        self._check(logs, "loss", f"by step {batch + 1}")

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Look at the loss of all of the epoch's steps."""
        self._check(logs, "loss", "at its end")

    def on_test_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Look at the eval split's loss: weights that can't be evaluated are no result, and make none."""
        self._check(logs, "eval loss", "at its end")

    def _check(self, logs: Mapping[str, Any] | None, what: str, where: str) -> None:
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            raise TrainingError(
                f"the {what} is no longer finite in phase {self._where}, epoch {self._epoch}, {where}: try lower"
                " learning_rates, warmup_epochs: 1, training.optimizer.clip_norm=1, or training.precision=float32"
            )


class SaveState(keras.callbacks.Callback):
    """Saves the state after each epoch, now and then during a long one, and when the process is asked to end.

    It is copied between two steps and written in the background. Must be the last callback, so that it holds what the others
    did.

    Args:
      saved: where to.
      whole: the model whose state it is; what is fitted shares its layers, and may be less of it.
      position: where the training is.
      steps: in a whole epoch.
      epochs: of the phase.
      max_steps: of the phase; None is as many as its epochs have.
      seconds: after which a long epoch's state is saved again.
      best: its weights are saved too.
      interrupted: says whether the process was asked to end.
    """

    def __init__(
        self,
        saved: checkpoint.Checkpoint,
        whole: keras.Model,
        position: checkpoint.Position,
        steps: int,
        epochs: int,
        max_steps: int | None,
        seconds: float,
        best: BestWeights,
        interrupted: Callable[[], bool],
    ):
        super().__init__()
        self._saved, self._whole, self._steps, self._epochs = saved, whole, steps, epochs
        self._max_steps = max_steps or steps * epochs
        self._seconds = seconds
        self._best, self._interrupted = best, interrupted
        self._position = dataclasses.replace(position)
        self._saved_at = time.monotonic()
        self._before_last_step: checkpoint.State | None = None
        self.ended: checkpoint.State | None = None
        """After an epoch's end and before the next one's start: the state, which what ends a fit may change."""

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Begin where the training is."""
        self._between_steps(due=False)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Let go of what is not needed any more."""
        self.ended = None

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Move on by a step."""
        self._position.step += 1
        if self._to_come:  # the end of the epoch saves, evaluated
            self._between_steps(due=bool(logs) and time.monotonic() - self._saved_at > self._seconds)

    def on_test_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """End an evaluation if asked to: the next run does the epoch's last step again, and then evaluates."""
        if self._interrupted():
            if self._before_last_step is not None:
                self._saved.save(self._before_last_step)
            raise KeyboardInterrupt

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
        self._before_last_step, self.ended = None, self._state()
        self._between_steps(due=True)

    def _between_steps(self, due: bool) -> None:
        """Save the state if that is due and no earlier one is being written; keep it before an epoch's last step."""
        interrupted, last = self._interrupted(), self._to_come == 1
        due = due and not self._saved.busy
        if not (interrupted or last or due):
            return
        state = self.ended or self._state()
        if interrupted:
            self._saved.save(state)
            raise KeyboardInterrupt
        if due:
            self._saved.begin(state)
            self._saved_at = time.monotonic()
        if last:
            self._before_last_step = state

    @property
    def _to_come(self) -> int:
        """Steps that the epoch still has."""
        past = self._position.epoch * self._steps + self._position.step
        return min(self._steps - self._position.step, self._max_steps - past)

    def _state(self) -> checkpoint.State:
        position = dataclasses.replace(self._position, best=self._best.value)
        return checkpoint.State.of(position, self._whole, self.model.optimizer, self._best.weights)
