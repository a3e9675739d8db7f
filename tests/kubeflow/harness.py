"""Executes a compiled pipeline as Kubeflow Pipelines 2.17 does: each task's command in a process of its own, in graph order.

It fills in what the server's driver and launcher fill in, where they do it, and nothing else:
- the driver (backend/src/v2/driver/resolve.go) replaces a placeholder of the job where it is a whole constant of an input;
- the launcher (backend/src/v2/component/launcher_v2.go) replaces `{{$}}` and those of inputs in command and arguments;
- what is left is an argument as it stands; here that is an error, as nobody can have meant it;
- of a container that failed it takes no outputs.
Every number is a double. A container that fails is not tried again (`retryPolicy: OnError`); one whose pod is lost is.
Outputs are read as the launcher reads them: strict JSON, and every parameter that was declared must be there.

What a cluster does besides, it does not: containers, volumes, the cluster's own ML Metadata. Folders stand in for volumes.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from google.protobuf import json_format
from kfp import components
from kfp.pipeline_spec import pipeline_spec_pb2


class Ended(NamedTuple):
    """How a task ended: its exit code, what it said, and what it wrote for Kubeflow Pipelines."""

    code: int
    err: str
    parameters: dict[str, str]
    artifacts: dict[str, dict[str, Any]]

    @property
    def last_line(self) -> str:
        return self.err.splitlines()[-1]


def holds(condition: str, value_of: Callable[[str], str]) -> bool:
    """Whether a condition of `dsl.If` holds.

    Args:
      condition: of a trigger policy.
      value_of: from the name of a pipeline channel to its value.
    """
    parts = re.fullmatch(r"inputs\.parameter_values\['(.+)'\] == '(.+)'", condition)
    assert parts is not None
    return value_of(parts[1]) == parts[2]


def strict_json(text: str) -> Any:
    """Read JSON as protobuf does, which knows no NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def driven(given: Mapping[str, Any], values: Mapping[str, Any], run_id: str) -> Any:
    """The value of a task's input, as the driver resolves it."""
    if "componentInputParameter" in given:
        value = values[given["componentInputParameter"]]
    else:
        value = given["runtimeValue"]["constant"]
        # Only where it is the whole constant, and only these.
        value = {"{{$.pipeline_job_uuid}}": run_id, "{{$.pipeline_job_name}}": f"run {run_id}"}.get(value, value)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def launched(word: str, task: Mapping[str, Any]) -> str:
    """A word of a container's command, as the launcher hands it on."""
    found = word.replace("{{$}}", json.dumps(task))
    for key, value in task["inputs"]["parameterValues"].items():
        shown = value if isinstance(value, str) else json.dumps(value)
        found = found.replace(f"{{{{$.inputs.parameters['{key}']}}}}", shown)
    assert "{{$" not in found, f"nobody fills this in: {word}"
    return found


class Harness:
    """Runs the tasks of one pipeline.

    Args:
      pipeline: the compiled YAML.
      folder: for what tasks write for Kubeflow Pipelines.
      environment: of the containers.
    """

    def __init__(self, pipeline: Path, folder: Path, environment: Mapping[str, str]):
        components.load_component_from_file(str(pipeline))
        spec, self.platform = yaml.safe_load_all(pipeline.read_text())
        json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
        assert spec["schemaVersion"] == "2.1.0"
        self.spec, self._folder = spec, folder
        self._environment = os.environ | environment | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        self.check, self._group = (spec["root"]["dag"]["tasks"][key] for key in ("uptodate", "condition-1"))
        by_key = spec["components"][self._group["componentRef"]["name"]]["dag"]["tasks"]
        self.tasks = {task["taskInfo"]["name"]: task for task in by_key.values()}
        self._upstream = {
            name: [by_key[key]["taskInfo"]["name"] for key in task.get("dependentTasks", [])]
            for name, task in self.tasks.items()
        }

    def run(
        self,
        run_id: str,
        lose_pod: Mapping[str, str] | None = None,
        kill_process: Mapping[str, Sequence[str]] | None = None,
        parallel: int = 2,
        **parameters: Any,
    ) -> dict[str, Ended]:
        """Run a run: the task that looks what is due, and if something is, all others, as soon as they are ready.

        After one that failed, none runs that depends on it.

        Args:
          run_id: what Kubeflow Pipelines would call it.
          lose_pod: by task, the line at whose sight its first pod is lost; another takes its place.
          kill_process: by task, lines at whose sight the process of its nodes is killed, one after the other; its pod stays.
          parallel: tasks at once.
          parameters: of the run.
        """
        checked = self._run_task(self.check, run_id, parameters)
        ended = {"UpToDate": checked}
        if checked.code or not self._is_due(checked.parameters):
            return ended
        pending, skipped = dict(self._upstream), set[str]()
        with futures.ThreadPoolExecutor(parallel) as pool:
            running: dict[futures.Future[Ended], str] = {}
            while pending or running:
                for name, needed in list(pending.items()):
                    if any(upstream in skipped or (upstream in ended and ended[upstream].code) for upstream in needed):
                        skipped.add(name)
                        del pending[name]
                    elif all(upstream in ended for upstream in needed):
                        del pending[name]
                        lines = (lose_pod or {}).get(name), (kill_process or {}).get(name, ())
                        running[pool.submit(self._run_task, self.tasks[name], run_id, parameters, *lines)] = name
                done, _ = futures.wait(running, return_when=futures.FIRST_COMPLETED)
                for future in done:
                    ended[running.pop(future)] = future.result()
        return ended

    def _is_due(self, outputs: Mapping[str, str]) -> bool:
        """Whether the condition of the group of all nodes holds."""

        def value_of(channel: str) -> str:
            source = self._group["inputs"]["parameters"][channel]["taskOutputParameter"]
            assert source["producerTask"] == "uptodate"
            return outputs[source["outputParameterKey"]]

        return holds(self._group["triggerPolicy"]["condition"], value_of)

    def _run_task(
        self,
        spec: Mapping[str, Any],
        run_id: str,
        parameters: Mapping[str, Any],
        lose_at: str | None = None,
        kill_at: Sequence[str] = (),
    ) -> Ended:
        task = self._executor_input(spec, run_id, parameters)
        executor = self.spec["components"][spec["componentRef"]["name"]]["executorLabel"]
        container = self.spec["deploymentSpec"]["executors"][executor]["container"]
        command = [launched(word, task) for word in [*container["command"], *container["args"]]]
        if lose_at is not None:
            assert spec["retryPolicy"]["maxRetryCount"] > 0, "a lost pod would end the run"
            lost = self._tried(command, [lose_at], in_pod=True)
            assert lost.returncode == -signal.SIGKILL, lost.stderr
        done = self._tried(command, kill_at, in_pod=False)
        outputs = task["outputs"]
        written = {key: Path(one["outputFile"]) for key, one in outputs.get("parameters", {}).items()}
        said = Path(outputs["outputFile"])
        if done.returncode == 0:
            assert all(path.exists() for path in written.values()), f"an output parameter is missing: {written}"
        else:
            return Ended(done.returncode, done.stderr, {}, {})
        return Ended(
            done.returncode,
            done.stderr,
            {key: path.read_text() for key, path in written.items()},
            {key: one["artifacts"][0] for key, one in strict_json(said.read_text())["artifacts"].items()}
            if said.exists()
            else {},
        )

    def _tried(self, command: list[str], fatal: Sequence[str], in_pod: bool) -> subprocess.CompletedProcess[str]:
        """Run a container; at the sight of a line lose its pod, or at each kill the process that the command started."""
        lines, left = [], list(fatal)
        with subprocess.Popen(command, env=self._environment, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            for line in process.stderr:
                lines.append(line)
                if left and left[0] in line:
                    left.pop(0)
                    if in_pod:
                        process.kill()
                    else:
                        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                        os.kill(int(child), signal.SIGKILL)
        assert not left, f"{left} was never said: {''.join(lines)[-2000:]}"
        return subprocess.CompletedProcess(command, process.returncode, stderr="".join(lines))

    def _executor_input(self, spec: Mapping[str, Any], run_id: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """What `{{$}}` stands for."""
        definitions = self.spec["root"].get("inputDefinitions", {}).get("parameters", {})
        values = {key: definition.get("defaultValue") for key, definition in definitions.items()} | dict(parameters)
        assert values.keys() == definitions.keys(), "parameters of the run"
        of_group = {
            key: values[given["componentInputParameter"]]
            for key, given in self._group["inputs"]["parameters"].items()
            if "componentInputParameter" in given
        }
        inputs = {key: driven(given, values | of_group, run_id) for key, given in spec["inputs"]["parameters"].items()}
        component = self.spec["components"][spec["componentRef"]["name"]]
        declared = component.get("outputDefinitions", {})
        folder = self._folder / run_id / spec["taskInfo"]["name"]
        return {
            # A null is left out: only what has a value is an input.
            "inputs": {"parameterValues": {key: value for key, value in inputs.items() if value is not None}},
            "outputs": {
                "parameters": {key: {"outputFile": str(folder / key)} for key in declared.get("parameters", {})},
                "artifacts": {
                    key: {
                        "artifacts": [{"name": key, "uri": str(folder / key), "type": one["artifactType"], "metadata": {}}]
                    }
                    for key, one in declared.get("artifacts", {}).items()
                },
                "outputFile": str(folder / "executor_output.json"),
            },
        }
