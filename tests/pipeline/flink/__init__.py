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
        self.uploads: list[bytes] = []
        self.outcomes: list[str] = []
        """What becomes of the jobs that are started, by the name of a record; none ends by itself."""
        self._failed_of = "failed_in_python"
        self._looks = looks

    def state(self, job_id: str) -> str:
        return next(job["state"] for job in self.jobs["jobs"] if job["jid"] == job_id)

    def answer(self, method: str, path: str, body: bytes, headers: Message) -> tuple[int, Any]:
        del headers
        self.asked.append(f"{method} {path}")
        known = {
            "GET /v1/overview": lambda: (200, self.overview),
            "GET /v1/jobs/overview": self._list,
            f"GET /v1/jobs/{FAILED_JOB}/exceptions": lambda: (200, recorded("failed_in_python")),
            f"GET /v1/jobs/{RUNNING_JOB}": lambda: (200, {"state": self.state(RUNNING_JOB)}),
            f"GET /v1/jobs/{RUNNING_JOB}/execution-result": self._look,
            f"GET /v1/jobs/{RUNNING_JOB}/exceptions": lambda: (200, recorded(self._failed_of)),
            f"PATCH /v1/jobs/{RUNNING_JOB}?mode=cancel": lambda: self._set(RUNNING_JOB, "CANCELLING", 202),
            "POST /v1/jars/upload": lambda: self._upload(body),
            "POST /v1/jars/53d90966_x.jar/run": lambda: self._set(RUNNING_JOB, "RUNNING", 200, {"jobid": RUNNING_JOB}),
            "DELETE /v1/jars/53d90966_x.jar": lambda: (200, {}),
        }
        unknown = 404, {"errors": [f"Unable to load requested file {path}."]}
        return known.get(f"{method} {path}", lambda: unknown)()

    def _list(self) -> tuple[int, Any]:
        found = copy.deepcopy(self.jobs)
        if self.state(RUNNING_JOB) == "CANCELLING":
            self._looks -= 1
            if self._looks < 0:
                self._set(RUNNING_JOB, "CANCELED")
        return 200, found

    def _look(self) -> tuple[int, Any]:
        if self.outcomes and self.state(RUNNING_JOB) == "RUNNING":
            self._failed_of = self.outcomes.pop(0)
            self._set(RUNNING_JOB, "FAILED" if self._failed_of else "FINISHED")
        return 200, {"status": {"id": "IN_PROGRESS" if self.state(RUNNING_JOB) == "RUNNING" else "COMPLETED"}}

    def _upload(self, body: bytes) -> tuple[int, Any]:
        self.uploads.append(body)
        return 200, {"filename": "/tmp/flink-web-upload/53d90966_x.jar", "status": "success"}

    def _set(self, job_id: str, state: str, status: int = 200, answer: Any = None) -> tuple[int, Any]:
        next(job for job in self.jobs["jobs"] if job["jid"] == job_id)["state"] = state
        return status, answer or {}


@contextlib.contextmanager
def running(cluster: Cluster) -> Iterator[str]:
    """Serve a cluster; yields its host and port."""
    with serving(cluster.answer) as url:
        yield url.removeprefix("http://")
