"""How often a node is tried, by what ended it; against processes that misbehave for real."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import ml_metadata as mlmd
import pytest
import tensorflow as tf
from click.testing import CliRunner

from components.data_gate.executor import RefusedDataError
from configs import schema
from kubeflow import attempts, node_entrypoint, tasks
from kubeflow.node_process import Answer, Request
from modules.callbacks import TrainingError
from modules.weights import WeightsError, WeightsFileError
from pipeline import failures
from pipeline.node import NodeError


@pytest.fixture(autouse=True)
def unruly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "_PROCESS", "tests.kubeflow.unruly")
    monkeypatch.setattr(attempts, "_SECONDS_TO_SAVE", 0.3)


def request(how: str, node: str = "Trainer") -> Request:
    return Request(node=node, run="17", config=how, task={}, uncached=[], metadata=None)


def attempt(asked: Request, seconds: float | None = None) -> Answer:
    with attempts.Attempts(attempts.Interrupted()) as tries:
        return tries.attempt(asked, seconds)


def alive(process: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, 0)
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2]
    return False


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        ("answer 0 done", 0, "done"),
        ("answer 3 the data are refused", 3, "the data are refused"),
        ("signal SIGKILL", 1, "Trainer failed: its process was killed (SIGKILL): out of memory, if nobody did it"),
        ("signal SIGSEGV", 1, "Trainer failed: its process was ended by SIGSEGV"),
        ("exit 5", 1, "Trainer failed: its process ended with code 5 without a word"),
        ("half", 1, "Trainer failed: its process ended with code 0 without a word"),
    ],
)
def test_however_a_process_ends_there_is_an_answer(how: str, code: int, said: str) -> None:
    answer = attempt(request(how))
    assert answer.code == code
    assert answer.state.startswith(said)


@pytest.mark.parametrize("node", ["Trainer", "Stubborn"])
def test_a_process_that_takes_too_long_is_ended(node: str, tmp_path: Path) -> None:
    answer = attempt(request(f"sleep {tmp_path}/pid", node), 6.0)
    assert answer.code == 1
    assert answer.state == f"{node} failed: it was ended after 6 s, all that its timeout_seconds left"
    assert not alive(int((tmp_path / "pid").read_text()))


def test_a_process_dies_with_its_parent(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    code = (
        "from kubeflow import attempts, node_process;"
        "attempts._PROCESS = 'tests.kubeflow.unruly';"
        f"request = node_process.Request(node='N', run='1', config='sleep {pid}', task={{}}, uncached=[], metadata=None);"
        "attempts.Attempts(attempts.Interrupted()).attempt(request, None)"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        while not pid.exists() or not pid.read_text():
            time.sleep(0.05)
        child = int(pid.read_text())
        assert alive(child)
        parent.kill()
    deadline = time.monotonic() + 10
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child)


def supervised(
    monkeypatch: pytest.MonkeyPatch, answers: list[int], **settings: object
) -> tuple[int, list[str], list[float]]:
    """Let attempts end with these exit codes; return the last, the reasons that were written down, and the pauses."""
    left, pauses = list(answers), []

    interrupted = attempts.Interrupted()

    def attempt(self: attempts.Attempts, asked: Request, seconds: float | None) -> Answer:
        code = left.pop(0)
        if code == -1:
            interrupted(signal.SIGTERM, None)
        return Answer(code=abs(code), state=f"{len(answers) - len(left)}")

    monkeypatch.setattr(attempts.Attempts, "attempt", attempt)
    monkeypatch.setattr(attempts.Interrupted, "sleep", lambda self, seconds: pauses.append(seconds))
    written: list[str] = []
    monkeypatch.setattr(node_entrypoint, "_note_failure", lambda asked, answer, seconds: written.append(answer.state))
    task = schema.Task.model_validate(settings)
    answer = node_entrypoint._supervise(request("-"), task, attempts.Attempts(interrupted), interrupted)
    assert not left
    return answer.code, written, pauses


def test_what_may_pass_is_tried_again_after_the_configured_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert supervised(monkeypatch, [1, 1, 0], retries=3, retry_seconds=30) == (0, ["1", "2"], [30, 60])
    assert supervised(monkeypatch, [1, 1, 1], retries=2, retry_seconds=3000) == (1, ["1", "2", "3"], [3000, 3600])


@pytest.mark.parametrize("code", [2, 3])
def test_what_will_not_pass_is_not_tried_again(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert supervised(monkeypatch, [1, code], retries=5, retry_seconds=1) == (code, ["1", "2"], [1])


def test_the_node_s_time_bounds_all_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert supervised(monkeypatch, [1], retries=5, retry_seconds=60, timeout_seconds=60) == (1, ["1"], [])


def test_a_pod_that_is_to_end_tries_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert supervised(monkeypatch, [-1], retries=5, retry_seconds=1) == (1, ["1"], [])


def test_who_ends_a_container_signals_all_its_processes_and_the_node_s_gets_one_signal(tmp_path: Path) -> None:
    code = (
        "import signal; from kubeflow import attempts, node_process;"
        "attempts._PROCESS = 'tests.kubeflow.unruly';"
        "interrupted = attempts.Interrupted(); signal.signal(signal.SIGTERM, interrupted);"
        f"request = node_process.Request(node='Counting', run='1', config='count {tmp_path}/count', task={{}}, uncached=[],"
        " metadata=None);"
        "attempts.Attempts(interrupted).attempt(request, None)"
    )
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True) as parent:
        while not (tmp_path / "count").exists():
            time.sleep(0.05)
        os.killpg(parent.pid, signal.SIGTERM)
        parent.wait(30)
    assert (tmp_path / "count").read_text() == "1"


def test_what_a_process_leaves_behind_goes_with_it(tmp_path: Path) -> None:
    answer = attempt(request(f"orphan {tmp_path}/pid"))
    assert answer.state == "Trainer failed: its process ended with code 0 without a word"
    deadline = time.monotonic() + 10
    orphan = int((tmp_path / "pid").read_text())
    while alive(orphan) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(orphan)


def test_sigterm_reaches_the_process_of_the_node(tmp_path: Path) -> None:
    interrupted = attempts.Interrupted()
    pid = tmp_path / "pid"

    def terminate() -> None:
        while not pid.exists() or not pid.read_text():
            time.sleep(0.05)
        interrupted(signal.SIGTERM, None)

    threading.Thread(target=terminate).start()
    with attempts.Attempts(interrupted) as tries:
        answer = tries.attempt(request(f"sleep {pid}"), None)
    assert answer.state == "Trainer failed: its process was ended by SIGTERM"
    assert interrupted


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RefusedDataError("2 findings"), 3),
        (TrainingError("the loss is no longer finite"), 2),
        (schema.ConfigError("data.source = None"), 2),
        (WeightsFileError("no such file"), 2),
        (KeyError("label"), 2),
        (FileNotFoundError("photos"), 2),
        (tf.errors.InvalidArgumentError(None, None, "shapes"), 2),
        (WeightsError("could not be had"), 1),
        (MemoryError(), 1),
        (ConnectionResetError("storage"), 1),
        (OSError(28, "No space left on device"), 1),
        (tf.errors.ResourceExhaustedError(None, None, "OOM when allocating"), 1),
        (mlmd.errors.UnavailableError("metadata"), 1),
        (mlmd.errors.InternalError("mysql has gone away"), 1),
        (RuntimeError("worker lost"), 1),
    ],
)
def test_what_may_pass_and_what_will_not(error: Exception, code: int) -> None:
    assert failures.exit_code(error) == code
    wrapped = NodeError("Trainer failed")
    wrapped.__cause__ = error
    assert failures.exit_code(wrapped) == code


def test_the_window_for_lost_pods_holds_all_of_them() -> None:
    task = schema.Task(retries=2, retry_seconds=30, timeout_seconds=36_000)
    assert tasks.retry_window(task) > 3 * 36_000
    assert tasks.retry_window(schema.Task(retries=2, retry_seconds=30)) > 3 * 7 * 24 * 3600
    # Argo knows no longest pause.
    assert tasks.retry_window(schema.Task(retries=10, retry_seconds=600, timeout_seconds=60)) > 600 * (2**10 - 1)


@pytest.mark.parametrize("run_id", ["{{$.pipeline_job_uuid}}", "{{workflow.uid}}", " "])
def test_a_run_without_an_id_of_its_own_is_refused(run_id: str) -> None:
    done = CliRunner().invoke(
        node_entrypoint.main, ["--node", "UpToDate", "--run-id", run_id, "--config", "{}", "--task", "{}"]
    )
    assert done.exit_code == 2
    assert "not filled in by Kubeflow Pipelines; compile the pipeline again" in done.stderr


@pytest.mark.parametrize(
    ("node", "settings", "seen"),
    [
        ("Trainer", {}, "all"),
        ("Evaluator", {}, "all"),
        ("Transform", {}, "-1"),
        ("Transform", {"accelerator": "nvidia.com/gpu"}, "all"),
        (tasks.UP_TO_DATE, {}, "-1"),
    ],
)
def test_only_what_gains_from_gpus_sees_them(
    node: str, settings: dict[str, str], seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    config = schema.Config(kubeflow=schema.Kubeflow(nodes={node: schema.Task(**settings)}))
    with attempts.Attempts(attempts.Interrupted(), tasks.sees_gpus(config, [node])) as tries:
        assert tries.attempt(request("gpus", node), None).state == f"sees {seen}"


def test_gpus_are_seen_by_all_in_a_pod_with_one_that_gains_from_them() -> None:
    assert tasks.sees_gpus(schema.Config(), ["Transform", "Trainer"])
    assert not tasks.sees_gpus(schema.Config(), ["ImageExampleGen", "Transform"])


def test_nodes_share_a_process_until_one_does_not_end_well() -> None:
    with attempts.Attempts(attempts.Interrupted()) as tries:
        first, second = (tries.attempt(request("who", node), None).state.split() for node in ("Transform", "Trainer"))
        assert (first[0], first[1], second[1]) == (second[0], "0", "1")
        assert tries.attempt(request("answer 1 no", "Evaluator"), None).code == 1
        third = tries.attempt(request("who", "Evaluator"), None).state.split()
        assert (third[0] != first[0], third[1]) == (True, "0")
        killed = tries.attempt(request("signal SIGKILL", "Pusher"), None)
        assert killed.state.startswith("Pusher failed: its process was killed (SIGKILL)")
    assert not alive(int(first[0]))
    assert not alive(int(third[0]))


def test_the_process_of_nodes_that_ended_well_ends_with_them() -> None:
    with attempts.Attempts(attempts.Interrupted()) as tries:
        pid = int(tries.attempt(request("who"), None).state.split()[0])
        assert alive(pid)
    assert not alive(pid)
