"""From a person's machine to ML Metadata in the cluster, where what nodes say of themselves is."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from configs import schema
from kubeflow import folders
from pipeline import journal

NAMESPACE = "kubeflow"
"""Where Kubeflow Pipelines is installed as it comes."""
_POD_VARIABLE = "KUBERNETES_SERVICE_HOST"
"""What the environment has in each pod, and nowhere else."""
_SECONDS = 20.0
_FORWARDING = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")


class SecretKey(NamedTuple):
    """A value in a Kubernetes secret."""

    name: str
    """Of the secret."""
    key: str
    """Of the value in it."""


class InsideError(RuntimeError):
    """ML Metadata that can't be reached from here; the message is one line."""


@contextlib.contextmanager
def metadata(url: str | None, secret: SecretKey | None, namespace: str) -> Iterator[journal.Connection]:
    """Reach the metadata store of a run, through kubectl if need be, and keep the way open.

    Args:
      url: of the store, as it is reached from here; None takes the pipeline's, and forwards a port, if this is no pod.
      secret: that the pipeline's containers get their URL from; None if they take Kubeflow's own service.
      namespace: of the run.

    Yields:
      Its connection.

    Raises:
      InsideError: it can't be reached.
    """
    try:
        if url is not None:
            yield folders.metadata_connection(url)
            return
        if shutil.which("kubectl") is None and _POD_VARIABLE in os.environ:
            yield folders.metadata_connection(None)
            return
        if shutil.which("kubectl") is None:
            raise InsideError("there is no kubectl here to reach ML Metadata with; --metadata URL names it")
        address = folders.metadata_address(_url_in(secret, namespace) if secret else None)
        name, _, rest = address.host.partition(".")
        if not name or _is_ip(address.host):
            yield folders.connection_to(address)
            return
        with _forwarded(rest.split(".")[0] or namespace, name, address.port or 0) as port:
            yield folders.connection_to(address._replace(host="127.0.0.1", port=port))
    except ValueError as error:
        raise InsideError(str(error)) from None


def _is_ip(host: str) -> bool:
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return True
    return False


def secret_in(platform: Mapping[str, Any]) -> SecretKey | None:
    """Return the secret with the metadata store's URL that a compiled pipeline's containers get; None if they get none.

    Args:
      platform: the pipeline's side for Kubernetes.
    """
    executors = platform.get("platforms", {}).get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {})
    for executor in executors.values():
        for secret in executor.get("secretAsEnv", ()):
            for pair in secret.get("keyToEnv", ()):
                if pair["envVar"] == folders.METADATA_VARIABLE:
                    name = secret.get("secretName") or secret["secretNameParameter"]["runtimeValue"]["constant"]
                    return SecretKey(name, pair["secretKey"])
    return None


def secret_of(config: schema.Config) -> SecretKey | None:
    """Return the secret with the metadata store's URL that a configuration names; None if it names none.

    Args:
      config: of the pipeline.
    """
    for secret in config.kubeflow.secrets:
        for key, variable in secret.variables.items():
            if variable == folders.METADATA_VARIABLE:
                return SecretKey(secret.name, key)
    return None


def _url_in(secret: SecretKey, namespace: str) -> str:
    content = json.loads(_kubectl("get", "secret", secret.name, "--namespace", namespace, "--output", "json"))
    return base64.b64decode(content["data"][secret.key]).decode().strip()


def _kubectl(*arguments: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 a fixed command
            ["kubectl", *arguments],  # noqa: S607 the user's own
            capture_output=True,
            text=True,
            check=True,
            timeout=_SECONDS,
        )
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines()
        raise InsideError(f"kubectl {arguments[0]} {arguments[1]}: {said[-1] if said else error.returncode}") from None
    except (OSError, subprocess.TimeoutExpired):
        raise InsideError(f"kubectl {arguments[0]} {arguments[1]}: no answer from the cluster") from None
    return done.stdout


@contextlib.contextmanager
def _forwarded(namespace: str, service: str, port: int) -> Iterator[int]:
    """Forward a free port of this machine to a service."""
    command = ["kubectl", "port-forward", "--namespace", namespace, f"service/{service}", f":{port}"]
    with subprocess.Popen(  # noqa: S603 a fixed command
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as forward:
        timer = threading.Timer(_SECONDS, forward.kill)
        timer.start()
        try:
            assert forward.stdout is not None
            assert forward.stderr is not None
            found = _FORWARDING.search(forward.stdout.readline())
            timer.cancel()
            if found is None:
                said = forward.stderr.read().strip().splitlines()
                why = said[-1] if said else "no answer"
                raise InsideError(f"kubectl port-forward service/{service} in namespace {namespace}: {why}")
            yield int(found[1])
        finally:
            timer.cancel()
            forward.terminate()


def log_command(run_id: str, namespace: str) -> str:
    """Return the command that shows what the nodes of a run said last.

    Args:
      run_id: of the run.
      namespace: of the run.
    """
    selector = f"--namespace {namespace} --selector pipeline/runid={run_id}"
    return f"kubectl logs {selector} --container main --tail=-1 --prefix | grep '] finetune: '"


def workflow_command(run_id: str, namespace: str) -> list[str]:
    """Return the command that says why a run ended of which no task began.

    Args:
      run_id: of the run.
      namespace: of the run.
    """
    return [*_workflow(run_id, namespace), "--output", "jsonpath={.items[*].status.nodes.*.message}"]


def workflow_message(run_id: str, namespace: str) -> str:
    """Return why a run ended of which no task began; empty if that can't be found out.

    Args:
      run_id: of the run.
      namespace: of the run.
    """
    if shutil.which("kubectl") is None:
        return ""
    try:
        found = json.loads(_kubectl(*_workflow(run_id, namespace)[1:], "--output", "json"))
    except InsideError:
        return ""
    # The workflow itself says only that its retries are used up.
    nodes = [node for one in found["items"] for node in one.get("status", {}).get("nodes", {}).values()]
    pods = sorted((node for node in nodes if node.get("type") == "Pod"), key=lambda node: node.get("startedAt") or "")
    said = [node["message"] for node in pods if node.get("message")]
    return " ".join(said[-1].split()) if said else ""


def _workflow(run_id: str, namespace: str) -> list[str]:
    selector = ["--namespace", namespace, "--selector", f"pipeline/runid={run_id}"]
    return ["kubectl", "get", "workflows.argoproj.io", *selector]
