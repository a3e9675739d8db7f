"""Keeps the terminal for results: sends all that libraries write to a file."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

from pipeline import streams


class Terminal(NamedTuple):
    """What was standard output and standard error before."""

    out: TextIO
    """In UTF-8, as JSON is; what can't be written raises a `streams.OutputError`."""
    err: TextIO
    """What can't be written is dropped."""


@contextlib.contextmanager
def capture_output(path: str | Path = os.devnull) -> Iterator[Terminal]:
    """Send standard output and standard error to a file, also what C++ libraries and child processes write.

    Args:
      path: is appended to; its folder is made.

    Yields:
      The terminal, for results and progress.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(descriptor) for descriptor in (1, 2)]
    with (
        open(path, "ab") as file,
        streams.text(os.dup(1), sys.stdout, encoding="utf-8", strict=True, closefd=True) as out,
        streams.text(os.dup(2), sys.stderr, closefd=True) as err,
    ):
        try:
            for descriptor in (1, 2):
                os.dup2(file.fileno(), descriptor)
            yield Terminal(out, err)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, original in zip((1, 2), kept, strict=True):
                os.dup2(original, descriptor)
                os.close(original)
