"""The compiled pipeline in real containers, through kfp's DockerRunner: what `make image-test` runs.

  python -m tests.kubeflow.containers finetune:test

It needs a Docker engine, or podman's socket (`podman system service --time 0 unix:///run/podman/podman.sock &`, and its
address in DOCKER_HOST). ML Metadata is a MariaDB server on this machine, which the containers reach by the host's network.
"""

import contextlib
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import yaml
from kfp import components, dsl, local
from kfp.local import docker_task_handler
from kfp.local.orchestrator import enhanced_dag_orchestrator

from configs import reading
from kubeflow import compiler
from modules import weights
from serving import versions
from tests.e2e.conftest import CONFIG, write_some_digits
from tests.kubeflow import database, harness

MOUNT = "/mnt/finetune"
SECONDS: dict[str, float] = {}
RUN_ID: list[str] = []
"""Of each run, the newest last."""


def run_container(
    client: docker.DockerClient, image: str, command: list[str], volumes: dict[str, Any], **options: Any
) -> int:
    """Run a container and return its exit code.

    kfp's own lets the engine remove the container, and where that is faster than it asks, as with podman, takes a container
    that is gone for one that did well. Nor does it fill in the run's id, as the driver of a server does.
    """
    command = [word.replace(dsl.PIPELINE_JOB_ID_PLACEHOLDER, RUN_ID[-1]) for word in command]
    node = command[command.index("--node") + 1]
    started = time.monotonic()
    container = client.containers.run(image, command, detach=True, volumes=volumes, **options)
    try:
        code = container.wait()["StatusCode"]
        last = container.logs(tail=1).decode().strip()
    finally:
        container.remove(force=True)
    SECONDS[node] = time.monotonic() - started
    print(f"{node:<19} exit code {code} {SECONDS[node]:7.1f} s  {last}", flush=True)
    return code


def evaluate_condition(condition: str, io_store: Any) -> bool:
    """Evaluate the condition of the group of nodes; kfp's own knows no outputs that have names of their own."""
    return harness.holds(condition, lambda _: io_store.get_task_output("uptodate", "up_to_date"))


@contextlib.contextmanager
def project(image: str) -> Iterator[Path]:
    """Yield a folder with a compiled pipeline, and `volume`, which the containers find in MOUNT."""
    # The containers' user is not the one who runs this.
    os.umask(0)
    with tempfile.TemporaryDirectory() as folder:
        root, volume = Path(folder), Path(folder, "volume")
        write_some_digits(root / "all", volume / "digits")
        shutil.copy(weights.locate("imagenet"), volume / "vgg16.weights.h5")
        root.chmod(0o777)
        (root / "kfp").mkdir()
        config = yaml.safe_load(CONFIG)
        config["data"]["source"] = f"{MOUNT}/digits"
        config["model"] = {"weights": f"{MOUNT}/vgg16.weights.h5"}
        parsed = reading.parse(yaml.safe_dump(config), "image test", {})
        compiler.compile_pipeline(parsed, image, root / "pipeline.yaml")
        yield root


def run(root: Path, **parameters: Any) -> bool:
    """Run the pipeline; return whether all its containers did well."""
    print(f"\nrun {parameters or ''}")
    started = time.monotonic()
    SECONDS.clear()
    RUN_ID.append(str(uuid.uuid4()))
    try:
        components.load_component_from_file(str(root / "pipeline.yaml"))(**parameters)
    except RuntimeError:
        return False
    finally:
        print(f"{len(SECONDS)} containers, {time.monotonic() - started:.0f} s")
    return True


def main(image: str) -> None:
    """Run the pipeline to a published model, again with all cached, and to an end that must be bad."""
    docker_task_handler.run_docker_container = run_container
    enhanced_dag_orchestrator.ConditionEvaluator.evaluate_condition = staticmethod(evaluate_condition)
    size = docker.from_env().images.get(image).attrs["Size"]
    print(f"{image}: {size / 1e9:.2f} GB")
    with project(image) as root, database.mariadb() as url:
        volume = docker.types.Mount(MOUNT, str(root / "volume"), type="bind")
        runner = local.DockerRunner(
            network_mode="host", entrypoint=[""], mounts=[volume], environment={"FINETUNE_METADATA_URL": url}
        )
        local.init(runner, pipeline_root=str(root / "kfp"))
        assert run(root), "the first run"
        store = versions.Versions(str(root / "volume" / "small" / "serving"))
        assert store.live is not None
        assert store.numbers() == [store.live]
        assert run(root), "the second run"
        assert store.numbers() == [store.live]
        assert SECONDS.keys() == {"UpToDate"}, "nothing was due"
        assert not run(root, evaluation_min_accuracy=7.0), "a parameter that is not allowed"
    print(f"\npublished, found cached, and a failure seen: {image} passes")


if __name__ == "__main__":
    main(*sys.argv[1:])
