"""Asks a question in a process that has seen nothing else, and tells an answer from none."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from typing import Any, NamedTuple

from configs import environment

_OWN_FAULTS = {signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGFPE}
"""Signals that a process brings upon itself; all others come from outside."""


class NotJudgedError(RuntimeError):
    """A model that could not be judged, and why in a line: no verdict, and worth another try."""


class Ended(NamedTuple):
    """How a process ended by itself."""

    said: dict[str, Any]
    """The JSON objects that it printed, a line each, as one."""
    fault: str
    """How it failed, in a line; empty if it did not."""


def ask(module: str, *arguments: str, seconds: float) -> Ended:
    """Run a module of this project in a fresh process, which sees no GPU.

    Args:
      module: its dotted name.
      *arguments: of its command line.
      seconds: that it may take.

    Raises:
      NotJudgedError: it took longer, or something outside ended it: what it would have said is not known.
    """
    command = [sys.executable, "-m", module, *arguments]
    variables = dict(os.environ)
    environment.hide_gpus(variables)
    try:
        done = subprocess.run(  # noqa: S603 a fixed command
            command,
            env=variables,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotJudgedError(f"no answer within {seconds:g} s from {module}") from None
    if done.returncode == -signal.SIGABRT and "bad_alloc" in done.stderr:
        raise NotJudgedError(f"{module} had no memory left")
    if done.returncode < 0 and -done.returncode not in _OWN_FAULTS:
        raise NotJudgedError(
            f"{module} was ended from outside by {_name(-done.returncode)}; SIGKILL is often lack of memory"
        )
    said: dict[str, Any] = {}
    for line in done.stdout.splitlines():
        # Libraries may print as well.
        with contextlib.suppress(json.JSONDecodeError, TypeError, ValueError):
            said |= json.loads(line)
    if not done.returncode:
        return Ended(said, "")
    how = f"exit code {done.returncode}" if done.returncode > 0 else _name(-done.returncode)
    last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    return Ended(said, f"{how}: {last}")


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
