"""TensorFlow Serving by REST."""

from __future__ import annotations

import base64
import functools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import requests
import urllib3

from modules import signatures
from serving.contract import ATTEMPTS, INPUTS, Answer, Options, ServingError, reading

_UNAVAILABLE = 503  # what a gateway in front of a server says where gRPC says UNAVAILABLE
_OF_ONE_BATCH = {400, 413}
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0  # seconds


class RestClient:
    """One model, or one of its versions.

    Args:
      url: `http://HOST:8501/v1/models/NAME`, without user and password.
      login: user and password, if the server wants them.
      options: how to speak to the server.
    """

    def __init__(self, url: str, login: tuple[str, str] | None, options: Options):
        self._url, self._options = url, options
        self._session = requests.Session()
        self._session.headers.update(options.metadata)
        self._session.auth = login
        if options.certificates is not None:
            self._session.verify = str(options.certificates)

    def status(self) -> dict[int, str]:
        """Return the state of each version."""
        answer = self._call("GET", "")
        with reading(self._url):
            return {int(status["version"]): status["state"] for status in answer["model_version_status"]}

    def signature_names(self) -> set[str]:
        """Return the signatures of the version that answers."""
        answer = self._call("GET", "/metadata")
        with reading(self._url):
            return set(answer["metadata"]["signature_def"]["signature_def"])

    def ask(self, values: Sequence[bytes], signature: str = signatures.SERVING_DEFAULT) -> Answer:
        """Return the answer to a batch."""
        instances = [{INPUTS[signature]: {"b64": base64.b64encode(value).decode()}} for value in values]
        answer = self._call("POST", ":predict", {"signature_name": signature, "instances": instances})
        with reading(self._url):
            rows = answer["predictions"]
            probabilities = np.array([row[signatures.PROBABILITIES] for row in rows], np.float32)
            return Answer(probabilities, [*rows[0][signatures.ALL_CLASSES]]).checked(len(values))

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request until it is answered, at most `ATTEMPTS` times, and never beyond the time that it has."""
        deadline = time.monotonic() + self._options.timeout
        pause = _FIRST_PAUSE
        for attempt in range(1, ATTEMPTS + 1):
            left = max(0.001, deadline - time.monotonic())
            send = functools.partial(self._session.request, method, self._url + path, json=body, timeout=left)
            try:
                answer = _within(left, send)
            except (requests.Timeout, TimeoutError):
                raise ServingError(f"{self._url}: no answer within {self._options.timeout:g} s", fatal=False) from None
            except requests.RequestException as error:
                failure, again = ServingError(f"{self._url}: {error}", fatal=True), _was_never_sent(error)
            else:
                if answer.ok:
                    return self._json(answer)
                failure, again = self._refusal(answer), answer.status_code == _UNAVAILABLE
                pause = max(pause, _asked_for(answer))
            if not again or attempt == ATTEMPTS or time.monotonic() + pause >= deadline:
                raise failure from None
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        raise AssertionError

    def _json(self, answer: requests.Response) -> Any:
        try:
            return answer.json()
        except requests.JSONDecodeError:
            raise ServingError(f"{self._url}: no JSON, but {answer.text[:200]!r}", fatal=True) from None

    def _refusal(self, answer: requests.Response) -> ServingError:
        try:
            message = answer.json().get("error", answer.reason)
        except (requests.JSONDecodeError, AttributeError):
            message = answer.text[:200] or answer.reason
        return ServingError(f"{self._url}: HTTP {answer.status_code}: {message}", answer.status_code not in _OF_ONE_BATCH)


def _within(seconds: float, call: Callable[[], requests.Response]) -> requests.Response:
    """Wait for an answer that long, also for one that comes drop by drop, or for a name that is being looked up."""
    found: list[Any] = []

    def work() -> None:
        try:
            found.append(call())
        except BaseException as error:  # raised again by who waits
            found.append(error)

    # It is left alone where it takes too long, and does not hold up the end of the process.
    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    worker.join(seconds)
    if not found:
        raise TimeoutError
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


def _was_never_sent(error: requests.RequestException) -> bool:
    """Whether no connection came about."""
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    return isinstance(reason, urllib3.exceptions.NewConnectionError)


def _asked_for(answer: requests.Response) -> float:
    """Seconds that a server wants to be left alone; 0 if it does not say so in a number."""
    asked = answer.headers.get("Retry-After", "")
    return float(asked) if asked.isdecimal() else 0.0
