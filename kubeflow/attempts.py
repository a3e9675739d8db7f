"""A child process that runs nodes, one after the other, is given a time for each, and must not outlive its parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pydantic

from configs import environment
from kubeflow.node_process import Answer, Request
from pipeline.exit_codes import MAY_PASS

_PROCESS = "kubeflow.node_process"
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
_SECONDS_TO_SAVE = 30.0
_SECONDS_TO_END = 10.0
_SECONDS_BETWEEN_LOOKS = 0.5


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


class Attempts:
    """Attempts at nodes, in one child process as long as they do well: TensorFlow is imported once.

    Args:
      interrupted: passes on that this process is to end.
      gpus: whether the child may see those that its container has.
    """

    def __init__(self, interrupted: Interrupted, gpus: bool = True):
        self._interrupted, self._gpus = interrupted, gpus
        self._child: _Child | None = None

    def __enter__(self) -> Attempts:
        return self

    def __exit__(self, *_: object) -> None:
        if self._child is not None:
            self._child.close()

    def attempt(self, request: Request, seconds: float | None) -> Answer:
        """Run a node, and say how that ended, whatever became of the child.

        Args:
          request: what is to be run.
          seconds: after which the child is ended; None sets no bound.
        """
        child, self._child = self._child or _Child(self._gpus), None
        deadline = None if seconds is None else time.monotonic() + seconds
        with self._interrupted.passed_on_to(child.process):
            child.ask(request)
            answer = child.answer(deadline)
            if answer is not None and not answer.code:
                self._child = child
                return answer
            timed_out = answer is None and child.process.poll() is None
            if timed_out:
                _end(child.process)
            code = child.close()
        if answer is not None:
            return answer
        late = f"it was ended after {seconds or 0:.0f} s, all that its timeout_seconds left"
        state = late if timed_out else _died(code)
        return Answer(code=MAY_PASS, state=f"{request.node} failed: {state}")


class _Child:
    """A process that runs a node for each request that it is sent, and answers it.

    Args:
      gpus: whether it may see those that its container has.
    """

    def __init__(self, gpus: bool):
        variables = dict(os.environ)
        if not gpus:
            environment.hide_gpus(variables)
        self._socket, its_own = socket.socketpair()
        with its_own:
            # In a session of its own: who ends a container signals all of its processes, and one signal is enough.
            self.process = subprocess.Popen(  # noqa: S603 a fixed command
                [sys.executable, "-m", _PROCESS, str(its_own.fileno())],
                env=variables,
                start_new_session=True,
                pass_fds=[its_own.fileno()],
                preexec_fn=_die_with_parent,  # noqa: PLW1509 no threads run here
            )

    def ask(self, request: Request) -> None:
        """Send a request; a child that is gone does not get it."""
        with contextlib.suppress(OSError):
            self._socket.settimeout(None)
            self._socket.sendall(request.model_dump_json().encode() + b"\n")

    def answer(self, deadline: float | None) -> Answer | None:
        """Return the answer; None if there is none by then, or there will be none."""
        received = b""
        while not received.endswith(b"\n"):
            if deadline is not None and time.monotonic() >= deadline:
                return None
            # What a process has started may hold its end of the line; what it said last is there when it is gone.
            gone = self.process.poll() is not None
            self._socket.settimeout(_until(deadline))
            try:
                more = self._socket.recv(1 << 16)
            except TimeoutError:
                if gone:
                    return None
                continue
            except OSError:
                more = b""
            if not more:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(_SECONDS_TO_END)
                return None
            received += more
        with contextlib.suppress(pydantic.ValidationError):
            return Answer.model_validate_json(received)
        return None

    def close(self) -> int:
        """End the process, which has nothing to do any more, and what it has started; return its exit code."""
        self._socket.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_SECONDS_TO_END)
        _kill_group(self.process)
        return self.process.wait()


def _until(deadline: float | None) -> float:
    """Seconds until the next look at a child."""
    left = _SECONDS_BETWEEN_LOOKS if deadline is None else deadline - time.monotonic()
    return max(0.001, min(_SECONDS_BETWEEN_LOOKS, left))


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
