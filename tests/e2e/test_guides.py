"""The commands of the front page and the guides, as they stand there, one after the other in one project.

What needs a cluster's own programs is not run; Kubeflow Pipelines' API and TensorFlow Serving are stand-ins.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving import model_info, versions
from tests import guides
from tests.e2e import conftest
from tests.kubeflow import api
from tests.test_predict import endpoints

RECIPE = conftest.CONFIG.replace("name: small", "name: images").replace("data: {", "data: {source: /mnt/finetune/photos, ")
# The default recipe, at 224 x 224, takes an hour here.
SHIM = f"""#!/bin/sh
case "$1" in run) shift; set -- run --config photos.yaml "$@" ;; esac
PYTHONPATH={guides.ROOT} exec {sys.executable} -m cli "$@"
"""
OF_A_CLUSTER = re.compile(r"finetune (history|clean) --config")
"""Looks for the metadata store with kubectl; tests/e2e/test_kubeflow.py has them against MariaDB."""
LONGEST_SECONDS = 400


class Sandbox:
    """A folder with pictures, a small recipe, the command, and servers that it may ask."""

    def __init__(self, root: Path, kubeflow: api.Server, host: str):
        self.root, self._kubeflow = root, kubeflow
        self.serving = root / "runs" / "photos" / "serving"
        conftest.write_some_digits(root / "all", root / "photos")
        shutil.copy(next((root / "photos" / "3").iterdir()), root / "picture.jpg")
        (root / "photos.yaml").write_text(RECIPE)
        (root / "docs").mkdir()
        shim = root / "bin" / "finetune"
        shim.parent.mkdir()
        shim.write_text(SHIM)
        shim.chmod(0o755)
        # Neither a cluster nor a chat of whoever runs the tests is to be reached.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("FINETUNE_", "KFP_"))}
        own = {"PATH": f"{shim.parent}:{os.environ['PATH']}", "KFP_HOST": host, "KUBECONFIG": str(root / "no cluster")}
        cache = {name: os.environ[name] for name in ("FINETUNE_CACHE_DIR",) if name in os.environ}
        self._environment = inherited | cache | own

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        """Run a line of a guide, with real names in the places of those in capitals."""
        if "models rollback" in line:
            self._publish_another()
        if "RUN_ID" in line:
            run = list(self._kubeflow.runs.values())[-1]
            if " retry " in line:
                self._kubeflow._move(run, "FAILED")
            line = line.replace("RUN_ID", run.run_id)
        if "VERSION" in line:
            line = line.replace("VERSION", str(versions.Versions(str(self.serving)).live))
        if found := re.search(r"grpc://localhost:8500/\w+", line):
            with endpoints(self.serving) as urls:
                return self._call(line.replace(found[0], urls["gRPC"]))
        return self._call(line)

    def _call(self, line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-euc", line],
            cwd=self.root,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=LONGEST_SECONDS,
        )

    def _publish_another(self) -> None:
        """Publish a model that is not the live one, so that there is one to go back to."""
        store = versions.Versions(str(self.serving))
        live, copy = store.path(store.live or 0), self.root / "another"
        shutil.copytree(live, copy, ignore=shutil.ignore_patterns(*map(os.path.basename, model_info.ADDED)))
        (copy / "assets").mkdir(exist_ok=True)
        (copy / "assets" / "number").write_text(str(len(store.numbers())))
        store.publish(str(copy), lambda folder, number: None, "images")
        shutil.rmtree(copy)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    server = api.Server()
    with api.serving(server) as host:
        yield Sandbox(tmp_path_factory.mktemp("new user"), server, host)


def runnable(page: str) -> list[str]:
    return [line for line in guides.commands(page) if line.startswith("finetune ") and not OF_A_CLUSTER.match(line)]


@pytest.mark.parametrize("page", [page for page in guides.PAGES if runnable(page)])
def test_the_commands_of_a_page_can_be_run_as_they_stand_there(page: str, sandbox: Sandbox) -> None:
    for line in runnable(page):
        done = sandbox.run(line)
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        if page == "README.md" and "predict" in line:
            assert json.loads(done.stdout).keys() >= {"file", "label", "score"}


def test_what_the_guides_say_is_made_is_there(sandbox: Sandbox) -> None:
    project = sandbox.root / "runs" / "photos"
    assert {path.name for path in project.iterdir()} >= {
        "report.html",
        "serving",
        "metadata.db",
        "pipeline_root",
        "work",
        "logs",
    }
    assert (project / "serving" / "models.config").exists()
    assert "<img" not in (sandbox.root / "for-others.html").read_text()
    assert (sandbox.root / "predictions.csv").read_text().startswith("path,")
    made = (sandbox.root / "docs" / "configuration.md").read_text()
    assert made == guides.text("docs/configuration.md")
