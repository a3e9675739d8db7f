"""Standard streams that end no work: they may be closed, full, of another encoding, or without a reader."""

from __future__ import annotations

import io
import os
import select
import sys
from typing import Any, TextIO


class OutputError(OSError):
    """Results that can't be written to the standard output."""


class _Stream(io.FileIO):
    """A descriptor that is written to as far as that goes.

    Args:
      descriptor: of the stream.
      strict: whether what can't be written raises an OutputError; else it is dropped.
      closefd: whether the descriptor is closed with this.
    """

    problem: OSError | None = None
    """Why something was dropped."""

    def __init__(self, descriptor: int, strict: bool, closefd: bool):
        super().__init__(descriptor, "w", closefd=closefd)
        self._strict = strict

    def write(self, data: Any) -> int:
        """Write some bytes, and say how many are dealt with."""
        try:
            while (written := super().write(data)) is None:
                # Whoever shares the descriptor has made it non-blocking.
                select.select([], [self], [])
        except OSError as error:
            if self._strict:
                raise OutputError(error.errno, error.strerror) from None
            self.problem = self.problem or error
            return len(memoryview(data).cast("B"))
        return written


def prepare() -> None:
    """Open the standard streams that are closed, and let what can't be written to them be dropped.

    A character that the encoding of a stream does not have is written as its number. Streams that someone has put in the
    place of the standard ones stay.
    """
    # A file that is opened later must not get the number of a standard stream.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 it stays open
    if sys.stdout is sys.__stdout__:
        sys.stdout = text(1, sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = text(2, sys.stderr)


def text(
    descriptor: int, like: TextIO | None, encoding: str | None = None, strict: bool = False, closefd: bool = False
) -> TextIO:
    """Return a text stream that writes to a descriptor.

    Args:
      descriptor: to write to.
      like: the stream whose encoding and buffering it has; None means UTF-8 and lines.
      encoding: in the place of that stream's.
      strict: whether what can't be written raises an OutputError; else it is dropped.
      closefd: whether the descriptor is closed with the stream.
    """
    return io.TextIOWrapper(
        io.BufferedWriter(_Stream(descriptor, strict, closefd)),
        encoding=encoding or getattr(like, "encoding", None) or "utf-8",
        errors="backslashreplace",
        line_buffering=getattr(like, "line_buffering", True),
        write_through=getattr(like, "write_through", False),
    )


def dropped() -> OSError | None:
    """Return why something of the standard output is lost; None if nothing is, or its reader left by himself."""
    sys.stdout.flush()
    problem = getattr(getattr(getattr(sys.stdout, "buffer", None), "raw", None), "problem", None)
    return None if isinstance(problem, BrokenPipeError) else problem
