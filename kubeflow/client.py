"""The pipeline at a Kubeflow Pipelines server: uploaded, run, looked at and ended, through kfp's own client."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import io
import json
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import kfp
import kfp_server_api
import requests
import yaml
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

SERVED = ((2, 15), (2, 18))
"""The oldest and the newest Kubeflow Pipelines that are served, by their first two numbers."""

_SECURITY_CONTEXTS_FROM, _LOST_PODS_ALONE_FROM = (2, 16), (2, 17)
_PAGE = 100
_HEALTHZ = "/apis/v2beta1/healthz"


class ClientError(RuntimeError):
    """What the server refused, or could not be asked; the message is one line."""


class NoAnswerError(ClientError):
    """A server that can't be reached for now."""


class _Client(kfp.Client):
    """kfp's, which asks nothing of the user's home: its file with settings may be missing, and need not be written."""

    def _load_context_setting_or_default(self) -> None:
        try:
            super()._load_context_setting_or_default()
        except (OSError, ValueError):
            self._context_setting = {"namespace": ""}

    def set_user_namespace(self, namespace: str) -> None:
        with contextlib.suppress(OSError):
            super().set_user_namespace(namespace)


class Pipelines:
    """A Kubeflow Pipelines server.

    Args:
      host: its address, e.g. `http://localhost:8080`; None finds it from inside the cluster, or by the kubeconfig.
      token: bearer token; None sends none, or in the cluster that of the pod's service account.
      namespace: of the user, where the server has several.
      version: of the server, where it does not say so itself.

    Raises:
      ClientError: there is no server, or one that is not served.
    """

    def __init__(
        self, host: str | None = None, token: str | None = None, namespace: str | None = None, version: str | None = None
    ):
        self.namespace = namespace
        if host is not None:
            _check_reachable(host, token)
        with explained():
            # The client would take a namespace for that of the server.
            self.api = _Client(host=host, existing_token=token)
            api_client = self.api._pipelines_api.api_client
            health = api_client.call_api(
                *(_HEALTHZ, "GET"), response_type="object", auth_settings=["Bearer"], _return_http_data_only=True
            )
            if not isinstance(health, dict):
                raise ClientError(
                    f"{host or 'the server'} is no Kubeflow Pipelines API: {_HEALTHZ} is no JSON (a login page?)"
                )
            # Through the pages of Kubeflow Pipelines it goes by another name.
            self.version = _version_of(version or health.get("tag_name") or health.get("apiServerTagName") or "")
            """The first two numbers of the server's version."""
        # What only reads or ends something may be asked again while the server restarts.
        again = Retry(total=4, backoff_factor=0.3, status_forcelist=[502, 503, 504], raise_on_status=False)
        api_client.rest_client.pool_manager.connection_pool_kw["retries"] = again

    def upload(self, pipeline: Path) -> tuple[str, str, bool]:
        """Upload a compiled pipeline, if the server does not have this very one.

        Args:
          pipeline: YAML that `compiler.compile_pipeline` wrote.

        Returns:
          Ids of the pipeline and of its version, and whether the version is new.
        """
        name, digest = name_of(pipeline), hashlib.sha256(pipeline.read_bytes()).hexdigest()[:12]
        with explained(), self._as_known(pipeline) as path:
            pipeline_id = self._pipeline_id(name)
            if pipeline_id is None:
                pipeline_id = self.api.upload_pipeline(path, name, namespace=self.namespace).pipeline_id
            for version in self.pages(self.api.list_pipeline_versions, "pipeline_versions", pipeline_id=pipeline_id):
                if version.display_name == digest:
                    return pipeline_id, version.pipeline_version_id, False
            added = self.api.upload_pipeline_version(path, digest, pipeline_id=pipeline_id)
            return pipeline_id, added.pipeline_version_id, True

    @contextlib.contextmanager
    def _as_known(self, pipeline: Path) -> Iterator[str]:
        """The file of a pipeline without what the server does not know, or takes for something else.

        Before 2.16 it refuses security contexts. Before 2.17 it tries a task again that failed, as its pod did already, and
        none whose pod was lost.
        """
        if self.version >= _LOST_PODS_ALONE_FROM:
            yield str(pipeline)
            return
        spec, platform = yaml.safe_load_all(pipeline.read_text(encoding="utf-8"))
        for component in (spec["root"], *spec["components"].values()):
            for task in component.get("dag", {}).get("tasks", {}).values():
                task.pop("retryPolicy", None)
        if self.version < _SECURITY_CONTEXTS_FROM:
            for executor in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
                executor.pop("securityContext", None)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, pipeline.name)
            path.write_text(yaml.safe_dump_all([spec, platform]), encoding="utf-8")
            yield str(path)

    def _pipeline_id(self, name: str) -> str | None:
        """The pipeline of a name in the namespace; kfp's own look-up takes no namespace, and finds none of a user's."""
        # Who renames a pipeline in Kubeflow's pages changes how it is shown, not its name.
        predicates = [{"operation": "EQUALS", "key": "name", "stringValue": name}]
        listed = self.pages(
            self.api.list_pipelines,
            "pipelines",
            namespace=self.namespace,
            filter=json.dumps({"predicates": predicates}),
        )
        return next((one.pipeline_id for one in listed if one.name == name), None)

    def submit(self, pipeline: Path, experiment: str | None, values: Mapping[str, str], service_account: str | None) -> str:
        """Start a run.

        Args:
          pipeline: as for `upload`, which comes first.
          experiment: name, made if it is missing; None takes the pipeline's.
          values: of parameters, by name, as text.
          service_account: that the pods run as; None leaves it to the server.

        Returns:
          The id of the run.
        """
        name = name_of(pipeline)
        typed = typed_values(pipeline, values)
        pipeline_id, version_id, _ = self.upload(pipeline)
        with explained():
            in_experiment = self.api.create_experiment(experiment or name, namespace=self.namespace).experiment_id
            title = f"{name} {datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')}"
            run = self.api.run_pipeline(
                *(in_experiment, title),
                params=typed,
                pipeline_id=pipeline_id,
                version_id=version_id,
                service_account=service_account,
            )
            return run.run_id

    def run(self, run_id: str) -> Any:
        """Return a run, as kfp's client does.

        Raises:
          NoAnswerError: the server can't be reached for now.
          ClientError: there is no such run.
        """
        with explained():
            return self.api.get_run(run_id)

    def spec(self, run: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what a run executes: the pipeline's specification, and its side for Kubernetes.

        Args:
          run: as `run` returns it.
        """
        found = run.pipeline_spec
        if found is None:
            reference = run.pipeline_version_reference
            with explained():
                found = self.api.get_pipeline_version(reference.pipeline_id, reference.pipeline_version_id).pipeline_spec
        # What was uploaded without a platform stands alone.
        return found.get("pipeline_spec", found), found.get("platform_spec", {})

    def latest_run(self, experiment: str) -> str:
        """Return the id of the newest run of an experiment.

        Raises:
          ClientError: there is none.
        """
        with explained():
            try:
                found = self.api.get_experiment(experiment_name=experiment, namespace=self.namespace)
            except ValueError:
                raise ClientError(f"no experiment {experiment}") from None
            runs = self.api.list_runs(
                experiment_id=found.experiment_id, namespace=self.namespace, page_size=1, sort_by="created_at desc"
            ).runs
        if not runs:
            raise ClientError(f"no run in the experiment {experiment}")
        return runs[0].run_id

    def cancel(self, run_id: str) -> None:
        """End a run before its end."""
        with explained():
            self.api.terminate_run(run_id)

    def retry(self, run_id: str) -> None:
        """Go on with a run that failed, from the tasks that did.

        Raises:
          ClientError: the server can't, for instance since the run has not ended, or what started it is gone.
        """
        with explained():
            recurring = self.api.get_run(run_id).recurring_run_id
            if recurring and not self._has_recurring(recurring):
                # The server would make a workflow that belongs to a schedule that is gone, and Kubernetes would remove it.
                raise ClientError(
                    "the schedule that started this run is gone, so that it can't go on; submit starts a new one"
                )
            self.api._run_api.run_service_retry_run(run_id)

    def _has_recurring(self, recurring_run_id: str) -> bool:
        try:
            self.api.get_recurring_run(recurring_run_id)
        except kfp_server_api.ApiException as error:
            if error.status != 404:
                raise
            return False
        return True

    def pages(self, listing: Callable[..., Any], key: str, **arguments: Any) -> Iterator[Any]:
        """Yield what one of kfp's listings has, page by page.

        Args:
          listing: the method.
          key: of the answer's list.
          arguments: of the method.
        """
        token = ""
        while True:
            page = listing(page_token=token, page_size=_PAGE, **arguments)
            yield from getattr(page, key) or ()
            token = page.next_page_token
            if not token:
                return


def typed_values(pipeline: Path, values: Mapping[str, str]) -> dict[str, Any]:
    """Return values of parameters in the types that a pipeline gives them.

    Args:
      pipeline: YAML that `compiler.compile_pipeline` wrote.
      values: by name, as text.

    Raises:
      ClientError: there is no such parameter, or a value is not of its type.
    """
    known = _spec_of(pipeline)["root"].get("inputDefinitions", {}).get("parameters", {})
    found: dict[str, Any] = {}
    for name, text in values.items():
        if name not in known:
            raise ClientError(f"no parameter {name}; {pipeline} has: {', '.join(known)}")
        kind = known[name]["parameterType"]
        read, expected = _READ.get(kind, (json.loads, "JSON"))
        try:
            found[name] = read(text)
        except (ValueError, KeyError):
            raise ClientError(f"parameter {name} = {text}: expected {expected}") from None
    return found


_READ: dict[str, tuple[Callable[[str], Any], str]] = {
    "STRING": (str, "a text"),
    "NUMBER_INTEGER": (int, "a whole number"),
    "NUMBER_DOUBLE": (float, "a number"),
    "BOOLEAN": (lambda text: {"true": True, "false": False}[text.lower()], "true or false"),
}


def _spec_of(pipeline: Path) -> dict[str, Any]:
    try:
        spec = next(iter(yaml.safe_load_all(pipeline.read_text(encoding="utf-8"))))
        spec["pipelineInfo"]["name"]
    except (OSError, UnicodeDecodeError) as error:
        raise ClientError(f"{pipeline}: {getattr(error, 'strerror', None) or error}") from None
    except (yaml.YAMLError, KeyError, TypeError, StopIteration):
        raise ClientError(f"{pipeline}: not a compiled pipeline; `finetune kubeflow compile` writes one") from None
    return spec


def name_of(pipeline: Path) -> str:
    """Return the name of a compiled pipeline.

    Args:
      pipeline: its file.

    Raises:
      ClientError: it is none.
    """
    return _spec_of(pipeline)["pipelineInfo"]["name"]


def _version_of(said: str) -> tuple[int, int]:
    """The first two numbers of a server's version; one that is not served has other rules, and is refused."""
    numbers = re.match(r"v?(\d+)\.(\d+)", said)
    oldest, newest = (".".join(map(str, one)) for one in SERVED)
    if numbers is None:
        raise ClientError(
            f"the server does not say which version it is ({_HEALTHZ}: {said or 'no tag_name'}); if you know it, name it by"
            f" --server-version: {oldest} to {newest} are served"
        )
    found = int(numbers[1]), int(numbers[2])
    if not SERVED[0] <= found <= SERVED[1]:
        raise ClientError(f"the server is Kubeflow Pipelines {said}; {oldest} to {newest} are served")
    return found


def _check_reachable(host: str, token: str | None) -> None:
    """Ask a server whether it is there: kfp's client would ask for half a minute, and not say what the answer was."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        answer = requests.get(f"{host.rstrip('/')}{_HEALTHZ}", headers=headers, timeout=30)
    except requests.RequestException as error:
        raise NoAnswerError(f"no answer from {host}: {error}") from None
    if not answer.ok:
        raise ClientError(f"{host}: {_refusal(answer.status_code, answer.reason, answer.text)}")


def _refusal(status: int, reason: str, body: str | None) -> str:
    """What a server refused, in one line, and what may help."""
    message = reason
    with contextlib.suppress(ValueError):
        content = json.loads(body or "{}")
        details = [one.get("message") for one in content.get("details") or ()]
        # The last words of a chain of errors, where they are given alone.
        message = next(
            filter(None, [*details, content.get("error_message"), content.get("message"), content.get("error")]), message
        )
    hint = {401: " (give a token: --token-file)", 403: " (who the token is for may not do that)"}.get(status, "")
    if "service account" in message.lower():
        # Kubeflow Pipelines 2.18 takes no others.
        hint = " (its administrator lists the service accounts that runs may have in ALLOWEDSERVICEACCOUNTS)"
    return f"HTTP {status}: {message}{hint}"


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn what kfp's client raises into one line, and keep what it prints out of our results.

    Raises:
      NoAnswerError: the server can't be reached for now.
      ClientError: it refused.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except kfp_server_api.ApiException as error:
        refusal = NoAnswerError if error.status in {0, 429, 500, 502, 503, 504} else ClientError
        raise refusal(_refusal(error.status, error.reason, error.body)) from None
    except (HTTPError, OSError) as error:
        raise NoAnswerError(f"no answer from the server: {error}") from None
