"""A cluster under test: kubectl, the command line, and what was made there."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import yaml

from kubeflow.client import Pipelines, explained

ROOT = Path(__file__).parents[2]
MOUNT = "/mnt/finetune"
_EXECUTOR = re.compile(r"\.([a-z0-9-]+)\(\d+\)\.executor(?:\((\d+)\))?$")


class Done(NamedTuple):
    """A command that ended."""

    code: int
    out: str
    err: str


def run(*command: str, check: bool = True, stdin: str | None = None, seconds: float = 900) -> Done:
    """Run a command.

    Raises:
      AssertionError: it failed, and `check` is set.
    """
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=seconds)
    assert not check or done.returncode == 0, f"{shlex.join(command)[:300]}: {done.stderr or done.stdout}"
    return Done(done.returncode, done.stdout, done.stderr)


class Cluster:
    """Where the steps work.

    Args:
      image: with this project.
      load: command that hands it to the cluster; None where it pulls it.
      host: of Kubeflow Pipelines.
      namespace: of the runs.
      manifests: kustomization that is applied.
      host_path: folder of the node for volumes; None where the cluster has storage.
      serving: whether it can have TensorFlow Serving.
      tasks: which nodes share a pod.
    """

    def __init__(
        self,
        image: str,
        load: str | None,
        host: str,
        namespace: str,
        manifests: str,
        host_path: str | None,
        serving: bool,
        tasks: str,
    ):
        self.image, self.load, self.host, self.namespace = image, load, host, namespace
        self.manifests, self.host_path, self.serving = manifests, host_path, serving
        self.tasks_setting = tasks
        self.name = f"accept-{secrets.token_hex(3)}"
        """Of the pipeline, and before the name of all that is made."""
        self.scratch = TemporaryDirectory(prefix="finetune-accept-")
        self.folder = Path(self.scratch.name)
        self._undo: list[Callable[[], object]] = []

    def undo(self, action: Callable[[], object]) -> None:
        """Have something done at the end, the last first."""
        self._undo.append(action)

    def remove(self) -> None:
        """Remove all that was made."""
        for action in reversed(self._undo):
            try:
                action()
            except Exception as error:  # the rest must go as well
                print(f"left behind: {' '.join(str(error).split())[:300]}")
        self.scratch.cleanup()

    def kubectl(self, *arguments: str, check: bool = True, stdin: str | None = None, seconds: float = 900) -> str:
        """Run kubectl in the namespace of the runs, and return what it prints."""
        return run("kubectl", "--namespace", self.namespace, *arguments, check=check, stdin=stdin, seconds=seconds).out

    def apply(self, *objects: dict[str, Any]) -> None:
        """Make objects."""
        self.kubectl("apply", "--filename", "-", stdin=yaml.safe_dump_all(objects))

    def finetune(self, *arguments: str, check: bool = True) -> Done:
        """Run `finetune kubeflow`, as a person would."""
        command = [sys.executable, "-m", "cli", "kubeflow", *arguments, "--host", self.host, "--namespace", self.namespace]
        done = run(*command, check=False)
        for line in (done.out + done.err).strip().splitlines():
            print(f"  {line}")
        assert not check or done.code == 0, f"finetune kubeflow {arguments[0]} ended with {done.code}: {done.err}"
        return done

    def in_pod(self, *command: str, check: bool = True) -> Done:
        """Run a command in the pod that has the volume."""
        place = ["kubectl", "--namespace", self.namespace, "exec", f"{self.name}-files", "--"]
        return run(*place, *command, check=check)

    def live(self) -> int:
        """The version that a server is told to serve, as the command on the volume says."""
        listed = self.in_pod("finetune", "models", "list", "--serving-dir", f"{MOUNT}/{self.name}/serving").out
        (line,) = (line for line in listed.splitlines() if line.endswith(" live"))
        return int(line.split()[0])

    def tasks(self, run_id: str) -> dict[str, list[str]]:
        """Phases of the pods of each task of a run, by its key, as kubectl says."""
        found: dict[str, dict[int, str]] = {}
        listed = json.loads(self.kubectl("get", "pods", "--selector", f"pipeline/runid={run_id}", "--output", "json"))
        for pod in listed["items"]:
            match = _match(pod)
            if match:
                found.setdefault(match[1], {})[int(match[2] or 0)] = pod["status"]["phase"]
        return {key: [phases[number] for number in sorted(phases)] for key, phases in found.items()}

    def pod_of(self, run_id: str, key: str, seconds: float = 600) -> str:
        """The name of a task's newest pod, once it runs."""
        for _ in every(3, seconds):
            listed = json.loads(self.kubectl("get", "pods", "--selector", f"pipeline/runid={run_id}", "--output", "json"))
            for pod in sorted(listed["items"], key=lambda one: one["metadata"]["creationTimestamp"], reverse=True):
                if task_of(pod) == key and pod["status"]["phase"] == "Running":
                    return pod["metadata"]["name"]
        raise AssertionError(f"{key} of {run_id} never ran")

    def uid_of(self, pod: str) -> str:
        """What tells a pod from others of its name."""
        return self.kubectl("get", "pod", pod, "--output", "jsonpath={.metadata.uid}")

    def wait_for_log(self, pod: str, text: str, seconds: float = 600) -> None:
        """Wait until a pod has said something."""
        for _ in every(1, seconds):
            if text in self.kubectl("logs", pod, "--container", "main", check=False):
                return
        raise AssertionError(f"{pod} never said {text!r}")

    @contextlib.contextmanager
    def server(self) -> Iterator[Pipelines]:
        """The API, for what the command line has no word for."""
        yield Pipelines(self.host, namespace=self.namespace)

    def forget_runs(self) -> None:
        """Remove from the server what this acceptance left there."""
        with self.server() as server, explained():
            for one in list(server.pages(server.api.list_recurring_runs, "recurring_runs", namespace=self.namespace)):
                if one.display_name.startswith(self.name):
                    server.api.delete_recurring_run(one.recurring_run_id)
            pipelines = [
                one
                for one in server.pages(server.api.list_pipelines, "pipelines", namespace=self.namespace)
                if one.display_name == self.name
            ]
            for pipeline in pipelines:
                versions = server.pages(
                    server.api.list_pipeline_versions, "pipeline_versions", pipeline_id=pipeline.pipeline_id
                )
                for version in list(versions):
                    server.api.delete_pipeline_version(pipeline.pipeline_id, version.pipeline_version_id)
                server.api.delete_pipeline(pipeline.pipeline_id)
            with contextlib.suppress(ValueError):
                experiment = server.api.get_experiment(experiment_name=self.name, namespace=self.namespace)
                runs = server.pages(
                    server.api.list_runs, "runs", experiment_id=experiment.experiment_id, namespace=self.namespace
                )
                for one in list(runs):
                    server.api.delete_run(one.run_id)
                server.api.delete_experiment(experiment.experiment_id)


def task_of(pod: dict[str, Any]) -> str | None:
    """The key of the task whose container a pod runs; None for a driver's."""
    match = _match(pod)
    return match[1] if match else None


def _match(pod: dict[str, Any]) -> re.Match[str] | None:
    return _EXECUTOR.search(pod["metadata"]["annotations"].get("workflows.argoproj.io/node-name", ""))


def every(pause: float, seconds: float) -> Iterator[None]:
    """Yield at once and then after each pause, until the time is over."""
    deadline = time.monotonic() + seconds
    while True:
        yield
        if time.monotonic() > deadline:
            return
        time.sleep(pause)


def relative(path: Path, start: Path) -> str:
    """A path as kustomize takes it."""
    return os.path.relpath(path.resolve(), start.resolve())
