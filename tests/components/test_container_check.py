"""TFX's InfraValidator, with a server that fails in every way that TFX knows."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from tfx.components.infra_validator import error_types
from tfx.components.infra_validator import executor as tfx_executor
from tfx.proto import infra_validator_pb2

from components.serving_check import container
from serving import fresh


class RpcError(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode):
        super().__init__()
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code


def raising(error: Exception, cause: Exception | None = None) -> Callable[..., None]:
    def fail(*_: Any, **__: Any) -> None:
        raise error from cause

    return fail


def validated(monkeypatch: pytest.MonkeyPatch, attempt: Callable[..., None]) -> bool:
    monkeypatch.setattr(tfx_executor.Executor, "_ValidateOnce", attempt)
    return container.Executor()._ValidateWithRetry(
        model_path="model",
        serving_binary=None,
        serving_spec=None,
        validation_spec=infra_validator_pb2.ValidationSpec(num_tries=2),
        requests=[],
    )


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (error_types.DeadlineExceeded("not loaded in time"), None),
        (error_types.JobAborted("container status=dead"), None),
        (ConnectionError("no Docker here"), None),
        (error_types.ValidationFailed("no answer"), RpcError(grpc.StatusCode.UNAVAILABLE)),
        (error_types.ValidationFailed("no answer"), RpcError(grpc.StatusCode.DEADLINE_EXCEEDED)),
    ],
)
def test_a_server_that_could_not_be_asked_is_no_verdict(
    error: Exception, cause: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(fresh.NotJudgedError, match=f"could not be asked: {type(error).__name__}: {error}"):
        validated(monkeypatch, raising(error, cause))


@pytest.mark.parametrize("cause", [None, RpcError(grpc.StatusCode.INVALID_ARGUMENT)])
def test_a_model_that_the_server_does_not_load_or_answer_from_is_refused(
    cause: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not validated(monkeypatch, raising(error_types.ValidationFailed("failed to load the model"), cause))
    assert validated(monkeypatch, lambda *_, **__: None)
