"""Whether a version that was published has arrived: a server has loaded it, and answers."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from serving import client

_PAUSE_SECONDS = 1.0
_REQUEST_SECONDS = 30.0


class NotServedError(RuntimeError):
    """A version that a server does not serve, after it had time to load it."""


def wait(endpoint: str, number: int, seconds: float, picture: bytes, labels: Sequence[str]) -> None:
    """Wait until a server says that a version is available, then ask it one picture.

    Args:
      endpoint: as for `client.connect`, of the model.
      number: of the version.
      seconds: to wait at most.
      picture: encoded, as `modules.images.prepare` makes it.
      labels: that the version knows, in their order.

    Raises:
      NotServedError: it is not available by then, or answers with something else.
      ValueError: that is no endpoint.
    """
    model = endpoint.rstrip("/").removesuffix(":predict")
    server = client.connect(f"{model}/versions/{number}", client.Options(timeout=min(seconds, _REQUEST_SECONDS)))
    deadline = time.monotonic() + seconds
    while True:
        try:
            state = server.status().get(number, "unknown")
            if state == client.AVAILABLE:
                _check(server.ask([picture]), labels, f"version {number} at {client.shown(endpoint)}")
                return
            found = f"it is {state}"
        except client.ServingError as error:
            found = str(error)
        if time.monotonic() + _PAUSE_SECONDS >= deadline:
            where = f"version {number} is not served at {client.shown(endpoint)}"
            raise NotServedError(f"{where} after {seconds:g} s (serving.wait_seconds): {found}")
        time.sleep(_PAUSE_SECONDS)


def _check(answer: client.Answer, labels: Sequence[str], what: str) -> None:
    if answer.labels != list(labels):
        raise NotServedError(f"{what} answers with the labels {answer.labels}; published were {list(labels)}")
    if answer.probabilities.shape != (1, len(labels)) or not np.isfinite(answer.probabilities).all():
        raise NotServedError(f"{what} answers a picture with {answer.probabilities.tolist()}")
