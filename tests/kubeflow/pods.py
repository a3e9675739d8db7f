"""The compiled pipeline in pods of a Kubernetes, one after the other, with nodes grouped and one a task: what each takes.

  KUBECONFIG=… python -m tests.kubeflow.pods --image finetune:test --data pictures --volume /mnt/finetune

No Kubeflow is there: a pod that does nothing stands in for a task's driver, and `tests.kubeflow.harness` for the launcher.
The volume is a folder of the one machine that the cluster is on; ML Metadata is a file in it. What counts is from the first
pod's creation to the last one's end, from pictures to a published model, and again with nothing to do.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import yaml

from configs import reading
from kubeflow import compiler
from modules import weights
from serving import versions
from tests.kubeflow import harness

_SECONDS = 3600


class Pods(harness.Harness):
    """Runs each task's command in a pod, after one that stands in for its driver.

    Args:
      pipeline: the compiled YAML.
      folder: for what tasks write, on the volume.
      environment: of the containers.
      image: of the containers.
      volume: folder of the machine, which pods see under the same path.
    """

    def __init__(self, pipeline: Path, folder: Path, environment: dict[str, str], image: str, volume: Path):
        super().__init__(pipeline, folder, environment)
        self._image, self._volume, self._own = image, volume, environment
        self.pods = 0

    def _tried(self, command: list[str], fatal: Sequence[str], in_pod: bool) -> subprocess.CompletedProcess[str]:
        assert not fatal
        assert not in_pod
        self._run_pod(["true"])
        return self._run_pod(command)

    def _run_pod(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        name = f"finetune-{uuid.uuid4().hex[:8]}"
        container = {
            "name": "main",
            "image": self._image,
            "imagePullPolicy": "IfNotPresent",
            "command": command,
            "env": [{"name": key, "value": value} for key, value in self._own.items()],
            "volumeMounts": [{"name": "volume", "mountPath": str(self._volume)}],
        }
        spec = {
            "restartPolicy": "Never",
            "securityContext": {"runAsUser": 1000},
            "containers": [container],
            "volumes": [{"name": "volume", "hostPath": {"path": str(self._volume)}}],
        }
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        _kubectl("create", "--filename", "-", given=json.dumps(pod))
        self.pods += 1
        try:
            deadline = time.monotonic() + _SECONDS
            while (status := json.loads(_kubectl("get", "pod", name, "--output", "json"))["status"]).get("phase") not in {
                "Succeeded",
                "Failed",
            }:
                assert time.monotonic() < deadline, status
                time.sleep(0.2)
            said = _kubectl("logs", name)
        finally:
            _kubectl("delete", "pod", name, "--wait=false")
        (ended,) = status["containerStatuses"]
        return subprocess.CompletedProcess(command, ended["state"]["terminated"]["exitCode"], stderr=said)


def _kubectl(*words: str, given: str | None = None) -> str:
    done = subprocess.run(["kubectl", *words], input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _run(tasks: harness.Harness, run_id: str, **parameters: Any) -> float:
    started = time.monotonic()
    ended = tasks.run(run_id, parallel=1, **parameters)
    took = time.monotonic() - started
    for name, one in ended.items():
        assert not one.code, f"{name}: {one.err[-2000:]}"
    print(f"  {took:.0f} s: {len(ended)} tasks", flush=True)
    return took


@click.command()
@click.option("--image", help="Of the containers; without one tasks are processes of this machine.")
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--size", default=64, show_default=True)
@click.option("--volume", type=click.Path(path_type=Path), required=True, help="A folder, which is made anew.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Of the configuration.")
def main(image: str | None, data: Path, size: int, volume: Path, settings: tuple[str, ...]) -> None:
    """Run the pipeline both ways, twice, and print the seconds and their ratio."""
    os.umask(0)  # the containers' user is another one
    took = {}
    for way in ("one_per_node", "grouped"):
        shutil.rmtree(volume, ignore_errors=True)
        shutil.copytree(data, volume / "pictures")
        shutil.copy(weights.locate("imagenet"), volume / "vgg16.weights.h5")
        for path in (volume, *volume.rglob("*")):
            path.chmod(0o777)
        config = {
            "name": "signs",
            "image": {"height": size, "width": size},
            "data": {"source": str(volume / "pictures")},
            "model": {"weights": str(volume / "vgg16.weights.h5")},
            "evaluation": {"min_accuracy": None},
            "kubeflow": {"tasks": way, "volume": {"claim": "finetune", "path": str(volume)}},
        }
        pipeline = volume / "pipeline.yaml"
        compiler.compile_pipeline(
            reading.parse(yaml.safe_dump(config), "pods", dict(word.split("=", 1) for word in settings)),
            image or "none",
            pipeline,
        )
        environment = {"FINETUNE_METADATA_URL": f"sqlite:///{volume}/metadata.db"}
        told = volume / "kfp"
        tasks: harness.Harness
        tasks = Pods(pipeline, told, environment, image, volume) if image else harness.Harness(pipeline, told, environment)
        print(way, flush=True)
        took[way] = [_run(tasks, "first"), _run(tasks, "second")]
        store = versions.Versions(str(volume / "signs" / "serving"))
        assert store.live is not None, "nothing was published"
        assert store.numbers() == [store.live], "the second run published again"
    for number, what in enumerate(("from pictures to published", "with nothing to do")):
        one, grouped = took["one_per_node"][number], took["grouped"][number]
        print(f"{what}: one_per_node {one:.0f} s, grouped {grouped:.0f} s, {grouped / one:.2f} times")


if __name__ == "__main__":
    main()
