"""What may pass by itself, and what will not: by which a node is tried again, and its exit code."""

from __future__ import annotations

from collections.abc import Iterator

import ml_metadata as mlmd
import tensorflow as tf

from components.data_gate.executor import RefusedDataError
from modules.callbacks import TrainingError
from pipeline.exit_codes import MAY_PASS, REFUSED, WILL_NOT
from serving.versions import SupersededError

_LASTING = (
    TrainingError,
    SupersededError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ImportError,
    AssertionError,
    NotImplementedError,
    SyntaxError,
    FileNotFoundError,
    NotADirectoryError,
    IsADirectoryError,
    PermissionError,
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
    tf.errors.UnauthenticatedError,
    tf.errors.UnimplementedError,
    mlmd.errors.InvalidArgumentError,
    mlmd.errors.NotFoundError,
    mlmd.errors.PermissionDeniedError,
    mlmd.errors.UnauthenticatedError,
    mlmd.errors.UnimplementedError,
)


def exit_code(error: BaseException) -> int:
    """Return the exit code for what ended a node.

    Args:
      error: that was raised; what caused it counts as well. What nobody knows may pass: trying again costs time, and not
        trying again costs the night.
    """
    chain = list(_chain(error))
    if refusal(error) is not None:
        return REFUSED
    return WILL_NOT if isinstance(chain[-1], _LASTING) else MAY_PASS


def refusal(error: BaseException) -> RefusedDataError | None:
    """Return the gate's word on the data, where that ended a node; None if something else did.

    Args:
      error: that was raised; what caused it counts as well.
    """
    return next((one for one in _chain(error) if isinstance(one, RefusedDataError)), None)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__
