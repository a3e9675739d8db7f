"""Training's progress, as log records of the logger `finetune.progress`.

Whoever runs the training decides what to do with them. A record with `transient=True` says where training is now and may be
overwritten by the next one; the others are results that are worth keeping.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import keras

logger = logging.getLogger("finetune.progress")


class ProgressLogger(keras.callbacks.Callback):
    """Logs where a phase is, and each epoch's result.

    Args:
      phase: name of the phase.
      epochs: most epochs it can have.
      steps: in an epoch.
      done: steps of the first epoch that an earlier run did.
    """

    def __init__(self, phase: str, epochs: int, steps: int, done: int = 0):
        super().__init__()
        self._phase, self._epochs, self._steps, self._done = phase, epochs, steps, done
        self._epoch = 0
        self._epoch_started = 0.0

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Note when the epoch began."""
        self._epoch = epoch + 1
        self._epoch_started = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Say where the epoch is, whenever a loss is told."""
        if logs:
            where = f"{self._phase} epoch {self._epoch}/{self._epochs}, step {self._done + batch + 1}/{self._steps}"
            logger.info("%s, loss %.4f", where, logs["loss"], extra={"transient": True})

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Say how the epoch ended."""
        self._done = 0
        values = logs or {}
        logger.info(
            "%s epoch %d/%d: loss %.4f, accuracy %.4f, eval loss %.4f, eval accuracy %.4f, %.0f s",
            *(self._phase, self._epoch, self._epochs, values["loss"], values["accuracy"]),
            *(values["val_loss"], values["val_accuracy"], time.monotonic() - self._epoch_started),
        )
