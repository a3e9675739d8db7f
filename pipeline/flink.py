"""A Flink cluster that Beam works on: what Beam is told of it, whether it can be used, and its jobs."""

from __future__ import annotations

import contextlib
import itertools
import re
import time
import zipfile
from typing import Any, NamedTuple

import requests

from configs import schema

AT_ONCE = "finetune_fails_at_once"
"""The experiment, in Beam's words, of a job that ends with its first failure, however often the cluster tries again."""
_ENTRY = "org/apache/beam/runners/flink/FlinkPipelineRunner.class"
_POM = re.compile(r"META-INF/maven/org\.apache\.beam/beam-runners-flink-([0-9]+\.[0-9]+)[^/]*/pom\.properties")
_NAME = re.compile(r".*flink-([0-9]+\.[0-9]+)[^/]*")
_LOST_WORKER = re.compile(r"StatusRuntimeException: CANCELLED|call already (cancelled|closed|half-closed)")
"""What Beam says of Python that is gone; a task that is tried again is given the same one from the cache."""
_ENDED = {"FINISHED", "FAILED", "CANCELED"}
_CALL_SECONDS = 10.0
_PAUSE = 0.2


class FlinkError(ValueError):
    """A cluster, or a jar for it, that can't be used as it is configured; the message is one line and says what would do."""


class UnreachableError(RuntimeError):
    """A cluster that does not answer now."""


class Job(NamedTuple):
    """A job of a cluster: its id, its name and its state, in Flink's words."""

    id: str
    name: str
    state: str


class Cluster:
    """The REST interface of a Flink cluster.

    Args:
      master: host and port, or its URL.
    """

    def __init__(self, master: str):
        self._url = master if "://" in master else f"http://{master}"
        self._master = master

    def get(self, path: str) -> Any:
        """Return what the cluster answers to a GET.

        Args:
          path: below its root, e.g. `overview`.

        Raises:
          UnreachableError: nobody answers there, or it is no Flink.
        """
        return self._ask("GET", path).json()

    def jobs(self, prefix: str) -> list[Job]:
        """Return the jobs that have not ended whose names begin in some way.

        Args:
          prefix: of the names.
        """
        found = [Job(one["jid"], one["name"], one["state"]) for one in self.get("jobs/overview")["jobs"]]
        return [job for job in found if job.name.startswith(prefix) and job.state not in _ENDED]

    def cancel(self, prefix: str, seconds: float) -> list[Job]:
        """Cancel jobs and wait until they have ended.

        Args:
          prefix: of their names.
          seconds: to wait for them.

        Returns:
          Those that were cancelled.

        Raises:
          UnreachableError: the cluster does not answer, or a job has not ended by then.
        """
        deadline = time.monotonic() + seconds
        cancelled = self.jobs(prefix)
        for job in cancelled:
            with contextlib.suppress(UnreachableError):  # it may have ended
                self._ask("PATCH", f"jobs/{job.id}?mode=cancel")
        while left := self.jobs(prefix):
            if time.monotonic() > deadline:
                names = ", ".join(f"{job.name} ({job.state})" for job in left)
                raise UnreachableError(f"{self._master}: not ended within {seconds:.0f} s of being cancelled: {names}")
            time.sleep(_PAUSE)
        return cancelled

    def failure(self, job_id: str) -> str:
        """Return what a job failed of, or what it was tried again for, with Java's stack and Python's; empty if nothing.

        Args:
          job_id: Flink's.
        """
        found = self.get(f"jobs/{job_id}/exceptions")
        again = [entry["stacktrace"] for entry in found["exceptionHistory"]["entries"]]
        return str(found.get("root-exception") or next(iter(again), ""))

    def _ask(self, method: str, path: str) -> requests.Response:
        try:
            answer = requests.request(method, f"{self._url}/v1/{path}", timeout=_CALL_SECONDS)
            answer.raise_for_status()
            answer.json()
        except requests.RequestException as error:
            raise UnreachableError(
                f"beam.flink.master = {self._master}: no Flink answers there ({_why(error)}); expected host and port of its"
                " job manager's REST interface"
            ) from None
        return answer


def arguments(config: schema.Flink, job: str) -> list[str]:
    """Return Beam's arguments for work on a cluster.

    Args:
      config: the cluster.
      job: name of the Flink job.

    Raises:
      UnreachableError: the cluster does not answer.
    """
    return [
        "--runner=pipeline.flink_runner.FlinkRunner",
        f"--job_name={job}",
        f"--flink_master={config.master}",
        "--flink_submit_uber_jar",
        f"--flink_job_server_jar={config.job_server_jar}",
        "--environment_type=EXTERNAL",
        f"--environment_config={config.worker_pool}",
        f"--environment_cache_millis={round(config.environment_cache * 1000)}",
        f"--parallelism={config.parallelism or Cluster(config.master).get('overview')['slots-total']}",
        # Without it all reading is on one task manager.
        "--experiments=pre_optimize=all",
        "--job_server_timeout=300",
    ]


def at_once(job: str) -> list[str]:
    """Return further arguments for a job that is not tried again.

    Args:
      job: its name.
    """
    return [f"--job_name={job}", f"--experiments={AT_ONCE}"]


def check(config: schema.Flink) -> None:
    """Check, before anything is started, that a cluster can be used.

    Args:
      config: the cluster.

    Raises:
      FlinkError: the jar is none, or for another Flink, or there are too few slots.
      UnreachableError: the cluster does not answer.
    """
    overview = Cluster(config.master).get("overview")
    version = ".".join(overview["flink-version"].split(".")[:2])
    slots, managers = overview["slots-total"], overview["taskmanagers"]
    fits = jar_version(config.job_server_jar)
    if fits is not None and fits != version:
        raise FlinkError(
            f"beam.flink.job_server_jar = {config.job_server_jar}: for Flink {fits}, and {config.master} is Flink"
            f" {overview['flink-version']}; expected Beam's job server for {version}"
        )
    if slots < (config.parallelism or 1):
        asked = "null" if config.parallelism is None else config.parallelism
        raise FlinkError(
            f"beam.flink.parallelism = {asked}: {config.master} has {slots} slots on {managers} task managers; expected"
            f" {f'at most {slots}, or null, which takes all' if slots else 'a task manager to be there'}"
        )


def jar_version(path: str) -> str | None:
    """Return which Flink Beam's job server is for, e.g. `1.19`; None if neither what is in it nor its name says so.

    Args:
      path: of the jar.

    Raises:
      FlinkError: there is no such jar, or it is something else.
    """
    try:
        with zipfile.ZipFile(path) as jar:
            names = jar.namelist()
        problem = "does not have Beam's runner for Flink in it"
    except zipfile.BadZipFile:
        names, problem = [], "is no jar"
    except OSError as error:
        names, problem = [], str(error.strerror)
    if _ENTRY not in names:
        expected = "expected the jar of Beam's job server for Flink, beam-runners-flink-X.Y-job-server"
        raise FlinkError(f"beam.flink.job_server_jar = {path}: {problem}; {expected}")
    found = next(filter(None, map(_POM.fullmatch, names)), None) or _NAME.fullmatch(path)
    return found[1] if found else None


def in_a_line(stack: str) -> str:
    """Return the last error in Python that a stack of Java holds, or else the last one in Java, in a line.

    Args:
      stack: as Flink shows it.
    """
    _, found, python = stack.rpartition("Traceback (most recent call last):")
    if found:
        told = itertools.takewhile(lambda line: not line.startswith("\tat "), python.splitlines()[1:])
        words = " ".join(itertools.dropwhile(lambda line: not line or line[0].isspace(), told))
        return " ".join(words.split(" [while running")[0].split())
    causes = [line.removeprefix("Caused by: ") for line in stack.splitlines() if line and not line[0].isspace()]
    return causes[-1] if causes else "it failed without a word"


def is_of_lost_worker(message: str) -> bool:
    """Return whether a job failed of Python that was gone before it was asked to do something.

    Args:
      message: as from `in_a_line`.
    """
    return _LOST_WORKER.search(message) is not None


def _why(error: requests.RequestException) -> str:
    """What went wrong with a call, in a few words."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"status {error.response.status_code}"
    if isinstance(error, requests.Timeout):
        return f"nothing within {_CALL_SECONDS:.0f} s"
    if isinstance(error, requests.JSONDecodeError):
        return "what answers is something else"
    return "no connection"
