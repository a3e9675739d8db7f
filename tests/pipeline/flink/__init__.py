"""A stand-in for the REST interface of a Flink; its answers were recorded from Flink 1.16.3, in the JSON files here."""

import contextlib
import copy
import json
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

from tests.web import serving

RUNNING_JOB = "78b023c9c1cf9ac0385b60d89603617c"
FAILED_JOB = "3ec2f2c0a519bb2d3ddd1d1ab9f45ed4"


def recorded(name: str) -> Any:
    """An answer."""
    return json.loads((Path(__file__).parent / f"{name}.json").read_text(encoding="utf-8"))


class Cluster:
    """What is asked of it, and what it answers.

    Args:
      looks: how often a job is seen to be cancelling before it is cancelled.
    """

    def __init__(self, looks: int = 1):
        self.asked: list[str] = []
        self.overview = recorded("overview")
        self.jobs = copy.deepcopy(recorded("jobs"))
        self._looks = looks

    def state(self, job_id: str) -> str:
        return next(job["state"] for job in self.jobs["jobs"] if job["jid"] == job_id)

    def answer(self, method: str, path: str, body: bytes, headers: Message) -> tuple[int, Any]:
        del body, headers
        self.asked.append(f"{method} {path}")
        if (method, path) == ("PATCH", f"/v1/jobs/{RUNNING_JOB}?mode=cancel"):
            self._set(RUNNING_JOB, "CANCELLING")
            return 202, {}
        if method == "GET":
            if path == "/v1/overview":
                return 200, self.overview
            if path == "/v1/jobs/overview":
                found = copy.deepcopy(self.jobs)
                if self.state(RUNNING_JOB) == "CANCELLING":
                    self._looks -= 1
                    if self._looks < 0:
                        self._set(RUNNING_JOB, "CANCELED")
                return 200, found
            if path == f"/v1/jobs/{FAILED_JOB}/exceptions":
                return 200, recorded("failed_in_python")
        return 404, {"errors": [f"Unable to load requested file {path}."]}

    def _set(self, job_id: str, state: str) -> None:
        next(job for job in self.jobs["jobs"] if job["jid"] == job_id)["state"] = state


@contextlib.contextmanager
def running(cluster: Cluster) -> Iterator[str]:
    """Serve a cluster; yields its host and port."""
    with serving(cluster.answer) as url:
        yield url.removeprefix("http://")
