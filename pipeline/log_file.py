"""Keeps the terminal for results: sends all that libraries write to a file."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TextIO


class Terminal(NamedTuple):
    """What was standard output and standard error before."""

    out: TextIO
    err: TextIO


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
        os.fdopen(os.dup(1), "w", encoding="utf-8") as out,
        os.fdopen(os.dup(2), "w", encoding="utf-8") as err,
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
