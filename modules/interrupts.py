"""Signals that ask this process to end: Ctrl-C, SIGTERM, and SIGHUP of a terminal that is closed."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any, NoReturn

_FROM_OUTSIDE = (signal.SIGTERM, signal.SIGHUP)


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
def noted() -> Iterator[Callable[[], bool]]:
    """Let the signals be noted, to be acted on between two steps; a second one interrupts at once.

    Yields a function that says whether one came. Outside of a process's main thread, which gets no signals, none does.
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
        yield lambda: bool(came)
    finally:
        _restore(before)


def _restore(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
