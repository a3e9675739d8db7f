"""How far the reading of pictures is: workers write it down, beside what they put aside, and the driver adds it up.

Beam's counters reach Flink when a task ends, and one task reads for hours.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator
from typing import NamedTuple

import tensorflow as tf
from tfx.dsl.io import fileio

from components.image_example_gen import inventory

_SECONDS = 1.0
"""Between two reports."""
_NO_FILE = (OSError, ValueError, tf.errors.OpError)
_log = logging.getLogger("finetune.components.image_example_gen")


class State(NamedTuple):
    """What has been read: rows of the inventory, and the pictures that were in them."""

    rows: int
    pictures: int


def place(aside: str) -> str:
    """Return the folder for reports.

    Args:
      aside: the folder where workers put examples aside.
    """
    return f"{aside}-progress"


class Meter:
    """A worker's report, by unit, so that one that is read again counts once.

    Args:
      folder: for the reports of all workers.
    """

    def __init__(self, folder: str):
        self._path = os.path.join(folder, uuid.uuid4().hex)
        self._units: dict[int, State] = {}
        self._last = -1
        self._told = time.monotonic()

    def add(self, unit: inventory.Unit, pictures: int) -> None:
        """Note that a unit was read.

        Args:
          unit: of the inventory.
          pictures: that were ready meanwhile.
        """
        self._units[unit.first] = State(unit.rows, pictures)
        self._last = unit.first
        if time.monotonic() - self._told >= _SECONDS:
            self._tell()

    def end(self, pictures: int) -> None:
        """Note that all units at hand were read.

        Args:
          pictures: that were ready since the last one.
        """
        if self._last in self._units:
            rows, before = self._units[self._last]
            self._units[self._last] = State(rows, before + pictures)
            self._tell()

    def _tell(self) -> None:
        # Nothing that goes wrong here may end the work.
        with contextlib.suppress(*_NO_FILE), fileio.open(self._path, "w") as file:
            file.write(json.dumps(self._units))
        self._told = time.monotonic()


def read(folder: str) -> State:
    """Add up the reports.

    Args:
      folder: for them.
    """
    units: dict[str, list[int]] = {}
    for path in fileio.glob(os.path.join(folder, "*")):
        with contextlib.suppress(*_NO_FILE), fileio.open(path, "r") as file:  # it may be half-written
            units |= json.loads(file.read())
    return State(sum(rows for rows, _ in units.values()), sum(pictures for _, pictures in units.values()))


@contextlib.contextmanager
def shown(folder: str, rows: int) -> Iterator[None]:
    """Log meanwhile, as what may be overwritten, how far the workers are.

    Args:
      folder: for their reports.
      rows: of the inventory.
    """
    ended = threading.Event()
    thread = threading.Thread(target=_show, args=(folder, rows, ended), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _show(folder: str, rows: int, ended: threading.Event) -> None:
    first: tuple[float, State] | None = None
    while not ended.wait(_SECONDS):
        now = time.monotonic()
        with contextlib.suppress(*_NO_FILE):
            state = read(folder)
            first = first or ((now, state) if state.rows else None)
            if first:
                _log.info("%s", in_words(state, first[1], now - first[0], rows), extra={"transient": True})


def in_words(state: State, before: State, seconds: float, rows: int) -> str:
    """Return how far the reading is, e.g. `12,000 pictures read, 850 a second, 9 s left`; the rest as long as it goes on.

    Args:
      state: now.
      before: some time ago.
      seconds: since then.
      rows: of the inventory.
    """
    read = f"{state.pictures:,} pictures read"
    if not before.rows < state.rows < rows:
        return read
    rate = (state.pictures - before.pictures) / seconds
    return f"{read}, {rate:,.0f} a second, {(rows - state.rows) * seconds / (state.rows - before.rows):,.0f} s left"
