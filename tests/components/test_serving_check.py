import types

import pytest

from components.serving_check import executor


def test_the_process_that_loads_the_model_sees_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(executor, "probe", types.SimpleNamespace(__name__="tests.components.says_gpus"))
    assert executor._ask("model", "evaluation") == ["-1"]
