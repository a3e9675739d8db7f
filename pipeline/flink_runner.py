"""Beam's FlinkRunner, which here hears soon how a job fares, and leaves none behind that nobody waits for."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterator
from typing import Any

from apache_beam.options import pipeline_options
from apache_beam.portability.api import beam_job_api_pb2
from apache_beam.runners import runner
from apache_beam.runners.portability import flink_runner, flink_uber_jar_job_server

from modules import interrupts
from pipeline import flink

_SHORTEST, _LONGEST, _GROWTH = 0.2, 2.0, 1.1
"""Seconds between two looks at a job, and how they grow."""
_SECONDS_TO_CANCEL = 20.0
"""Less than a pod's node is given to save its state."""
_log = logging.getLogger("finetune.pipeline.flink")


class JobError(RuntimeError):
    """A Flink job that failed; the message is the last error in Python, or else in Java, in a line."""


class FlinkRunner(flink_runner.FlinkRunner):
    """Runs a pipeline as one jar on a Flink cluster, and waits for its end.

    - A job is cancelled, and waited for, when this process is interrupted: what it works on goes afterwards.
    - One that failed as its workers were kept from an earlier stage, and had died, is run once more with workers of its own.
    """

    _job: _Job | None = None

    def run_portable_pipeline(self, pipeline: Any, options: pipeline_options.PipelineOptions) -> runner.PipelineResult:
        """Run a pipeline to its end.

        Args:
          pipeline: Beam's proto.
          options: with `job_name`, by which the job is found again.

        Raises:
          JobError: it failed.
          flink.UnreachableError: the cluster does not answer.
        """
        try:
            return self._run(copy.deepcopy(pipeline), copy.deepcopy(options))
        except JobError as error:
            caching = options.view_as(pipeline_options.PortableOptions)
            if not caching.environment_cache_millis or not flink.is_of_lost_worker(str(error)):
                raise
            _log.warning("a worker that was kept from an earlier stage had died (%s): once more, with new ones", error)
            caching.environment_cache_millis = 0
            return self._run(pipeline, copy.deepcopy(options))

    def _run(self, pipeline: Any, options: pipeline_options.PipelineOptions) -> runner.PipelineResult:
        master = options.view_as(pipeline_options.FlinkRunnerOptions).flink_master
        cluster = flink.Cluster(master)
        name = options.view_as(pipeline_options.GoogleCloudOptions).job_name
        try:
            with interrupts.noted():  # a job that is being started can't be cancelled yet
                result = super().run_portable_pipeline(pipeline, options)
            if options.view_as(pipeline_options.DebugOptions).lookup_experiment(flink.AT_ONCE):
                assert self._job is not None
                self._job.watch(cluster)
            result.wait_until_finish()
        except Exception:
            _cancel(cluster, name)
            if self._job is None or not self._job.failed:
                raise
            stack = cluster.failure(self._job.flink_id)
            _log.error("Flink job %s (%s) failed: %s", name, self._job.flink_id, stack, extra={"details": True})
            raise JobError(flink.in_a_line(stack)) from None
        except BaseException:
            _cancel(cluster, name)
            raise
        return result

    def default_job_server(self, options: pipeline_options.PipelineOptions) -> _Server:
        """Return what stands between Beam and the cluster.

        Args:
          options: of the pipeline.
        """
        own = options.view_as(pipeline_options.FlinkRunnerOptions)
        server = _Server(self.add_http_scheme(own.flink_master), options, self)
        own.flink_master = "[auto]"  # as Beam's own does: the job finds the cluster that it is on
        return server

    def note(self, job: _Job) -> None:
        """Be told which job is the pipeline's.

        Args:
          job: that was made for it.
        """
        self._job = job


def _cancel(cluster: flink.Cluster, name: str) -> None:
    """Cancel a job, if it runs; who is interrupted, or fails, says so whatever becomes of that."""
    try:
        cluster.cancel(name, _SECONDS_TO_CANCEL)
    except flink.UnreachableError as error:
        _log.warning("the Flink job %s may still be running: %s", name, error)


class _Server(flink_uber_jar_job_server.FlinkUberJarJobServer):
    """Makes jobs of ours.

    Args:
      master: URL.
      options: of the pipeline.
      owner: is told of each job.
    """

    def __init__(self, master: str, options: pipeline_options.PipelineOptions, owner: FlinkRunner):
        super().__init__(master, options)
        self._owner = owner

    def create_beam_job(self, job_id: str, job_name: str, pipeline: Any, options: Any) -> _Job:
        job = _Job(
            *(self._master_url, self.executable_jar(), job_id, job_name, pipeline, options),
            artifact_port=self._artifact_port,
        )
        self._owner.note(job)
        return job


class _Job(flink_uber_jar_job_server.FlinkBeamJob):
    """A job that is looked at often at first, where Beam's own waits up to a minute between two looks."""

    _cluster: flink.Cluster | None = None
    _failed_once = False

    def watch(self, cluster: flink.Cluster) -> None:
        """Have the job end with its first failure.

        Args:
          cluster: that it is on.
        """
        self._cluster = cluster

    @property
    def flink_id(self) -> str:
        return str(self._flink_job_id)

    @property
    def failed(self) -> bool:
        return self._failed_once or bool(self._state_history[-1][0] == beam_job_api_pb2.JobState.FAILED)

    def get_state_stream(self) -> Iterator[tuple[Any, Any]]:
        for state, timestamp in self.with_state_history(self._looks()):
            yield state, timestamp
            if self.is_terminal_state(state):
                return

    def get_message_stream(self) -> Iterator[Any]:
        # What a job failed of is asked for when it has.
        return iter(())

    def _looks(self) -> Iterator[tuple[Any, Any]]:
        pause = _SHORTEST
        while True:
            yield self.get_state()
            if self._cluster is not None and self._cluster.failure(self.flink_id):
                self._failed_once = True
                raise RuntimeError("it failed")
            time.sleep(pause)
            pause = min(_LONGEST, pause * _GROWTH)
