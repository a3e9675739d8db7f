"""TFX's InfraValidator, whose verdicts are answers alone."""

from __future__ import annotations

from typing import Any

import grpc
from tfx import components
from tfx.components.infra_validator import error_types
from tfx.components.infra_validator import executor as tfx_executor
from tfx.dsl.components.base import executor_spec

from serving import fresh

_OF_THE_MACHINE = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}


class Executor(tfx_executor.Executor):
    """Starts TensorFlow Serving with the model as TFX does, and fails where the server, and not the model, did.

    TFX takes a container that does not start, is lost or is too slow for a model that can't be served.
    """

    _last: Exception | None = None

    def _ValidateOnce(self, *args: Any, **kwargs: Any) -> None:  # noqa: N802 TFX's name
        try:
            super()._ValidateOnce(*args, **kwargs)
        except Exception as error:
            self._last = error
            raise

    def _ValidateWithRetry(self, *args: Any, **kwargs: Any) -> bool:  # noqa: N802
        passed = super()._ValidateWithRetry(*args, **kwargs)
        if not passed and not _is_answer(self._last):
            raise fresh.NotJudgedError(
                f"TensorFlow Serving could not be asked: {type(self._last).__name__}: {' '.join(str(self._last).split())}"
            )
        return passed


def _is_answer(error: Exception | None) -> bool:
    """Whether a failure says something of the model."""
    if not isinstance(error, error_types.ValidationFailed):
        return False
    cause = error.__cause__
    return not (isinstance(cause, grpc.RpcError) and cause.code() in _OF_THE_MACHINE)


class InfraValidator(components.InfraValidator):
    """TFX's component with our executor."""

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)
