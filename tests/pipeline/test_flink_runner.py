"""What becomes of a job, with a stand-in for the cluster; the real one is in tests/flink."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import apache_beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from configs import schema
from pipeline import flink, flink_runner
from tests.pipeline.flink import RUNNING_JOB, Cluster, running
from tests.pipeline.test_flink import NAME, RUNNER, write_jar

CACHE = b'"beam:option:environment_cache_millis:v1": "%d"'


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def options(cluster: Cluster, tmp_path: Path) -> Iterator[PipelineOptions]:
    jar = write_jar(tmp_path / "job-server.jar", RUNNER)
    with running(cluster) as master:
        config = schema.Flink(master=master, job_server_jar=jar, worker_pool="localhost:50000", parallelism=2)
        yield PipelineOptions([*flink.arguments(config, NAME), "--sdk_container_image=none"])


def run(options: PipelineOptions) -> None:
    with apache_beam.Pipeline(options=options) as pipeline:
        _ = pipeline | apache_beam.Create([1])


def test_a_job_that_ends_well_is_run_once(cluster: Cluster, options: PipelineOptions) -> None:
    cluster.outcomes = [""]
    run(options)
    assert len(cluster.uploads) == 1
    assert CACHE % 60_000 in cluster.uploads[0]
    assert NAME.encode() in cluster.uploads[0]


def test_an_interrupt_cancels_the_job_before_it_is_passed_on(
    cluster: Cluster, options: PipelineOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.sleep

    def interrupted(seconds: float) -> None:
        real(seconds)
        if cluster.state(RUNNING_JOB) == "RUNNING" and cluster.uploads:
            raise KeyboardInterrupt

    monkeypatch.setattr(flink_runner.time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(options)
    assert cluster.state(RUNNING_JOB) == "CANCELED"


def test_a_failure_is_told_in_a_line_and_logged_whole(
    cluster: Cluster, options: PipelineOptions, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.outcomes = ["failed_in_python"]
    with caplog.at_level(logging.ERROR, "finetune"), pytest.raises(flink_runner.JobError) as failed:
        run(options)
    assert str(failed.value) == "ValueError: bad thing in two lines"
    assert "at org.apache.flink.runtime" in caplog.text
    assert len(cluster.uploads) == 1


def test_a_job_that_lost_a_kept_worker_runs_once_more_without_the_cache(cluster: Cluster, options: PipelineOptions) -> None:
    cluster.outcomes = ["lost_worker", ""]
    run(options)
    assert [CACHE % 60_000 in one for one in cluster.uploads] == [True, False]
    assert CACHE % 0 in cluster.uploads[1]


def test_a_job_that_loses_workers_again_fails(cluster: Cluster, options: PipelineOptions) -> None:
    cluster.outcomes = ["lost_worker", "lost_worker", ""]
    with pytest.raises(flink_runner.JobError, match="call already cancelled"):
        run(options)
    assert len(cluster.uploads) == 2
