"""The client and its commands against a stand-in for the API of Kubeflow Pipelines."""

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli import main
from kubeflow import client
from tests.kubeflow import api

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def server() -> api.Server:
    return api.Server()


@pytest.fixture
def host(server: api.Server) -> Iterator[str]:
    with api.serving(server) as url:
        yield url


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    path = tmp_path / "pipeline.yaml"
    path.write_text((GOLDEN / "images.yaml").read_text())
    return path


def change(pipeline: Path) -> None:
    pipeline.write_text(pipeline.read_text().replace("image: finetune:1", "image: finetune:2"))


def kubeflow(host: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["kubeflow", *arguments, "--host", host])


def test_a_pipeline_is_uploaded_once_and_again_only_when_it_changed(server: api.Server, host: str, pipeline: Path) -> None:
    pipelines = client.Pipelines(host)
    first = pipelines.upload(pipeline)
    assert first[2]
    assert pipelines.upload(pipeline) == (*first[:2], False)
    for number in range(5):  # more than a page of versions
        pipeline.write_text(f"{pipeline.read_text()}# {number}\n")
        assert pipelines.upload(pipeline)[2]
    pipeline.write_text((GOLDEN / "images.yaml").read_text())
    assert pipelines.upload(pipeline) == (*first[:2], False)
    assert len(server.pipelines) == 1


def test_a_run_is_submitted_with_its_parameters_and_followed_to_its_end(
    server: api.Server, host: str, pipeline: Path
) -> None:
    server.progress = [
        {"root": "RUNNING", "ImageExampleGen": "RUNNING"},
        {"root": "RUNNING", "ImageExampleGen": "SUCCEEDED", "Trainer-driver": "RUNNING", "Trainer": "RUNNING"},
        {"root": "SUCCEEDED", "ImageExampleGen": "SUCCEEDED", "Trainer": "SUCCEEDED"},
    ]
    pipelines = client.Pipelines(host)
    run_id = pipelines.submit(pipeline, None, {"evaluation_min_accuracy": 0.9}, "pipeline-runner")
    run = server.runs[run_id]
    assert run.runtime_config.parameters == {"evaluation_min_accuracy": 0.9}
    assert run.service_account == "pipeline-runner"
    assert server.experiments[run.experiment_id].display_name == "images"
    seen: list[client.NodeState] = []
    assert pipelines.follow(run_id, 0.01, seen.append) == "SUCCEEDED"
    assert [(one.node, one.state) for one in seen] == [
        ("ImageExampleGen", "RUNNING"),
        ("ImageExampleGen", "SUCCEEDED"),
        ("Trainer", "RUNNING"),
        ("Trainer", "SUCCEEDED"),
    ]
    assert seen[1].seconds == 7
    assert pipelines.latest_run("images") == run_id


def test_a_second_schedule_changes_the_first_and_makes_no_twin(server: api.Server, host: str, pipeline: Path) -> None:
    for number in range(7):  # others, on more than one page
        assert (
            kubeflow(host, "schedule", "--pipeline", str(pipeline), "--name", f"other{number}", "--every", "60").exit_code
            == 0
        )
    nightly = ["schedule", "--pipeline", str(pipeline), "--name", "nightly"]
    first = kubeflow(host, *nightly, "--cron", "0 2 * * *", "--start", "2027-01-01T00:00+01:00", "--disabled")
    assert first.exit_code == 0, first.output
    (one,) = (run for run in server.recurring.values() if run.display_name == "nightly")
    assert one.trigger.cron_schedule.cron == "0 0 2 * * *"
    assert one.trigger.cron_schedule.start_time == datetime.datetime(2026, 12, 31, 23, tzinfo=datetime.UTC)
    assert (one.mode, one.max_concurrency, one.no_catchup) == ("DISABLE", "1", True)
    change(pipeline)
    again = kubeflow(host, *nightly, "--every", "3600", "--max-concurrency", "2", "--catchup", "--end", "2028-01-01")
    assert again.exit_code == 0, again.output
    (other,) = (run for run in server.recurring.values() if run.display_name == "nightly")
    assert other.trigger.periodic_schedule.interval_second == "3600"
    assert other.trigger.periodic_schedule.end_time == datetime.datetime(2028, 1, 1, tzinfo=datetime.UTC)
    assert (other.mode, other.max_concurrency, other.no_catchup) == ("ENABLE", "2", False)
    assert other.pipeline_version_reference != one.pipeline_version_reference
    assert len(server.recurring) == 8


def test_schedules_are_enabled_disabled_and_deleted_by_name(server: api.Server, host: str, pipeline: Path) -> None:
    kubeflow(host, "schedule", "--pipeline", str(pipeline), "--name", "nightly", "--every", "60")
    (one,) = server.recurring.values()
    for action, status in (("disable", "DISABLED"), ("enable", "ENABLED")):
        assert kubeflow(host, "change-schedule", action, "nightly").exit_code == 0
        assert one.status.startswith(status[:-1])
    unknown = kubeflow(host, "change-schedule", "delete", "weekly")
    assert unknown.exit_code == 1
    assert "no recurring run weekly; there are: nightly" in unknown.stderr
    assert kubeflow(host, "change-schedule", "delete", "nightly").exit_code == 0
    assert not server.recurring


def test_status_shows_a_line_a_node_and_fails_with_the_run(server: api.Server, host: str, pipeline: Path) -> None:
    server.progress, server.final = [{"ImageExampleGen": "SUCCEEDED", "DataGate": "FAILED"}], "FAILED"
    run_id = kubeflow(host, "submit", "--pipeline", str(pipeline)).stdout.strip()
    shown = kubeflow(host, "status", run_id)
    assert shown.exit_code == 1, shown.output
    assert shown.stderr == ""
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert lines == [
        ["ImageExampleGen", "succeeded", "7", "s"],
        ["DataGate", "failed", "7", "s", "it", "broke"],
        ["run", "failed"],
    ]
    assert kubeflow(host, "status", "--experiment", "images").stdout == shown.stdout


def test_a_run_is_cancelled(server: api.Server, host: str, pipeline: Path) -> None:
    run_id = kubeflow(host, "submit", "--pipeline", str(pipeline)).stdout.strip()
    assert kubeflow(host, "cancel", run_id).exit_code == 0
    assert server.runs[run_id].state == "CANCELED"


def test_a_server_that_is_away_for_a_moment_is_asked_again(server: api.Server, host: str, pipeline: Path) -> None:
    pipelines = client.Pipelines(host)
    run_id = pipelines.submit(pipeline, None, {}, None)
    server.failures = [503, 503]
    assert pipelines.follow(run_id, 0.01, lambda state: None) == "SUCCEEDED"
    server.failures = [503] * 20
    with pytest.raises(client.ClientError, match="HTTP 503: for now"):
        pipelines.follow(run_id, 0.01, lambda state: None)


@pytest.mark.parametrize(("status", "said"), [(403, "may not"), (404, "HTTP 404"), (409, "HTTP 409"), (401, "--token-file")])
def test_what_the_server_refuses_is_one_line(status: int, said: str, server: api.Server, host: str, pipeline: Path) -> None:
    pipelines = client.Pipelines(host)
    server.failures = [status]
    with pytest.raises(client.ClientError, match=said):
        pipelines.upload(pipeline)


def test_a_token_opens_what_is_closed_without_one(pipeline: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    with api.serving(api.Server(token="secret")) as host:
        shut = kubeflow(host, "submit", "--pipeline", str(pipeline))
        assert shut.exit_code == 1
        assert "HTTP 401" in shut.stderr
        assert kubeflow(host, "submit", "--pipeline", str(pipeline), "--token-file", str(tmp_path / "token")).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (["submit", "--pipeline", "missing.yaml"], "missing.yaml: No such file", 1),
        (["submit", "--parameter", "nonsense=1"], "no parameter nonsense; ", 1),
        (["submit", "--parameter", "nonsense"], "expected NAME=VALUE", 2),
        (["schedule"], "give either --cron or --every", 2),
        (["schedule", "--cron", "daily"], "a cron expression has five fields", 1),
        (["schedule", "--cron", "0 2 * * *", "--start", "soon"], "expected a time such as", 2),
        (["status"], "Give RUN_ID or --experiment", 2),
        (["status", "17"], "HTTP 404", 1),
        (["status", "--experiment", "none"], "no experiment none", 1),
        (["cancel", "17"], "HTTP 404", 1),
    ],
)
def test_wrong_usage_is_said_in_one_line(
    arguments: list[str], said: str, code: int, host: str, pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pipeline.parent)
    done = kubeflow(host, *arguments)
    assert done.exit_code == code, done.output
    assert said.lower() in done.stderr.lower()
    assert len(done.stderr.strip().splitlines()) == 1


def test_no_server_is_said() -> None:
    with pytest.raises(client.ClientError, match="no answer from http://localhost:1"):
        client.Pipelines("http://localhost:1")
