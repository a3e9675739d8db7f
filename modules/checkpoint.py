"""The state of a training on disk: everything that the next run needs to go on as if nothing had happened."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

_FILE = "state.npz"
_KEPT = 2  # besides that of the training that goes on


@dataclasses.dataclass
class Position:
    """Where a training is; everything counts from 0.

    Attributes:
      phase: that is going on; the number of phases when all are done.
      epoch: of the phase.
      step: of the epoch.
      history: of each finished epoch of the phase, what was measured.
      over: whether the phase has no more epochs to come.
      best: highest value so far of what is watched, over all phases; lower-is-better values with their sign changed.
    """

    phase: int = 0
    epoch: int = 0
    step: int = 0
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    over: bool = False
    best: float | None = None


class Checkpoint:
    """A model's variables, its optimizer's, the best weights so far and the position, in one file.

    Args:
      folder: where it is kept; None keeps nothing.
    """

    def __init__(self, folder: Path | None):
        self._folder = folder

    def save(
        self,
        position: Position,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer | None,
        best: Sequence[np.ndarray] | None,
    ) -> None:
        """Write the state; a half-written one is never seen.

        Args:
          position: where the training is.
          model: that is fitted.
          optimizer: of the phase; None at the start of one.
          best: weights of the best epoch.
        """
        if self._folder is None:
            return
        arrays = {f"model {i}": variable.numpy() for i, variable in enumerate(model.variables)}
        if optimizer is not None:
            arrays |= {f"optimizer {i}": variable.numpy() for i, variable in enumerate(optimizer.variables)}
        arrays |= {f"best {i}": array for i, array in enumerate(best or ())}
        self._folder.mkdir(parents=True, exist_ok=True)
        unfinished = self._folder / f"unfinished-{_FILE}"
        with unfinished.open("wb") as opened:
            np.savez(opened, position=json.dumps(dataclasses.asdict(position)), **arrays)
        unfinished.replace(self._folder / _FILE)

    def position(self) -> Position:
        """Return where the training was; its start if nothing is kept."""
        if self._folder is None or not (self._folder / _FILE).exists():
            return Position()
        with np.load(self._folder / _FILE) as arrays:
            return Position(**json.loads(arrays["position"].item()))

    def restore(self, model: keras.Model, optimizer: keras.optimizers.Optimizer | None) -> list[np.ndarray] | None:
        """Put the variables back.

        Args:
          model: as it was when saved, but for its values.
          optimizer: likewise, built; its variables are left alone if none were saved. None has none.

        Returns:
          Weights of the best epoch; None if none had ended or nothing is kept.
        """
        if self._folder is None or not (self._folder / _FILE).exists():
            return None
        with np.load(self._folder / _FILE) as arrays:
            _assign(model.variables, arrays, "model")
            if optimizer is not None and "optimizer 0" in arrays:
                _assign(optimizer.variables, arrays, "optimizer")
            count = sum(name.startswith("best ") for name in arrays)
            return [arrays[f"best {i}"] for i in range(count)] or None


def state_bytes(model: keras.Model) -> int:
    """Return the most bytes that the state of a training has on disk: as it is, as it was before, and as it is written.

    Args:
      model: that is fitted; Adam has up to three values for each of its variables, and the best epoch's one.
    """
    return 3 * 5 * 4 * sum(math.prod(variable.shape) for variable in model.variables)


def prune(root: Path, keep: str) -> None:
    """Delete the checkpoints of other trainings but the few that were written last.

    Args:
      root: the folder of all checkpoints' folders.
      keep: name of the folder that stays in any case.
    """
    others = [folder for folder in root.glob("*") if folder.name != keep]
    for folder in sorted(others, key=lambda folder: folder.stat().st_mtime, reverse=True)[_KEPT:]:
        shutil.rmtree(folder)


def _assign(variables: Sequence[keras.Variable], arrays: Any, prefix: str) -> None:
    for i, variable in enumerate(variables):
        variable.assign(arrays[f"{prefix} {i}"])
