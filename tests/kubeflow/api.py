"""A stand-in for the REST API of Kubeflow Pipelines, v2beta1, built on the models of kfp-server-api; it runs nothing."""

import contextlib
import datetime
import email
import email.policy
import itertools
import json
import urllib.parse
import uuid
from typing import Any

import kfp_server_api as api
import yaml

from tests import web

PREFIX = "/apis/v2beta1"
FIRST = datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC)


class RefusalError(Exception):
    """An error answer."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status, self.message = status, message


class Server:
    """What the server keeps, in order of creation.

    Args:
      token: that requests must bear; None asks for none.

    Attributes:
      failures: statuses for the next requests.
      progress: states of the nodes of any run, look by look; the run succeeds with the last.
    """

    def __init__(self, token: str | None = None):
        self.token = token
        self.failures: list[int] = []
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
        return api.V2beta1GetHealthzResponse(multi_user=False)

    def _get_pipelines(self, name: str, action: str, query: dict[str, str], *_: Any) -> Any:
        if name.endswith("/versions"):
            found = [one for one in self.versions.values() if one.pipeline_id == name.split("/", maxsplit=1)[0]]
            return _page(api.V2beta1ListPipelineVersionsResponse, "pipeline_versions", found, query)
        if name:
            return _one(self.pipelines, name)
        return _page(api.V2beta1ListPipelinesResponse, "pipelines", list(self.pipelines.values()), query)

    def _post_pipelines(self, name: str, action: str, query: dict[str, str], body: bytes, headers: Any) -> Any:
        spec = _uploaded(body, headers)
        if name == "upload":
            if any(one.display_name == query["name"] for one in self.pipelines.values()):
                raise RefusalError(409, f"pipeline {query['name']} already exists")
            made = api.V2beta1Pipeline(pipeline_id=_id(), display_name=query["name"], created_at=next(self._clock))
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
            pipeline_spec=spec,
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
        look = self._looks[name] = self._looks.get(name, -1) + 1
        states = self.progress[min(look, len(self.progress) - 1)]
        run.run_details = api.V2beta1RunDetails(
            task_details=[
                api.V2beta1PipelineTaskDetail(
                    display_name=node,
                    state=state,
                    start_time=FIRST,
                    end_time=FIRST + datetime.timedelta(seconds=7) if state in {"SUCCEEDED", "FAILED"} else None,
                    error=api.GoogleRpcStatus(message="it broke") if state == "FAILED" else None,
                )
                for node, state in states.items()
            ]
        )
        if run.state != "CANCELED":
            run.state = self.final if look >= len(self.progress) - 1 else "RUNNING"
        return run

    def _post_runs(self, name: str, action: str, query: dict[str, str], body: bytes, headers: Any) -> Any:
        if action == "terminate":
            _one(self.runs, name).state = "CANCELED"
            return {}
        made = self._read(body, api.V2beta1Run)
        self._check_references(made)
        made.run_id, made.created_at, made.state = _id(), next(self._clock), "PENDING"
        self.runs[made.run_id] = made
        return made

    def _get_recurringruns(self, name: str, action: str, query: dict[str, str], *_: Any) -> Any:
        return _page(api.V2beta1ListRecurringRunsResponse, "recurring_runs", list(self.recurring.values()), query)

    def _post_recurringruns(self, name: str, action: str, query: dict[str, str], body: bytes, headers: Any) -> Any:
        if action:
            _one(self.recurring, name).status = f"{action.upper()}D"
            return {}
        made = self._read(body, api.V2beta1RecurringRun)
        self._check_references(made)
        cron = made.trigger.cron_schedule.cron if made.trigger.cron_schedule else None
        if cron is not None and len(cron.split()) != 6:
            raise RefusalError(400, f"Schedule is invalid: {cron}")
        made.recurring_run_id, made.created_at, made.status = _id(), next(self._clock), f"{made.mode}D"
        self.recurring[made.recurring_run_id] = made
        return made

    def _delete_recurringruns(self, name: str, *_: Any) -> Any:
        _one(self.recurring, name)
        del self.recurring[name]
        return {}

    def _check_references(self, made: Any) -> None:
        _one(self.experiments, made.experiment_id)
        version = _one(self.versions, made.pipeline_version_reference.pipeline_version_id)
        known = next(iter(version.pipeline_spec))["root"].get("inputDefinitions", {}).get("parameters", {})
        for name in made.runtime_config.parameters or {}:
            if name not in known:
                raise RefusalError(400, f"Invalid input error: parameter {name} is not in the pipeline")

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
    fields = {key: found[start:end], "next_page_token": str(end) if end < len(found) else ""}
    return response(**fields)


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
            return refusal.status, {"error": refusal.message, "code": 0, "message": refusal.message}

    return web.serving(answer)
