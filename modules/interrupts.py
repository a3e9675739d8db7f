"""Signals that ask this process to end: Ctrl-C, SIGTERM, and SIGHUP of a terminal that is closed."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from types import FrameType
from typing import Any, NoReturn

_FROM_OUTSIDE = (signal.SIGTERM, signal.SIGHUP)
_log = logging.getLogger(f"finetune.{__name__}")


def interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    """End the work at hand as Ctrl-C does; a handler of signals."""
    raise KeyboardInterrupt


def handle(handler: Callable[[int, FrameType | None], Any] | signal.Handlers = interrupt) -> None:
    """Have SIGTERM and SIGHUP handled.

    Args:
      handler: as `signal.signal` takes it.
    """
    for number in _FROM_OUTSIDE:
        # nohup lets a process outlive its terminal.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


@contextlib.contextmanager
def noted(told: str | None = None) -> Iterator[Callable[[], bool]]:
    """Let the signals be noted, to be acted on between two steps; a second one interrupts at once.

    Yields a function that says whether one came. Outside of a process's main thread, which gets no signals, none does.

    Args:
      told: what the first one brings about, logged as soon as it is heard; None logs nothing.

    Raises:
      KeyboardInterrupt: at the end, if one came and nobody acted on it.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, *_FROM_OUTSIDE)}
    before = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        _restore(before)

    for number in before:
        signal.signal(number, note)
    try:
        with contextlib.nullcontext() if told is None else _announced(before, told):
            yield lambda: bool(came)
    finally:
        _restore(before)
    if came:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _announced(numbers: Collection[signal.Signals], told: str) -> Iterator[None]:
    """Log the first of some signals from a thread, as Python's own handlers wait for the call into TensorFlow to return."""
    heard, rung = os.pipe()
    os.set_blocking(rung, False)
    fd_before = signal.set_wakeup_fd(rung, warn_on_full_buffer=False)
    thread = threading.Thread(target=_announce, args=(heard, numbers, told), name="interrupts", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(fd_before)
        os.close(rung)
        thread.join()
        os.close(heard)


def _announce(heard: int, numbers: Collection[signal.Signals], told: str) -> None:
    said = False
    # Nothing is read once the other end is closed.
    while received := os.read(heard, 64):
        for number in received:
            if number in numbers and not said:
                said = True
                _log.info("%s: %s", signal.Signals(number).name, told)


def _restore(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
