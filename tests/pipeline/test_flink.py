import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs import schema
from pipeline import beam, flink, jobs
from tests.pipeline.flink import FAILED_JOB, RUNNING_JOB, Cluster, recorded, running
from tests.web import serving

NAME = "finetune-test-abc-node"
RUNNER = "org/apache/beam/runners/flink/FlinkPipelineRunner.class"


def write_jar(path: Path, *names: str) -> str:
    with zipfile.ZipFile(path, "w") as jar:
        for name in names:
            jar.writestr(name, b"")
    return str(path)


@pytest.fixture
def jar(tmp_path: Path) -> str:
    pom = "META-INF/maven/org.apache.beam/beam-runners-flink-1.16/pom.properties"
    return write_jar(tmp_path / "job-server.jar", RUNNER, pom)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def master(cluster: Cluster) -> Iterator[str]:
    with running(cluster) as address:
        yield address


def config(master: str, jar: str, parallelism: int | None = None) -> schema.Flink:
    return schema.Flink(master=master, job_server_jar=jar, worker_pool="localhost:50000", parallelism=parallelism)


def test_a_cluster_with_a_jar_that_fits_and_enough_slots_can_be_used(master: str, jar: str) -> None:
    flink.check(config(master, jar))
    flink.check(config(master, jar, parallelism=2))


def test_more_tasks_than_slots_are_refused(master: str, jar: str) -> None:
    with pytest.raises(flink.FlinkError) as refused:
        flink.check(config(master, jar, parallelism=3))
    assert str(refused.value) == (
        f"beam.flink.parallelism = 3: {master} has 2 slots on 2 task managers; expected at most 2, or null, which takes all"
    )


def test_a_cluster_without_task_managers_is_refused(cluster: Cluster, master: str, jar: str) -> None:
    cluster.overview.update({"slots-total": 0, "taskmanagers": 0})
    with pytest.raises(flink.FlinkError, match=r"= null: \S+ has 0 slots on 0 task managers; expected a task manager"):
        flink.check(config(master, jar))


def test_a_jar_for_another_flink_is_refused(cluster: Cluster, master: str, jar: str) -> None:
    cluster.overview["flink-version"] = "1.20.1"
    with pytest.raises(flink.FlinkError, match=r"for Flink 1\.16, and \S+ is Flink 1\.20\.1; expected .* for 1\.20"):
        flink.check(config(master, jar))


def test_what_is_no_job_server_is_refused(master: str, tmp_path: Path) -> None:
    (tmp_path / "text.jar").write_text("no jar")
    for name, problem in {
        "missing.jar": "No such file or directory",
        "text.jar": "is no jar",
        Path(write_jar(tmp_path / "other.jar", "a.class")).name: "does not have Beam's runner for Flink in it",
    }.items():
        with pytest.raises(flink.FlinkError, match=rf"beam\.flink\.job_server_jar = \S+{name}: {problem}; expected"):
            flink.check(config(master, str(tmp_path / name)))


def test_the_version_is_looked_up_in_the_jar_then_in_its_name(tmp_path: Path, jar: str) -> None:
    assert flink.jar_version(jar) == "1.16"
    assert flink.jar_version(write_jar(tmp_path / "beam-runners-flink-1.19-job-server-2.77.0.jar", RUNNER)) == "1.19"
    assert flink.jar_version(write_jar(tmp_path / "unnamed.jar", RUNNER)) is None


def test_where_no_flink_answers_it_is_said(jar: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        master = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(
            flink.UnreachableError, match=rf"beam\.flink\.master = {master}: no Flink answers .*no connection"
        ):
            flink.check(config(master, jar))
    with (
        serving(lambda *request: (404, {})) as other,
        pytest.raises(flink.UnreachableError, match=r"no Flink answers there \(status 404\)"),
    ):
        flink.check(config(other.removeprefix("http://"), jar))


def test_beam_is_told_of_the_cluster_and_what_is_given_goes_before_it(master: str, jar: str) -> None:
    given = schema.Beam(runner="flink", flink=config(master, jar), args=("--parallelism=1",))
    arguments = beam.arguments(given, job="name")
    for argument in (
        f"--flink_master={master}",
        f"--flink_job_server_jar={jar}",
        "--flink_submit_uber_jar",
        "--environment_type=EXTERNAL",
        "--environment_config=localhost:50000",
        "--environment_cache_millis=60000",
        "--parallelism=2",
        "--sdk_container_image=none",
        "--experiments=pre_optimize=all",
        "--job_name=name",
    ):
        assert argument in arguments
    assert arguments[-1] == "--parallelism=1"


@pytest.mark.parametrize("given", [("--environment_type=EXTERNAL",), ("--environment_type", "EXTERNAL")])
def test_workers_that_are_there_get_no_packed_code(given: tuple[str, ...]) -> None:
    unpacked = "--sdk_container_image=none"
    assert unpacked in beam.arguments(schema.Beam(runner="SparkRunner", args=given))
    assert unpacked not in beam.arguments(schema.Beam(runner="SparkRunner", args=("--environment_type=DOCKER",)))


def test_cancelling_ends_what_runs_by_a_name_and_waits_for_it(cluster: Cluster, master: str) -> None:
    cancelled = flink.Cluster(master).cancel("finetune-test-abc-", 5.0)
    assert [(job.id, job.state) for job in cancelled] == [(RUNNING_JOB, "RUNNING")]
    assert cluster.state(RUNNING_JOB) == "CANCELED"
    assert [one for one in cluster.asked if one.startswith("PATCH")] == [f"PATCH /v1/jobs/{RUNNING_JOB}?mode=cancel"]


def test_jobs_by_another_name_run_on(cluster: Cluster, master: str) -> None:
    assert flink.Cluster(master).cancel("finetune-test-xyz-", 5.0) == []
    assert cluster.state(RUNNING_JOB) == "RUNNING"


def test_a_job_that_does_not_end_is_not_waited_for_without_bound() -> None:
    with (
        running(Cluster(looks=1000)) as master,
        pytest.raises(flink.UnreachableError, match=rf"not ended within 0 s of being cancelled: {NAME} \(CANCELLING\)"),
    ):
        flink.Cluster(master).cancel(NAME, 0.3)


def test_a_failure_is_told_by_the_last_error_in_python(master: str) -> None:
    told = flink.in_a_line(flink.Cluster(master).failure(FAILED_JOB))
    assert told == "ValueError: bad thing in two lines"
    assert not flink.is_of_lost_worker(told)


def test_a_worker_that_was_lost_is_recognised() -> None:
    told = flink.in_a_line(recorded("lost_worker")["root-exception"])
    assert told.endswith(
        "CANCELLED: call already cancelled. Use ServerCallStreamObserver.setOnCancelHandler() to disable this exception"
    )
    assert flink.is_of_lost_worker(told)


def test_jobs_are_named_by_the_output_folder_run_and_node(tmp_path: Path) -> None:
    one, other = str(tmp_path / "one"), str(tmp_path / "other")
    name = jobs.name("images", one, "run", "Transform")
    assert name == jobs.name("images", one, "run", "Transform")
    assert name.startswith("finetune-images-")
    assert name.endswith("-Transform")
    different = {jobs.name("images", one, "next", "Transform"), jobs.name("images", other, "run", "Transform")}
    assert len({name, *different}) == 3
    assert name.rsplit("-", 2)[0] == jobs.name("images", one, "next", "Evaluator").rsplit("-", 2)[0]


def test_what_a_killed_run_left_running_is_ended_and_nothing_else(
    cluster: Cluster, master: str, jar: str, tmp_path: Path
) -> None:
    given = schema.Beam(runner="flink", flink=config(master, jar))
    jobs.end_all(given, "test", str(tmp_path))  # a folder that is new
    assert not cluster.asked
    assert not list(tmp_path.glob(".*"))
    job = next(job for job in cluster.jobs["jobs"] if job["jid"] == RUNNING_JOB)
    jobs.name("test", str(tmp_path), "run", "Transform")
    jobs.end_all(given, "test", str(tmp_path))
    assert job["state"] == "RUNNING"
    job["name"] = jobs.name("test", str(tmp_path), "run", "Transform")
    jobs.end_all(given, "test", str(tmp_path))
    assert job["state"] == "CANCELED"
