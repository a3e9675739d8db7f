"""A child process that is given a time, and must not outlive its parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic

from configs import environment
from kubeflow.node_process import Answer, Request
from pipeline.exit_codes import MAY_PASS

_PROCESS = "kubeflow.node_process"
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
_SECONDS_TO_SAVE = 30.0


class Interrupted:
    """Whether this process was asked to end, and the child that is asked on."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None

    def __call__(self, signum: int, frame: Any) -> None:
        """Be told of a signal."""
        self._event.set()
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                self._child.send_signal(signal.SIGTERM)

    def __bool__(self) -> bool:
        return self._event.is_set()

    def sleep(self, seconds: float) -> None:
        """Wait, but not once this process was asked to end."""
        deadline = time.monotonic() + seconds
        while not self and time.monotonic() < deadline:
            time.sleep(min(0.2, max(0.0, deadline - time.monotonic())))

    @contextlib.contextmanager
    def passed_on_to(self, child: subprocess.Popen[bytes]) -> Iterator[None]:
        """Ask a child on while it runs."""
        self._child = child
        try:
            if self:
                child.send_signal(signal.SIGTERM)
            yield
        finally:
            self._child = None


def attempt(request: Request, seconds: float | None, interrupted: Interrupted, gpus: bool = True) -> Answer:
    """Run a node in a child process, and say how that ended, whatever became of it.

    Args:
      request: what is to be run.
      seconds: after which the child is ended; None sets no bound.
      interrupted: passes on that this process is to end.
      gpus: whether the child may see those that its container has.
    """
    variables = dict(os.environ)
    if not gpus:
        environment.hide_gpus(variables)
    with tempfile.TemporaryDirectory(prefix="finetune-") as folder:
        asked, answered = Path(folder, "request.json"), Path(folder, "answer.json")
        asked.touch(mode=0o600)
        asked.write_text(request.model_dump_json(), encoding="utf-8")
        command = [sys.executable, "-m", _PROCESS, str(asked), str(answered)]
        timed_out = False
        with (
            # In a session of its own: who ends a container signals all of its processes, and one signal is enough.
            subprocess.Popen(  # noqa: S603 a fixed command
                command,
                env=variables,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 no threads run here
            ) as child,
            interrupted.passed_on_to(child),
        ):
            try:
                child.wait(seconds)
            except subprocess.TimeoutExpired:
                timed_out = True
                _end(child)
            finally:
                _kill_group(child)
        with contextlib.suppress(OSError, pydantic.ValidationError):
            answer = Answer.model_validate_json(answered.read_text(encoding="utf-8"))
            if not timed_out:
                return answer
    if timed_out:
        state = f"{request.node} failed: it was ended after {seconds:.0f} s, all that its timeout_seconds left"
        return Answer(code=MAY_PASS, state=state)
    return Answer(code=MAY_PASS, state=f"{request.node} failed: {_died(child.returncode)}")


def _died(code: int) -> str:
    """How a process ended that could not say so itself."""
    if code == -signal.SIGKILL:
        return "its process was killed (SIGKILL): out of memory, if nobody did it; kubeflow.nodes gives more"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process ended with code {code} without a word"


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a child, after it had time to save its state."""
    child.terminate()
    try:
        child.wait(_SECONDS_TO_SAVE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    """Kill what a process has left behind, such as Beam's workers: they would work beside the next attempt."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def _die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies: two at one node would write over each other."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
