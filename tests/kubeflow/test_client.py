"""The client and its commands against a stand-in for the API of Kubeflow Pipelines."""

import datetime
import json
from collections.abc import Iterator
from pathlib import Path

import kfp
import pytest
import yaml
from click.testing import CliRunner, Result

from cli import main, watching
from kubeflow import client, folders, follow, schedules, status
from pipeline import journal
from pipeline.ending import Ending, Verdict
from tests import web
from tests.kubeflow import api

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """No kubectl is at hand, and nobody waits long."""
    monkeypatch.setattr("kubeflow.inside.shutil.which", lambda name: None)
    monkeypatch.setattr("kubeflow.follow._SECONDS", 0.01)


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
    path.write_text((GOLDEN / "one_per_node.yaml").read_text())
    return path


@pytest.fixture
def grouped(tmp_path: Path) -> Path:
    path = tmp_path / "grouped.yaml"
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
    pipeline.write_text((GOLDEN / "one_per_node.yaml").read_text())
    assert pipelines.upload(pipeline) == (*first[:2], False)
    assert len(server.pipelines) == 1


def test_a_run_is_submitted_with_parameters_of_the_pipeline_s_types(server: api.Server, host: str, pipeline: Path) -> None:
    given = {
        "evaluation_min_accuracy": "1",
        "data_source": "2024",
        "data_num_spans": "7",
        "evaluation_fail_when_refused": "True",
    }
    run_id = client.Pipelines(host).submit(pipeline, None, given, "pipeline-runner")
    run = server.runs[run_id]
    found = run.runtime_config.parameters
    assert found == {
        "evaluation_min_accuracy": 1.0,
        "data_source": "2024",
        "data_num_spans": 7,
        "evaluation_fail_when_refused": True,
    }
    assert [type(found[name]) for name in given] == [float, str, int, bool]
    assert run.service_account == "pipeline-runner"
    assert server.experiments[run.experiment_id].display_name == "images"
    assert client.Pipelines(host).latest_run("images") == run_id


@pytest.mark.parametrize("in_the_way", ["home", "home/.config/kfp/context.json"])
def test_a_home_that_can_not_be_used_keeps_nobody_from_a_server_with_namespaces(
    in_the_way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In a pod kfp's client takes the namespace from a file, and keeps it in the home.
    (tmp_path / "namespace").write_text("ours")
    (tmp_path / in_the_way).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / in_the_way).write_text("no JSON")
    monkeypatch.setattr(kfp.Client, "_NAMESPACE_PATH", str(tmp_path / "namespace"))
    monkeypatch.setattr(kfp.Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "home" / ".config" / "kfp" / "context.json"))
    with api.serving(api.Server(multi_user=True)) as host:
        assert client.Pipelines(host).api.get_user_namespace() == "ours"


def test_pipelines_of_one_name_in_two_namespaces_are_two(pipeline: Path) -> None:
    server = api.Server(multi_user=True)
    with api.serving(server) as host:
        theirs, ours = (client.Pipelines(host, namespace=namespace).upload(pipeline) for namespace in ("them", "us"))
        assert theirs[0] != ours[0]
        assert client.Pipelines(host, namespace="us").upload(pipeline) == (*ours[:2], False)
    assert sorted(one.namespace for one in server.pipelines.values()) == ["them", "us"]


@pytest.mark.parametrize("version", ["2.15.0", "v2.16.1", "2.17.0", "2.18.3-dirty"])
def test_servers_that_are_served(version: str, pipeline: Path) -> None:
    server = api.Server(version=version)
    with api.serving(server) as host:
        run = server.runs[submitted(host, pipeline)]
        used = server.versions[run.pipeline_version_reference.pipeline_version_id]
        # An older one knows no security contexts, and would refuse the run.
        assert ("securityContext" in json.dumps(used.pipeline_spec)) == ("2.15" not in version)
        # Older ones try again what failed, not what was lost.
        assert ("retryPolicy" in json.dumps(used.pipeline_spec)) == ("2.15" not in version and "2.16" not in version)
        assert not client.Pipelines(host).upload(pipeline)[2]


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("2.14.4", "the server is Kubeflow Pipelines 2.14.4; 2.15 to 2.18 are served"),
        ("2.19.0", "the server is Kubeflow Pipelines 2.19.0; 2.15 to 2.18 are served"),
        ("1.8.22", "2.15 to 2.18 are served"),
        ("", "the server does not say which version it is"),
    ],
)
def test_other_servers_are_refused_with_the_reason(version: str, said: str) -> None:
    with api.serving(api.Server(version=version)) as host, pytest.raises(client.ClientError, match=said):
        client.Pipelines(host)


def test_a_server_behind_its_pages_goes_by_another_name_and_a_login_page_is_none(pipeline: Path) -> None:
    def pages(method: str, path: str, body: bytes, headers: object) -> tuple[int, object]:
        return 200, {"apiServerTagName": "2.17.0", "apiServerReady": True}

    def login(method: str, path: str, body: bytes, headers: object) -> tuple[int, object]:
        return 200, "<html>"

    with web.serving(pages) as host:
        assert client.Pipelines(host).version == (2, 17)
    with web.serving(login) as host, pytest.raises(client.ClientError, match="is no Kubeflow Pipelines API"):
        client.Pipelines(host)


def test_a_server_that_does_not_say_its_version_can_be_named_one() -> None:
    with api.serving(api.Server(version="unknown")) as host:
        unnamed = kubeflow(host, "status", "17")
        assert "does not say which version it is" in unnamed.stderr
        assert "--server-version" in unnamed.stderr
        assert "HTTP 404" in kubeflow(host, "status", "17", "--server-version", "2.17").stderr


def submitted(host: str, pipeline: Path) -> str:
    return client.Pipelines(host).submit(pipeline, None, {}, None)


def test_a_run_is_followed_to_its_end_a_line_for_each_change(server: api.Server, host: str, pipeline: Path) -> None:
    server.progress = [
        {"uptodate": "PENDING"},
        {"uptodate": "SUCCEEDED", "imageexamplegen": "RUNNING"},
        {"uptodate": "SUCCEEDED", "imageexamplegen": "RUNNING"},
        {"uptodate": "SUCCEEDED", "imageexamplegen": "SUCCEEDED", "statisticsgen": "SUCCEEDED"},
    ]
    done = kubeflow(host, "submit", "--pipeline", str(pipeline), "--follow")
    assert done.exit_code == 0, done.output
    run_id, *lines = done.stdout.splitlines()
    assert run_id in server.runs
    assert [" ".join(line.split()[:2]) for line in lines[:5]] == [
        "UpToDate running",
        "UpToDate done",
        "ImageExampleGen running",
        "ImageExampleGen done",
        "StatisticsGen done",
    ]
    assert lines[4].split()[2:] == ["7", "s"]
    # The rest was not due.
    assert {line.split()[1] for line in lines[5:-1]} == {"skipped"}
    assert lines[-1].split() == ["run", "done"]


def test_a_lost_connection_is_said_and_waited_for(server: api.Server, host: str, pipeline: Path) -> None:
    server.progress = [{"uptodate": "RUNNING"}, {"uptodate": "SUCCEEDED"}]
    run_id = submitted(host, pipeline)
    pipelines = client.Pipelines(host)
    said: list[str] = []
    server.away = 6
    watched = follow.watch(pipelines, run_id, lambda tasks: None, said.append, patience=60)
    assert watched.state == "done"
    assert [line.split(",")[0].split(" after")[0] for line in said] == ["connection lost", "connected again"]
    server.away = 10_000
    with pytest.raises(client.NoAnswerError):
        follow.watch(pipelines, run_id, lambda tasks: None, said.append, patience=0.5)


def test_a_server_that_is_away_for_a_moment_is_asked_again(server: api.Server, host: str, pipeline: Path) -> None:
    pipelines = client.Pipelines(host)
    run_id = submitted(host, pipeline)
    server.failures = [503, 503]
    said: list[str] = []
    assert follow.watch(pipelines, run_id, lambda tasks: None, said.append).state == "done"
    assert said == []
    server.failures = [503] * 20
    with pytest.raises(client.NoAnswerError, match="HTTP 503: for now"):
        follow.watch(pipelines, run_id, lambda tasks: None, said.append, once=True)


def scheduled(server: api.Server, name: str) -> list[str]:
    """The recurring runs of a name, oldest first: how each fares."""
    return [one.status for one in server.recurring.values() if one.display_name == name]


def test_a_second_schedule_takes_the_place_of_the_first(server: api.Server, host: str, pipeline: Path) -> None:
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
    assert "the schedule that nightly replaced is removed: its last run has ended" in again.stderr
    (other,) = (run for run in server.recurring.values() if run.display_name == "nightly")
    assert other.trigger.periodic_schedule.interval_second == "3600"
    assert other.trigger.periodic_schedule.end_time == datetime.datetime(2028, 1, 1, tzinfo=datetime.UTC)
    assert (other.mode, other.max_concurrency, other.no_catchup) == ("ENABLE", "2", False)
    assert other.pipeline_version_reference != one.pipeline_version_reference
    assert len(server.recurring) == 8


def test_a_change_of_schedule_ends_no_run_that_is_under_way(server: api.Server, host: str, pipeline: Path) -> None:
    server.progress = [{"uptodate": "RUNNING"}] * 2 + [{"uptodate": "SUCCEEDED"}]
    nightly = ["schedule", "--pipeline", str(pipeline), "--name", "nightly", "--every"]
    assert kubeflow(host, *nightly, "60").exit_code == 0
    (old,) = server.recurring.values()
    run = server.start_scheduled(old)
    changed = kubeflow(host, *nightly, "3600")
    assert changed.exit_code == 0, changed.output
    assert f"the schedule that nightly replaced is disabled, and goes when its run {run.run_id} ends" in changed.stderr
    assert scheduled(server, "nightly") == ["DISABLED", "ENABLED"]
    # What is enabled and disabled is the newest alone.
    for action, newest in (("disable", "DISABLED"), ("enable", "ENABLED")):
        assert kubeflow(host, "change-schedule", action, "nightly").exit_code == 0
        assert scheduled(server, "nightly") == ["DISABLED", newest]
    assert run.run_id not in server.dead
    followed = kubeflow(host, "status", run.run_id, "--follow")
    assert followed.exit_code == 0, followed.output
    assert "the schedule that nightly replaced is removed" in followed.stderr
    assert scheduled(server, "nightly") == ["ENABLED"]


def test_two_who_schedule_at_once_leave_one_schedule_that_runs(server: api.Server, host: str, pipeline: Path) -> None:
    nightly = ["schedule", "--pipeline", str(pipeline), "--name", "nightly", "--every"]
    assert kubeflow(host, *nightly, "60").exit_code == 0
    ours = client.Pipelines(host)
    made = schedules.Schedules(ours)
    create = ours.api.create_recurring_run

    def create_and_be_overtaken(*arguments: object, **options: object) -> object:
        found = create(*arguments, **options)
        if options["interval_second"] == 120:
            made.schedule("nightly", pipeline, schedules.Schedule(every_seconds=240), None, {}, None)
        return found

    ours.api.create_recurring_run = create_and_be_overtaken
    made.schedule("nightly", pipeline, schedules.Schedule(every_seconds=120), None, {}, None)
    made.sweep()
    (left,) = (one for one in server.recurring.values() if one.display_name == "nightly")
    assert (left.status, left.trigger.periodic_schedule.interval_second) == ("ENABLED", "240")


def test_what_a_replaced_schedule_started_stays_with_its_logs(server: api.Server, host: str, pipeline: Path) -> None:
    nightly = ["schedule", "--pipeline", str(pipeline), "--name", "nightly", "--every"]
    kubeflow(host, *nightly, "60")
    run = server.start_scheduled(*server.recurring.values())
    kubeflow(host, "status", run.run_id)
    assert "is removed" in kubeflow(host, *nightly, "3600").stderr
    assert run.run_id not in server.dead


def test_an_older_server_would_take_them_along_and_is_waited_for(pipeline: Path) -> None:
    server = api.Server(version="2.15.2")
    with api.serving(server) as host:
        nightly = ["schedule", "--pipeline", str(pipeline), "--name", "nightly", "--every"]
        kubeflow(host, *nightly, "60")
        run = server.start_scheduled(*server.recurring.values())
        kubeflow(host, "status", run.run_id)
        run.finished_at = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=50)
        assert "is removed" not in kubeflow(host, *nightly, "3600").stderr
        run.finished_at -= datetime.timedelta(minutes=20)
        assert "is removed" in kubeflow(host, "status", run.run_id).stderr


def test_who_may_not_see_schedules_is_told_and_the_status_stays_what_it_is(
    server: api.Server, host: str, pipeline: Path
) -> None:
    run_id = submitted(host, pipeline)
    server.forbidden = True
    shown = kubeflow(host, "status", run_id)
    assert shown.exit_code == 0, shown.output
    assert "schedules that were replaced could not be looked for: HTTP 403" in shown.stderr


def test_a_run_whose_schedule_is_gone_is_not_gone_on_with(server: api.Server, host: str, pipeline: Path) -> None:
    server.final = "FAILED"
    kubeflow(host, "schedule", "--pipeline", str(pipeline), "--name", "nightly", "--every", "60")
    run = server.start_scheduled(*server.recurring.values())
    kubeflow(host, "status", run.run_id)
    assert kubeflow(host, "change-schedule", "delete", "nightly", "--yes").exit_code == 0
    refused = kubeflow(host, "retry", run.run_id)
    assert refused.exit_code == 1
    assert "the schedule that started this run is gone" in refused.stderr


def test_what_others_scheduled_under_one_name_is_left_alone(server: api.Server, host: str, pipeline: Path) -> None:
    for _ in range(2):
        kubeflow(host, "schedule", "--pipeline", str(pipeline), "--name", "nightly", "--every", "60")
    (one,) = server.recurring.values()
    twin = server._read(json.dumps(server._client.sanitize_for_serialization(one)).encode(), api.api.V2beta1RecurringRun)
    twin.recurring_run_id, twin.description, twin.status = "twin", None, "DISABLED"
    server.recurring = {"twin": twin, **server.recurring}
    run_id = submitted(host, pipeline)
    assert kubeflow(host, "status", run_id).exit_code == 0
    assert "twin" in server.recurring


def test_deleting_a_schedule_says_what_ends_with_it_and_wants_a_yes(server: api.Server, host: str, pipeline: Path) -> None:
    server.progress = [{"uptodate": "RUNNING"}] * 9
    kubeflow(host, "schedule", "--pipeline", str(pipeline), "--name", "nightly", "--every", "60")
    run = server.start_scheduled(*server.recurring.values())
    unsure = kubeflow(host, "change-schedule", "delete", "nightly")
    assert unsure.exit_code == 2
    assert f"run {run.run_id} is under way and ends with it" in unsure.stderr
    assert "--yes" in unsure.stderr
    assert scheduled(server, "nightly") == ["ENABLED"]
    unknown = kubeflow(host, "change-schedule", "delete", "weekly", "--yes")
    assert unknown.exit_code == 1
    assert "no recurring run weekly; there are: nightly" in unknown.stderr
    assert kubeflow(host, "change-schedule", "delete", "nightly", "--yes").exit_code == 0
    assert not server.recurring


def test_status_shows_a_line_a_task_in_the_pipeline_s_order_and_where_the_reason_is(
    server: api.Server, host: str, pipeline: Path
) -> None:
    server.progress, server.final = [{"uptodate": "SUCCEEDED", "imageexamplegen": "FAILED"}], "FAILED"
    run_id = kubeflow(host, "submit", "--pipeline", str(pipeline)).stdout.strip()
    shown = kubeflow(host, "status", run_id)
    assert shown.exit_code == 1, shown.output
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert lines[:3] == [
        ["UpToDate", "done", "7", "s"],
        ["ImageExampleGen", "failed", "7", "s"],
        ["StatisticsGen", "skipped"],
    ]
    assert len(lines) == 15
    assert lines[-1] == ["run", "failed"]
    assert "there is no kubectl here to reach ML Metadata with; --metadata URL names it" in shown.stderr
    assert f"kubectl logs --namespace kubeflow --selector pipeline/runid={run_id} --container main" in shown.stderr
    assert "FutureWarning" not in shown.stderr
    assert kubeflow(host, "status", "--experiment", "images").stdout == shown.stdout


def test_status_says_in_the_node_s_words_why_it_failed(
    server: api.Server, host: str, pipeline: Path, tmp_path: Path
) -> None:
    server.progress, server.final = [{"uptodate": "SUCCEEDED", "trainer": "FAILED"}], "FAILED"
    run_id = submitted(host, pipeline)
    url = f"sqlite:///{tmp_path}/metadata.db"
    store = folders.metadata_connection(url)
    now = datetime.datetime(2027, 1, 1, 3, 4, 5, tzinfo=datetime.UTC)
    lost = journal.Attempt(ended=now, seconds=60.0, code=1, reason="Trainer failed: its process was killed (SIGKILL)")
    diverged = journal.Attempt(ended=now, seconds=9.0, code=2, reason="Trainer failed: the loss is no longer finite")
    journal.note_node(store, run_id, "UpToDate", "cached", [])
    journal.note_node(store, run_id, "Trainer", "failed", [lost])
    journal.note_node(store, run_id, "Trainer", "failed", [diverged])
    ending = Ending(pipeline="images", run=run_id, verdict=Verdict.FAILED, reason=diverged.reason, node="Trainer")
    assert journal.note_end(store, ending, now)
    shown = kubeflow(host, "status", run_id, "--metadata", url)
    assert shown.exit_code == 1
    assert "Trainer, attempt 1, 03:04:05 UTC, after 60 s: Trainer failed: its process was killed (SIGKILL)" in shown.stderr
    assert "Trainer, attempt 2, 03:04:05 UTC, after 9 s: Trainer failed: the loss is no longer finite" in shown.stderr
    assert "UpToDate            cached" in shown.stdout
    assert shown.stdout.splitlines()[-3:] == [
        "verdict        failed",
        "reason         Trainer failed: the loss is no longer finite",
        "version        not published",
    ]


GROUP = "imageexamplegentorunreport"


def test_status_lists_nodes_also_where_they_share_a_pod(
    server: api.Server, host: str, grouped: Path, tmp_path: Path
) -> None:
    server.progress, server.final = [{"uptodate": "SUCCEEDED", GROUP: "FAILED"}], "FAILED"
    run_id = submitted(host, grouped)
    url = f"sqlite:///{tmp_path}/metadata.db"
    store = folders.metadata_connection(url)
    now = datetime.datetime(2027, 1, 1, 3, 4, 5, tzinfo=datetime.UTC)
    for node, state, seconds in (("ImageExampleGen", "cached", 0.4), ("StatisticsGen", "done", 12.0)):
        journal.note_node(store, run_id, node, state, seconds=seconds)
    full = journal.Attempt(ended=now, seconds=60.0, code=1, reason="AcceptedData failed: no space left on device")
    journal.note_node(store, run_id, "AcceptedData", "failed", [full])
    shown = kubeflow(host, "status", run_id, "--metadata", url)
    assert shown.exit_code == 1
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert lines[:5] == [
        ["UpToDate", "done", "7", "s"],
        ["ImageExampleGen", "cached", "0", "s"],
        ["StatisticsGen", "done", "12", "s"],
        ["AcceptedData", "failed"],
        ["SchemaGen", "skipped"],
    ]
    assert "AcceptedData, attempt 1, 03:04:05 UTC, after 60 s: AcceptedData failed: no space left" in shown.stderr
    assert len(lines) == 15
    unreachable = kubeflow(host, "status", run_id)
    assert "there is no kubectl here to reach ML Metadata with" in unreachable.stderr
    assert ["Pusher", "failed"] in [line.split() for line in unreachable.stdout.splitlines()]


def test_nodes_that_share_a_pod_are_followed_one_by_one(
    server: api.Server, host: str, grouped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.progress = [{"uptodate": "SUCCEEDED", GROUP: "RUNNING"}] * 3 + [{"uptodate": "SUCCEEDED", GROUP: "SUCCEEDED"}]
    run_id = submitted(host, grouped)
    url = f"sqlite:///{tmp_path}/metadata.db"
    store = folders.metadata_connection(url)
    ended = iter(status.nodes_of(yaml.safe_load(grouped.read_text().partition("\n---")[0]))[GROUP])
    show, seen = watching._Table.show, []

    def shown(table: watching._Table, states: list[status.TaskState]) -> None:
        seen.append({one.node: one.state for one in states})
        journal.note_node(store, run_id, next(ended), "done", seconds=1.0)
        show(table, states)

    monkeypatch.setattr(watching._Table, "show", shown)
    done = kubeflow(host, "status", run_id, "--follow", "--metadata", url)
    assert done.exit_code == 0, done.output
    first = ["ImageExampleGen", "StatisticsGen", "AcceptedData", "SchemaGen"]
    assert [[look[node] for node in first] for look in seen[:3]] == [
        ["running", "waiting", "waiting", "waiting"],
        ["done", "running", "waiting", "waiting"],
        ["done", "done", "running", "waiting"],
    ]
    assert set(seen[-1].values()) == {"done"}


def test_status_ends_with_verdict_and_version_as_a_local_run_does(
    server: api.Server, host: str, pipeline: Path, tmp_path: Path
) -> None:
    run_id = submitted(host, pipeline)
    server.progress = [{"uptodate": "SUCCEEDED"}]
    url = f"sqlite:///{tmp_path}/metadata.db"
    ending = Ending(
        pipeline="images",
        run=run_id,
        verdict=Verdict.PUBLISHED,
        version=1795478357,
        accuracy=0.9,
        accuracy_interval=(0.82, 0.95),
        test_pictures=100,
        baseline_accuracy=0.88,
        baseline_note="on 80 of 100 test pictures; left out: bird (new)",
    )
    journal.note_end(folders.metadata_connection(url), ending, datetime.datetime.now(datetime.UTC))
    shown = kubeflow(host, "status", run_id, "--metadata", url)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.splitlines()[-5:] == [
        "run            done",
        "test accuracy  0.9000 on 100 pictures (95 %: 0.8200 to 0.9500)",
        "baseline       0.8800 (on 80 of 100 test pictures; left out: bird (new))",
        "verdict        published",
        "version        1795478357",
    ]


def test_a_run_of_which_nothing_began_says_where_to_look(server: api.Server, host: str, pipeline: Path) -> None:
    server.final = "FAILED"
    run_id = client.Pipelines(host).submit(pipeline, None, {}, "nobody")
    shown = kubeflow(host, "status", run_id)
    assert shown.exit_code == 1
    assert "no task began; is there the service account nobody in namespace kubeflow?" in shown.stderr
    assert f"kubectl get workflows.argoproj.io --namespace kubeflow --selector pipeline/runid={run_id}" in shown.stderr


def test_a_run_is_cancelled_and_called_so(server: api.Server, host: str, pipeline: Path) -> None:
    server.progress = [{"uptodate": "RUNNING"}] * 9
    run_id = kubeflow(host, "submit", "--pipeline", str(pipeline)).stdout.strip()
    kubeflow(host, "status", run_id)
    assert kubeflow(host, "cancel", run_id).exit_code == 0
    assert server.runs[run_id].state == "FAILED"
    shown = kubeflow(host, "status", run_id)
    assert shown.exit_code == 1
    assert [line.split()[:2] for line in shown.stdout.splitlines()][0::14] == [
        ["UpToDate", "cancelled"],
        ["run", "cancelled"],
    ]


def test_a_failed_run_goes_on_where_it_failed(server: api.Server, host: str, pipeline: Path) -> None:
    server.progress, server.final = [{"uptodate": "FAILED"}], "FAILED"
    run_id = submitted(host, pipeline)
    assert kubeflow(host, "status", run_id).exit_code == 1
    server.progress, server.final = [{"uptodate": "RUNNING"}, {"uptodate": "SUCCEEDED"}], "SUCCEEDED"
    goes_on = kubeflow(host, "retry", run_id, "--follow")
    assert goes_on.exit_code == 0, goes_on.output
    assert f"POST /apis/v2beta1/runs/{run_id}:retry" in server.requests
    again = kubeflow(host, "retry", run_id)
    assert again.exit_code == 1
    assert "must be Failed/Error to retry" in again.stderr


@pytest.mark.parametrize(("status", "said"), [(403, "may not"), (404, "HTTP 404"), (409, "HTTP 409"), (401, "--token-file")])
def test_what_the_server_refuses_is_one_line(status: int, said: str, server: api.Server, host: str, pipeline: Path) -> None:
    pipelines = client.Pipelines(host)
    server.failures = [status]
    with pytest.raises(client.ClientError, match=said):
        pipelines.upload(pipeline)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("error_no_such_run", "Run 00000000-0000-0000-0000-000000000000 not found"),
        ("error_pipeline_exists", "The name images already exist. Please specify a new name"),
    ],
)
def test_what_a_real_server_refused_is_said_in_its_last_words(name: str, said: str) -> None:
    shown = client._refusal(400, "Bad Request", (api.ANSWERS / f"{name}.json").read_text())
    assert shown.endswith(said)
    assert shown.count(said) == 1


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
        (["submit", "--parameter", "data_num_spans=x"], "parameter data_num_spans = x: expected a whole number", 1),
        (["submit", "--parameter", "evaluation_fail_when_refused=1"], "expected true or false", 1),
        (["retry", "17"], "HTTP 404", 1),
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
