"""The state of a training on disk: everything that the next run needs to go on as if nothing had happened."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import re
import shutil
from collections.abc import Iterator, Sequence
from concurrent import futures
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

import keras
import numpy as np

from modules import durable, progress

_NAME = "state-{:06d}.npz"
_STATES = 2  # of a training: the newest and, should that be damaged, the one before
_TRAININGS = 2  # besides the one that goes on
_HEAD = "head"


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


class State(NamedTuple):
    """A training between two steps: a copy that shares nothing with what goes on changing."""

    position: Position
    arrays: dict[str, np.ndarray]
    """A model's variables, its optimizer's and the best weights so far, each named and numbered."""

    @classmethod
    def of(
        cls,
        position: Position,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer | None,
        best: Sequence[np.ndarray] | None,
    ) -> State:
        """Copy a training's state.

        Args:
          position: where the training is.
          model: all that some phase fits.
          optimizer: of the phase; None between two phases.
          best: weights of the best epoch; never changed in place.
        """
        arrays = {f"model {i}": variable.numpy() for i, variable in enumerate(model.variables)}
        if optimizer is not None:
            arrays |= {f"optimizer {i}": variable.numpy() for i, variable in enumerate(optimizer.variables)}
        return cls(dataclasses.replace(position), arrays | {f"best {i}": array for i, array in enumerate(best or ())})

    def put_back(self, model: keras.Model, optimizer: keras.optimizers.Optimizer | None) -> list[np.ndarray] | None:
        """Give a model and an optimizer their values.

        Args:
          model: as it was, but for its values.
          optimizer: likewise, built; its variables are left alone if the state has none. None has none.

        Returns:
          Weights of the best epoch; None if none had ended.
        """
        self._assign(model.variables, "model")
        if optimizer is not None and "optimizer 0" in self.arrays:
            self._assign(optimizer.variables, "optimizer")
        count = sum(name.startswith("best ") for name in self.arrays)
        return [self.arrays[f"best {i}"] for i in range(count)] or None

    def _assign(self, variables: Sequence[keras.Variable], prefix: str) -> None:
        for i, variable in enumerate(variables):
            variable.assign(self.arrays[f"{prefix} {i}"])

    def write(self, opened: BinaryIO) -> None:
        """Write it to a file that is open for binary writing."""
        head = {"position": dataclasses.asdict(self.position), "arrays": len(self.arrays)}
        named: dict[str, Any] = {_HEAD: json.dumps(head), **self.arrays}
        np.savez(opened, **named)

    @classmethod
    def read(cls, path: Path) -> State:
        """Read what `write` has written.

        Raises:
          Exception: of any kind, as damage is; ValueError if something is missing.
        """
        # The checksums of the archive are compared while its arrays are read.
        with np.load(path) as archive:
            arrays = dict(archive)
        head = json.loads(arrays.pop(_HEAD).item())
        if len(arrays) != head["arrays"]:
            raise ValueError(f"{len(arrays)} arrays of {head['arrays']}")
        return cls(Position(**head["position"]), arrays)


class Checkpoint:
    """Keeps the state of one training: the newest and the one before, each in a file of its own.

    As a context manager it ends with the last file written, unless an exception ends it.

    Args:
      folder: where they are kept; None keeps nothing.
    """

    def __init__(self, folder: Path | None):
        self._folder = folder
        self._whole: list[int] = []
        self._writer = futures.ThreadPoolExecutor(1, "checkpoint")
        self._writing: futures.Future[None] | None = None

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self._wait()
        self._writer.shutdown(wait=kind is None)

    def newest(self) -> State | None:
        """Return the newest state that is whole; None if there is none. What is damaged is named in a warning."""
        if self._folder is None:
            return None
        durable.sweep(self._folder)
        for number in sorted(self._numbers(), reverse=True):
            path = self._path(number)
            try:
                state = State.read(path)
            except Exception as error:  # damage raises any kind
                reason = " ".join(str(error).split()) or type(error).__name__
                progress.logger.warning("%s: the state of training is damaged and not used (%s)", path, reason)
            else:
                self._whole = [number]
                return state
        if any(self._numbers()):
            progress.logger.warning("%s: no state of training is whole, so it begins anew", self._folder)
        return None

    @property
    def busy(self) -> bool:
        """Whether a state is being written."""
        return self._writing is not None and not self._writing.done()

    def begin(self, state: State) -> None:
        """Write a state in the background; wait first for one that is being written.

        Args:
          state: is not looked at before this returns.

        Raises:
          Exception: an earlier one could not be written for another reason than the file system's, which is a warning.
        """
        self._wait()
        self._writing = self._writer.submit(self._write, state)

    def save(self, state: State) -> None:
        """Write a state and wait until it is on the disk.

        Args:
          state: is written.

        Raises:
          Exception: as for `begin`.
        """
        self.begin(state)
        self._wait()

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()

    def _write(self, state: State) -> None:
        if self._folder is None:
            return
        try:
            durable.make_folder(self._folder)
            number = max(self._numbers(), default=0) + 1
            durable.replace(self._path(number), state.write)
            self._whole = [*self._whole, number][-_STATES:]
            for old in set(self._numbers()) - set(self._whole):
                self._path(old).unlink(missing_ok=True)
        except OSError as error:
            # Hours of training are worth more than the way back to them.
            progress.logger.warning("the state of training can't be saved, and training goes on without: %s", error)

    def _numbers(self) -> Iterator[int]:
        assert self._folder is not None
        for path in self._folder.glob("state-*.npz"):
            if found := re.fullmatch(r"state-(\d+)\.npz", path.name):
                yield int(found[1])

    def _path(self, number: int) -> Path:
        assert self._folder is not None
        return self._folder / _NAME.format(number)


def state_bytes(model: keras.Model) -> int:
    """Return the most bytes that the state of a training has on disk: as it is, as it was before, and as it is written.

    Args:
      model: all that some phase fits; Adam has up to three values for each of its variables, and the best epoch's one.
    """
    return 3 * 5 * 4 * sum(math.prod(variable.shape) for variable in model.variables)


def prune(root: Path, keep: str) -> None:
    """Delete what other trainings left, checkpoints or folds, but for the few that were written last.

    Args:
      root: the folder of all trainings' folders.
      keep: name of the folder that stays in any case.
    """
    ages: dict[Path, float] = {}
    for folder in root.glob("*"):
        # Other runs may prune at the same time.
        with contextlib.suppress(FileNotFoundError):
            if folder.name != keep:
                ages[folder] = folder.stat().st_mtime
    for folder in sorted(ages, key=lambda folder: ages[folder], reverse=True)[_TRAININGS:]:
        shutil.rmtree(folder, ignore_errors=True)
