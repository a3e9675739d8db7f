import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from components.model_evaluator import latency
from pipeline import exit_codes, failures
from serving import fresh
from tests.components.test_serving_check import child, write_evaluation, write_model


def calls(undisturbed: int, disturbed: int) -> list[tuple[float, float]]:
    """Times and CPU times; who was disturbed took longer, or was helped by a thread that did something else."""
    return [(0.010, 0.009), (0.010, 0.0118)] * (undisturbed // 2) + [(0.030, 0.010), (0.010, 0.030)] * (disturbed // 2)


def test_the_latency_is_that_of_the_calls_that_were_not_disturbed() -> None:
    assert latency.of_undisturbed(calls(26, 400)) == 0.010


@pytest.mark.parametrize(("undisturbed", "disturbed"), [(24, 476), (0, 50), (0, 0)])
def test_a_busy_machine_measures_nothing(undisturbed: int, disturbed: int) -> None:
    with pytest.raises(fresh.NotJudgedError, match=f"in {undisturbed} of {undisturbed + disturbed} calls") as raised:
        latency.of_undisturbed(calls(undisturbed, disturbed))
    assert failures.exit_code(raised.value) == exit_codes.MAY_PASS


def test_time_and_cpu_time_agree_within_a_fifth_of_the_time() -> None:
    assert [latency._agrees(1.0, cpu) for cpu in (0.79, 0.81, 1.19, 1.21)] == [False, True, True, False]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["echo 'no room' >&2", "exit 1"], "could not be measured: exit code 1: no room"),
        (["kill -KILL $$"], "SIGKILL"),
        ([f"echo '{json.dumps({'calls': calls(10, 10)})}'"], "the machine is busy"),
    ],
)
def test_a_process_that_can_not_measure_is_no_verdict(
    lines: Sequence[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child(tmp_path, monkeypatch, *lines)
    with pytest.raises(fresh.NotJudgedError, match=said):
        latency.measure("model", "evaluation")


def test_every_call_of_a_real_model_is_timed_in_a_process_of_its_own(tmp_path: Path) -> None:
    saved_model = write_model(tmp_path / "model")
    ended = fresh.ask(latency.__name__, str(saved_model), str(write_evaluation(tmp_path / "evaluation")), seconds=600)
    assert not ended.fault
    assert 50 <= len(ended.said["calls"]) <= 500
    assert all(wall > 0 and cpu > 0 for wall, cpu in ended.said["calls"])
