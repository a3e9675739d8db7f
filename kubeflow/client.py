"""The pipeline at a Kubeflow Pipelines server: uploaded, run, scheduled, followed, through kfp's own client."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import kfp
import kfp_server_api
import requests
import yaml
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

FINISHED = {"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED", "CACHED"}
FAILED = {"FAILED", "CANCELED"}
_PAGE = 100


class ClientError(RuntimeError):
    """What the server refused, or could not be asked; the message is one line."""


class Schedule(NamedTuple):
    """When runs start by themselves."""

    cron: str | None = None
    """Five fields, or six with seconds first; in the server's time zone, which is UTC unless it was told another."""
    every_seconds: int | None = None
    """Between two starts, in the place of `cron`."""
    start: datetime.datetime | None = None
    """Earliest start, with its time zone."""
    end: datetime.datetime | None = None
    """Latest start, with its time zone."""
    max_concurrency: int = 1
    """Runs at once."""
    catchup: bool = False
    """Whether starts that were missed are made up for."""
    enabled: bool = True
    """Whether it runs at all."""


class NodeState(NamedTuple):
    """How a node of a run fares."""

    node: str
    state: str
    seconds: float | None
    error: str


class Pipelines:
    """A Kubeflow Pipelines server.

    Args:
      host: its address, e.g. `http://localhost:8080`; None finds it from inside the cluster, or by the kubeconfig.
      token: bearer token; None sends none, or in the cluster that of the pod's service account.
      namespace: of the user, where the server has several.

    Raises:
      ClientError: there is no server.
    """

    def __init__(self, host: str | None = None, token: str | None = None, namespace: str | None = None):
        self._namespace = namespace
        if host is not None:
            _check_reachable(host, token)
        with _explained():
            self._client = kfp.Client(host=host, existing_token=token, **({"namespace": namespace} if namespace else {}))
        # What only reads or ends something may be asked again while the server restarts.
        again = Retry(total=4, backoff_factor=0.3, status_forcelist=[502, 503, 504], raise_on_status=False)
        pool = self._client._pipelines_api.api_client.rest_client.pool_manager
        pool.connection_pool_kw["retries"] = again

    def upload(self, pipeline: Path) -> tuple[str, str, bool]:
        """Upload a compiled pipeline, if the server does not have this very one.

        Args:
          pipeline: YAML that `compiler.compile_pipeline` wrote.

        Returns:
          Ids of the pipeline and of its version, and whether the version is new.
        """
        name, digest = _name_of(pipeline), hashlib.sha256(pipeline.read_bytes()).hexdigest()[:12]
        with _explained():
            pipeline_id = self._client.get_pipeline_id(name)
            if pipeline_id is None:
                made = self._client.upload_pipeline(str(pipeline), name, namespace=self._namespace)
                pipeline_id = made.pipeline_id
            for version in self._pages(self._client.list_pipeline_versions, "pipeline_versions", pipeline_id=pipeline_id):
                if version.display_name == digest:
                    return pipeline_id, version.pipeline_version_id, False
            added = self._client.upload_pipeline_version(str(pipeline), digest, pipeline_id=pipeline_id)
            return pipeline_id, added.pipeline_version_id, True

    def submit(self, pipeline: Path, experiment: str | None, values: Mapping[str, Any], service_account: str | None) -> str:
        """Start a run.

        Args:
          pipeline: as for `upload`, which comes first.
          experiment: name, made if it is missing; None takes the pipeline's.
          values: of parameters, by name.
          service_account: that the pods run as; None leaves it to the server.

        Returns:
          The id of the run.
        """
        name = _name_of(pipeline)
        self._check_values(pipeline, values)
        pipeline_id, version_id, _ = self.upload(pipeline)
        with _explained():
            in_experiment = self._client.create_experiment(experiment or name, namespace=self._namespace).experiment_id
            title = f"{name} {datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')}"
            run = self._client.run_pipeline(
                *(in_experiment, title),
                params=dict(values),
                pipeline_id=pipeline_id,
                version_id=version_id,
                service_account=service_account,
            )
            return run.run_id

    def schedule(
        self,
        name: str,
        pipeline: Path,
        when: Schedule,
        experiment: str | None,
        values: Mapping[str, Any],
        service_account: str | None,
    ) -> str:
        """Create the recurring run of a name, or change it: the old one goes once the new one is there.

        Args:
          name: of the recurring run.
          pipeline: as for `upload`, which comes first.
          when: runs start.
          experiment: as for `submit`.
          values: of parameters, by name.
          service_account: as for `submit`.

        Returns:
          Its id.
        """
        self._check_values(pipeline, values)
        cron = with_seconds(when.cron)
        pipeline_id, version_id, _ = self.upload(pipeline)
        with _explained():
            in_experiment = self._client.create_experiment(
                experiment or _name_of(pipeline), namespace=self._namespace
            ).experiment_id
            before = self._recurring(name)
            made = self._client.create_recurring_run(
                *(in_experiment, name),
                start_time=_utc(when.start),
                end_time=_utc(when.end),
                interval_second=when.every_seconds,
                cron_expression=cron,
                max_concurrency=when.max_concurrency,
                no_catchup=not when.catchup,
                params=dict(values),
                pipeline_id=pipeline_id,
                version_id=version_id,
                enabled=when.enabled,
                service_account=service_account,
            )
            for old in before:
                self._client.delete_recurring_run(old.recurring_run_id)
            return made.recurring_run_id

    def change_schedule(self, name: str, action: str) -> None:
        """Enable, disable or delete a recurring run.

        Args:
          name: of it.
          action: `enable`, `disable` or `delete`.

        Raises:
          ClientError: there is none of that name.
        """
        with _explained():
            found = self._recurring(name)
            if not found:
                known = sorted({one.display_name for one in self._all_recurring()})
                raise ClientError(f"no recurring run {name}; there are: {', '.join(known) or 'none'}")
            change = getattr(self._client, f"{action}_recurring_run")
            for one in found:
                change(one.recurring_run_id)

    def follow(self, run_id: str, every_seconds: float, on_state: Callable[[NodeState], None], once: bool = False) -> str:
        """Report each node's state when it changes, until the run ends.

        Args:
          run_id: of the run.
          every_seconds: between two looks.
          on_state: called for each change.
          once: look only once.

        Returns:
          The state of the run.
        """
        seen: dict[str, NodeState] = {}
        while True:
            with _explained():
                run = self._client.get_run(run_id)
            for state in _node_states(run):
                if seen.get(state.node, state)[1] != state.state or state.node not in seen:
                    seen[state.node] = state
                    on_state(state)
            if once or run.state in FINISHED:
                return run.state
            time.sleep(every_seconds)

    def latest_run(self, experiment: str) -> str:
        """Return the id of the newest run of an experiment.

        Raises:
          ClientError: there is none.
        """
        with _explained():
            try:
                found = self._client.get_experiment(experiment_name=experiment, namespace=self._namespace)
            except ValueError:
                raise ClientError(f"no experiment {experiment}") from None
            runs = self._client.list_runs(
                experiment_id=found.experiment_id, namespace=self._namespace, page_size=1, sort_by="created_at desc"
            ).runs
        if not runs:
            raise ClientError(f"no run in the experiment {experiment}")
        return runs[0].run_id

    def cancel(self, run_id: str) -> None:
        """End a run before its end."""
        with _explained():
            self._client.terminate_run(run_id)

    def _recurring(self, name: str) -> list[Any]:
        return [one for one in self._all_recurring() if one.display_name == name]

    def _all_recurring(self) -> Iterator[Any]:
        return self._pages(self._client.list_recurring_runs, "recurring_runs", namespace=self._namespace)

    def _pages(self, listing: Callable[..., Any], key: str, **arguments: Any) -> Iterator[Any]:
        token = ""
        while True:
            page = listing(page_token=token, page_size=_PAGE, **arguments)
            yield from getattr(page, key) or ()
            token = page.next_page_token
            if not token:
                return

    def _check_values(self, pipeline: Path, values: Mapping[str, Any]) -> None:
        known = _spec_of(pipeline)["root"].get("inputDefinitions", {}).get("parameters", {})
        for name in values:
            if name not in known:
                raise ClientError(f"no parameter {name}; {pipeline} has: {', '.join(known)}")


def with_seconds(cron: str | None) -> str | None:
    """Return a cron expression with the field for seconds that Kubeflow Pipelines wants.

    Args:
      cron: five fields, or six with seconds first, or a shorthand such as `@daily`; None stays None.

    Raises:
      ClientError: it has another number of fields.
    """
    if cron is None or cron.startswith("@"):
        return cron
    fields = cron.split()
    if len(fields) not in {5, 6}:
        raise ClientError(f"{cron!r}: a cron expression has five fields, or six with seconds first, e.g. '0 2 * * *'")
    return " ".join(fields if len(fields) == 6 else ["0", *fields])


def _spec_of(pipeline: Path) -> dict[str, Any]:
    try:
        spec = next(iter(yaml.safe_load_all(pipeline.read_text(encoding="utf-8"))))
        spec["pipelineInfo"]["name"]
    except (OSError, UnicodeDecodeError) as error:
        raise ClientError(f"{pipeline}: {getattr(error, 'strerror', None) or error}") from None
    except (yaml.YAMLError, KeyError, TypeError, StopIteration):
        raise ClientError(f"{pipeline}: not a compiled pipeline; `finetune kubeflow compile` writes one") from None
    return spec


def _name_of(pipeline: Path) -> str:
    return _spec_of(pipeline)["pipelineInfo"]["name"]


def _utc(moment: datetime.datetime | None) -> str | None:
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if moment else None


def _node_states(run: Any) -> Iterator[NodeState]:
    details = (run.run_details.task_details if run.run_details else None) or []
    for task in details:
        # Drivers and the root of the graph are tasks too.
        if task.display_name in {None, "root"} or task.display_name.endswith("-driver") or task.state is None:
            continue
        seconds = (task.end_time - task.start_time).total_seconds() if task.end_time and task.start_time else None
        yield NodeState(task.display_name, task.state, seconds, task.error.message or "" if task.error else "")


def _check_reachable(host: str, token: str | None) -> None:
    """Ask a server whether it is there: kfp's client would ask for half a minute, and not say what the answer was."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        answer = requests.get(f"{host.rstrip('/')}/apis/v2beta1/healthz", headers=headers, timeout=30)
    except requests.RequestException as error:
        raise ClientError(f"no answer from {host}: {error}") from None
    if not answer.ok:
        raise ClientError(f"{host}: {_refusal(answer.status_code, answer.reason, answer.text)}")


def _refusal(status: int, reason: str, body: str | None) -> str:
    """What a server refused, in one line, and what may help."""
    message = reason
    with contextlib.suppress(ValueError):
        content = json.loads(body or "{}")
        message = content.get("error_message") or content.get("message") or content.get("error") or message
    hint = {401: " (give a token: --token-file)", 403: " (who the token is for may not do that)"}.get(status, "")
    return f"HTTP {status}: {message}{hint}"


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turn what the client raises into one line, and keep what it prints out of our results."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except kfp_server_api.ApiException as error:
        raise ClientError(_refusal(error.status, error.reason, error.body)) from None
    except (HTTPError, OSError) as error:
        raise ClientError(f"no answer from the server: {error}") from None
