"""That the harness keeps to the server's rules; each is one that this project once got wrong, or could."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kubeflow import harness
from tests.kubeflow.test_compiler import GOLDEN


def constant(value: Any) -> dict[str, Any]:
    return {"runtimeValue": {"constant": value}}


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (constant("{{$.pipeline_job_uuid}}"), "17"),
        (constant("run {{$.pipeline_job_uuid}}"), "run {{$.pipeline_job_uuid}}"),
        (constant("{{$.pipeline_root}}"), "{{$.pipeline_root}}"),
        (constant("{{workflow.uid}}"), "{{workflow.uid}}"),
        ({"componentInputParameter": "source"}, "{{$.pipeline_job_uuid}}"),
    ],
)
def test_the_driver_fills_in_what_is_a_whole_constant_and_nothing_else(given: dict[str, Any], found: str) -> None:
    assert harness.driven(given, {"source": "{{$.pipeline_job_uuid}}"}, "17") == found


def test_every_number_is_a_double_and_a_truth_is_none() -> None:
    for value, found in ((7, 7.0), (0.5, 0.5), (True, True)):
        driven = harness.driven(constant(value), {}, "17")
        assert driven == found
        assert type(driven) is type(found)


def test_the_launcher_fills_in_inputs_and_the_whole_task() -> None:
    task = {"inputs": {"parameterValues": {"run_id": "17", "epochs": 3.0, "fail": True}}}
    assert harness.launched("--run={{$.inputs.parameters['run_id']}}", task) == "--run=17"
    assert harness.launched("{{$.inputs.parameters['fail']}}", task) == "true"
    assert json.loads(harness.launched("{{$}}", task)) == task


@pytest.mark.parametrize(
    "word", ["{{$.pipeline_job_uuid}}", "{{$.inputs.parameters['other']}}", "--id={{$.pipeline_job_name}}", "{{$.outputs}}"]
)
def test_what_nobody_fills_in_fails_the_test(word: str) -> None:
    with pytest.raises(AssertionError, match="nobody fills this in"):
        harness.launched(word, {"inputs": {"parameterValues": {"run_id": "17"}}})


@pytest.mark.parametrize("text", ['{"accuracy": NaN}', '{"loss": Infinity}', '{"loss": -Infinity}'])
def test_what_is_no_json_fails_the_test(text: str) -> None:
    with pytest.raises(AssertionError, match="is no JSON"):
        harness.strict_json(text)


def changed(tmp_path: Path, script: str) -> harness.Harness:
    """A golden pipeline, all of whose containers run a script instead."""
    spec, platform = yaml.safe_load_all((GOLDEN / "images.yaml").read_text())
    for executor in spec["deploymentSpec"]["executors"].values():
        executor["container"] |= {"command": ["sh", "-c"], "args": [script, "{{$.inputs.parameters['run_id']}}"]}
    path = tmp_path / "pipeline.yaml"
    path.write_text(yaml.safe_dump_all([spec, platform]))
    return harness.Harness(path, tmp_path / "kfp", {"SEEN": str(tmp_path / "seen")})


def test_a_container_that_fails_is_tried_once(tmp_path: Path) -> None:
    (check,) = changed(tmp_path, 'echo "$0" >> "$SEEN"; exit 1').run("17").values()
    assert check.code == 1
    assert (tmp_path / "seen").read_text() == "17\n"


def test_a_task_that_leaves_out_an_output_is_no_success(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="an output parameter is missing"):
        changed(tmp_path, "exit 0").run("17")
