"""A stand-in for the REST API of Kubeflow Pipelines 2.17, v2beta1, built on the models of kfp-server-api; it runs nothing.

Its answers have the shape of those in `answers/`, which a real server gave: a run lists Argo's nodes, each twice and in no
order, drivers and groups among them; what never ran has no state; errors of tasks are always empty; lists without anything
have no key; a run that is cancelled has failed; deleting a recurring run takes its workflows along, and what ran then runs
for ever, as far as this server knows.
"""

import contextlib
import datetime
import email
import email.policy
import itertools
import json
import random
import urllib.parse
import uuid
from pathlib import Path
from typing import Any

import kfp_server_api as api
import yaml

from tests import web

PREFIX = "/apis/v2beta1"
FIRST = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)
NEVER = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
ANSWERS = Path(__file__).parent / "answers"


class RefusalError(Exception):
    """An error answer."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status, self.message = status, message


class Server:
    """What the server keeps, in order of creation.

    Args:
      token: that requests must bear; None asks for none.
      version: of Kubeflow Pipelines; empty says none.
      multi_user: whether everything is in a namespace.

    Attributes:
      failures: statuses for the next requests.
      forbidden: whether who asks may not see recurring runs.
      dead: runs whose workflows were deleted.
      away: how many of the next requests find nobody.
      progress: states of the tasks of any run by key, look by look; the run ends with the last.
    """

    def __init__(self, token: str | None = None, version: str = "2.17.0", multi_user: bool = False):
        self.token, self.version, self.multi_user = token, version, multi_user
        self.failures: list[int] = []
        self.away = 0
        self.dead: set[str] = set()
        self.forbidden = False
        self.requests: list[str] = []
        self.progress: list[dict[str, str]] = [{}]
        self.final = "SUCCEEDED"
        self.pipelines: dict[str, api.V2beta1Pipeline] = {}
        self.versions: dict[str, api.V2beta1PipelineVersion] = {}
        self.experiments: dict[str, api.V2beta1Experiment] = {}
        self.runs: dict[str, api.V2beta1Run] = {}
        self.recurring: dict[str, api.V2beta1RecurringRun] = {}
        self._looks: dict[str, int] = {}
        self._clock = (FIRST + datetime.timedelta(minutes=minute) for minute in itertools.count())
        self._client = api.ApiClient(api.Configuration())

    def answer(self, method: str, path: str, query: dict[str, str], body: bytes, headers: Any) -> Any:
        """Answer a request, as a JSON value.

        Raises:
          RefusalError: with the status of the error.
        """
        self.requests.append(f"{method} {path}")
        if self.away:
            self.away -= 1
            raise ConnectionAbortedError
        if self.failures:
            raise RefusalError(self.failures.pop(0), "for now")
        if self.token is not None and headers.get("authorization") != f"Bearer {self.token}":
            raise RefusalError(401, "Unauthenticated")
        if not path.startswith(PREFIX):
            raise RefusalError(404, f"Not Found: {path}")
        kind, _, rest = path.removeprefix(f"{PREFIX}/").partition("/")
        name, _, action = rest.partition(":")
        handler = getattr(self, f"_{method.lower()}_{kind}", None)
        if handler is None:
            raise RefusalError(404, f"Not Found: {method} {path}")
        return self._client.sanitize_for_serialization(handler(name, action, query, body, headers))

    def _get_healthz(self, *_: Any) -> Any:
        said = {"commit_sha": "4a3592cb2dd0", "multi_user": self.multi_user, "pipeline_store": "database"}
        return said | ({"tag_name": self.version} if self.version else {})

    def _get_pipelines(self, name: str, action: str, query: dict[str, str], *_: Any) -> Any:
        if name.endswith("/versions"):
            found = [one for one in self.versions.values() if one.pipeline_id == name.split("/", maxsplit=1)[0]]
            return _page(api.V2beta1ListPipelineVersionsResponse, "pipeline_versions", found, query)
        if "/versions/" in name:
            return _one(self.versions, name.rpartition("/")[2])
        if name:
            return _one(self.pipelines, name)
        found = [one for one in self.pipelines.values() if one.namespace == self._namespace(query)]
        return _page(api.V2beta1ListPipelinesResponse, "pipelines", found, query)

    def _namespace(self, query: dict[str, str]) -> str | None:
        """Where something is; without users there is but one place."""
        return query.get("namespace") if self.multi_user else None

    def _post_pipelines(self, name: str, action: str, query: dict[str, str], body: bytes, headers: Any) -> Any:
        spec = _uploaded(body, headers)
        if name == "upload":
            place = query["name"], self._namespace(query)
            if any((one.display_name, one.namespace) == place for one in self.pipelines.values()):
                message = (
                    f"Failed to create a new pipeline. The name {query['name']} already exist. Please specify a new name"
                )
                raise RefusalError(409, message)
            made = api.V2beta1Pipeline(
                pipeline_id=_id(), display_name=place[0], name=place[0], namespace=place[1], created_at=next(self._clock)
            )
            self.pipelines[made.pipeline_id] = made
            self._add_version(made.pipeline_id, query["name"], spec)
            return made
        _one(self.pipelines, query["pipelineid"])
        return self._add_version(query["pipelineid"], query["name"], spec)

    def _add_version(self, pipeline_id: str, name: str, spec: Any) -> Any:
        if any((one.pipeline_id, one.display_name) == (pipeline_id, name) for one in self.versions.values()):
            raise RefusalError(409, f"version {name} already exists")
        version = api.V2beta1PipelineVersion(
            pipeline_id=pipeline_id,
            pipeline_version_id=_id(),
            display_name=name,
            created_at=next(self._clock),
            pipeline_spec=dict(zip(("pipeline_spec", "platform_spec"), spec, strict=False)),
        )
        self.versions[version.pipeline_version_id] = version
        return version

    def _get_experiments(self, name: str, action: str, query: dict[str, str], *_: Any) -> Any:
        if name:
            return _one(self.experiments, name)
        return _page(api.V2beta1ListExperimentsResponse, "experiments", list(self.experiments.values()), query)

    def _post_experiments(self, name: str, action: str, query: dict[str, str], body: bytes, headers: Any) -> Any:
        made = self._read(body, api.V2beta1Experiment)
        made.experiment_id, made.created_at = _id(), next(self._clock)
        self.experiments[made.experiment_id] = made
        return made

    def _get_runs(self, name: str, action: str, query: dict[str, str], *_: Any) -> Any:
        if not name:
            found = [one for one in self.runs.values() if query.get("experiment_id") in {None, one.experiment_id}]
            if query.get("sort_by") == "created_at desc":
                found.reverse()
            return _page(api.V2beta1ListRunsResponse, "runs", found, query)
        run = _one(self.runs, name)
        if run.state in {"FAILED", "SUCCEEDED"} or name in self.dead:
            return run
        look = self._looks[name] = self._looks.get(name, -1) + 1
        self._move(run, "RUNNING" if look < len(self.progress) - 1 else self.final)
        (spec, *_) = _one(self.versions, run.pipeline_version_reference.pipeline_version_id).pipeline_spec.values()
        run.run_details = api.V2beta1RunDetails(
            task_details=_argo_nodes(spec, self.progress[min(look, len(self.progress) - 1)], run.state)
        )
        return run

    def _move(self, run: Any, state: str) -> None:
        if run.state != state:
            run.state_history = [
                *(run.state_history or []),
                api.V2beta1RuntimeStatus(update_time=next(self._clock), state=state),
            ]
        run.state = state
        run.finished_at = NEVER if state in {"PENDING", "RUNNING", "CANCELING"} else next(self._clock)

    def _post_runs(self, name: str, action: str, query: dict[str, str], body: bytes, headers: Any) -> Any:
        if action == "terminate":
            for state in ("CANCELING", "FAILED"):
                self._move(_one(self.runs, name), state)
            return {}
        if action == "retry":
            run = _one(self.runs, name)
            if run.state != "FAILED":
                raise RefusalError(409, "Workflow must be Failed/Error to retry")
            self._move(run, "RUNNING")
            self._looks[name] = -1
            return {}
        made = self._read(body, api.V2beta1Run)
        return self.start(made)

    def start(self, made: Any) -> Any:
        """Start a run, as a request or a schedule does."""
        self._check_references(made)
        made.run_id, made.created_at = _id(), next(self._clock)
        # Only the reference is kept of a pipeline that was uploaded.
        made.pipeline_spec = made.run_details = None
        self._move(made, "PENDING")
        self.runs[made.run_id] = made
        return made

    def start_scheduled(self, recurring: Any) -> Any:
        """Start a run of a recurring run, as its time has come."""
        run = self.start(
            api.V2beta1Run(
                display_name=f"{recurring.display_name}8vn5v-2",
                experiment_id=recurring.experiment_id,
                recurring_run_id=recurring.recurring_run_id,
                pipeline_version_reference=recurring.pipeline_version_reference,
                runtime_config=recurring.runtime_config,
            )
        )
        self._move(run, "RUNNING")
        return run

    def _get_recurringruns(self, name: str, action: str, query: dict[str, str], *_: Any) -> Any:
        if self.forbidden:
            raise RefusalError(403, "User is not authorized to list recurring runs")
        if name:
            return _one(self.recurring, name)
        return _page(api.V2beta1ListRecurringRunsResponse, "recurring_runs", list(self.recurring.values()), query)

    def _post_recurringruns(self, name: str, action: str, query: dict[str, str], body: bytes, headers: Any) -> Any:
        if action:
            recurring = _one(self.recurring, name)
            recurring.mode, recurring.status = action.upper(), f"{action.upper()}D"
            return {}
        made = self._read(body, api.V2beta1RecurringRun)
        self._check_references(made)
        cron = made.trigger.cron_schedule.cron if made.trigger.cron_schedule else None
        if cron is not None and len(cron.split()) != 6:
            raise RefusalError(400, f"Schedule is invalid: {cron}")
        made.recurring_run_id, made.created_at, made.status = _id(), next(self._clock), f"{made.mode}D"
        self.recurring[made.recurring_run_id] = made
        return made

    def _delete_recurringruns(self, name: str, action: str, query: dict[str, str], *_: Any) -> Any:
        _one(self.recurring, name)
        del self.recurring[name]
        if query.get("propagation_policy") != "ORPHAN":
            # Their workflows are gone, and nobody tells this server of it.
            self.dead |= {run.run_id for run in self.runs.values() if run.recurring_run_id == name}
        return {}

    def _check_references(self, made: Any) -> None:
        _one(self.experiments, made.experiment_id)
        version = _one(self.versions, made.pipeline_version_reference.pipeline_version_id)
        known = version.pipeline_spec["pipeline_spec"]["root"].get("inputDefinitions", {}).get("parameters", {})
        if self.version.removeprefix("v") < "2.16" and "securityContext" in json.dumps(version.pipeline_spec):
            raise RefusalError(400, 'failed to unmarshal kubernetes config: unknown field "securityContext"')
        kinds = {"STRING": str, "BOOLEAN": bool, "NUMBER_INTEGER": int, "NUMBER_DOUBLE": int | float}
        for name, value in (made.runtime_config.parameters or {} if made.runtime_config else {}).items():
            if name not in known:
                raise RefusalError(400, f"Invalid input error: parameter {name} is not in the pipeline")
            if not isinstance(value, kinds[known[name]["parameterType"]]):
                raise RefusalError(400, f"Invalid input error: input parameter {name} requires type string, but {value}")

    def _read(self, body: bytes, model: Any) -> Any:
        """Read a model as the official client does; what does not fit it is an error."""

        class Response:
            data = body.decode()

        return self._client.deserialize(Response, model)


def _id() -> str:
    return str(uuid.uuid4())


def _one(kept: dict[str, Any], name: str) -> Any:
    if name not in kept:
        raise RefusalError(404, f"ResourceNotFoundError: {name} not found")
    return kept[name]


def _page(response: Any, key: str, found: list[Any], query: dict[str, str]) -> Any:
    """A page of what was found; no page has more than three."""
    for predicate in json.loads(query.get("filter") or "{}").get("predicates", []):
        found = [one for one in found if getattr(one, predicate["key"]) == predicate["stringValue"]]
    start, size = int(query.get("page_token") or 0), min(3, int(query.get("page_size") or 20))
    end = start + size
    # As protobuf writes JSON: what is empty is not there.
    return response(
        **{key: found[start:end] or None, "total_size": len(found) or None},
        next_page_token=str(end) if end < len(found) else None,
    )


def _argo_nodes(spec: Any, states: dict[str, str], run_state: str) -> list[Any]:
    """The tasks of a run as the server lists them, from the states of some by key; what has none has not begun."""
    groups = {key for one in spec["components"].values() for key in one.get("dag", {}).get("tasks", {})}
    found = []

    def add(name: str, state: str | None, child: bool = True) -> None:
        over = state not in {"RUNNING", "PENDING"}
        found.append(
            api.V2beta1PipelineTaskDetail(
                run_id=_id(),
                task_id=_id(),
                display_name=name,
                create_time=FIRST,
                start_time=FIRST,
                end_time=FIRST + datetime.timedelta(seconds=7) if over else NEVER,
                state=state,
                state_history=[api.V2beta1RuntimeStatus(update_time=FIRST, state=state)],
                child_tasks=[api.PipelineTaskDetailChildTask(pod_name=f"images-znxs2-{len(found)}")] if child else None,
            )
        )

    for name in ("images-znxs2", "images-znxs2(0)", "root", "root(0)"):
        add(name, run_state)
    for name in ("root-driver", "root-driver(0)"):
        add(name, "SUCCEEDED")
    for key in [*spec["root"]["dag"]["tasks"], *sorted(groups)]:
        if key not in states:
            if run_state == "FAILED" and key in groups:
                # Argo omits what depends on a task that failed.
                add(f"{key}-driver", None)
                add(key, None, child=False)
            continue
        for name in (f"{key}-driver", f"{key}-driver(0)"):
            add(name, "RUNNING" if states[key] == "PENDING" else "SUCCEEDED")
        if states[key] != "PENDING":
            for name in (key, f"{key}(0)", "executor", "executor(0)"):
                add(name, states[key], child=name != "executor(0)")
    random.Random(len(found)).shuffle(found)
    return found


def _uploaded(body: bytes, headers: Any) -> Any:
    """The pipeline in a multipart request."""
    head = f"Content-Type: {headers['Content-Type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + body, policy=email.policy.HTTP)
    (part,) = message.iter_parts()
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    return list(yaml.safe_load_all(content))


def serving(server: Server) -> contextlib.AbstractContextManager[str]:
    """Serve on a free port; yields `http://localhost:PORT`."""

    def answer(method: str, path: str, body: bytes, headers: Any) -> tuple[int, Any]:
        parts = urllib.parse.urlsplit(path)
        try:
            return 200, server.answer(method, parts.path, dict(urllib.parse.parse_qsl(parts.query)), body, headers)
        except RefusalError as refusal:
            code = {404: 5, 409: 6}.get(refusal.status, 3)
            told = {"code": code, "message": refusal.message}
            message = f"Failed to serve the request: {refusal.message}"
            return refusal.status, {"code": code, "message": message, "details": [told]}

    return web.serving(answer)
