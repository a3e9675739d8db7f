"""What can be asked of a model that is served, here or elsewhere, and what comes back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from google.protobuf import message

from modules import signatures

AVAILABLE = "AVAILABLE"
"""State of a version that answers."""

ATTEMPTS = 5
"""How often a request is sent to a server that is unavailable."""

INPUTS = {signatures.SERVING_DEFAULT: "image", signatures.EXAMPLES: "examples"}
"""Name of the one input of each signature."""


class ServingError(RuntimeError):
    """An answer that is none.

    Attributes:
      fatal: whether every other request would fare the same, as when there is no server or no such model.
    """

    def __init__(self, message: str, fatal: bool):
        super().__init__(message)
        self.fatal = fatal


@contextlib.contextmanager
def reading(where: str) -> Iterator[None]:
    """Read an answer; one of another form ends in `ServingError`.

    Args:
      where: the server.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, message.Error) as error:
        found = f"{type(error).__name__}: {error}"
        raise ServingError(f"{where}: not what TensorFlow Serving answers ({found})", fatal=True) from None


class Options(NamedTuple):
    """How a server is spoken to."""

    timeout: float = 30.0
    """Seconds for a request, all attempts together."""
    metadata: Mapping[str, str] = {}
    """Sent along with each request, e.g. `authorization`."""
    certificates: Path | None = None
    """PEM file with the authorities that may vouch for the server; None takes the system's."""
    max_message_bytes: int = 256 * 2**20
    """Of a request and of an answer by gRPC."""


class Answer(NamedTuple):
    """What a model says of a batch."""

    probabilities: np.ndarray
    """float32 `[batch, n]`."""
    labels: list[str]
    """`n`, in the order of the probabilities."""

    def checked(self, asked: int) -> Answer:
        """Return this, if it is an answer to so many values.

        Raises:
          ValueError: it is not.
        """
        if self.probabilities.shape != (asked, len(self.labels)):
            raise ValueError(f"probabilities {self.probabilities.shape} for {asked} values, {len(self.labels)} labels")
        return self

    def ranked(self) -> list[dict[str, float]]:
        """Return for each picture its labels with their probabilities, most probable first."""
        return [
            {self.labels[index]: float(row[index]) for index in np.argsort(-row, kind="stable")}
            for row in self.probabilities
        ]


class Client(Protocol):
    """One model at a server."""

    def status(self) -> dict[int, str]:
        """Return the state of each version, e.g. `AVAILABLE`."""

    def signature_names(self) -> set[str]:
        """Return the signatures of the version that answers."""

    def ask(self, values: Sequence[bytes], signature: str = signatures.SERVING_DEFAULT) -> Answer:
        """Return the answer to a batch.

        Args:
          values: encoded pictures, or serialised tf.Examples for the signature `examples`.
          signature: of the model.

        Raises:
          ServingError: the server can't be reached, or refuses.
        """
