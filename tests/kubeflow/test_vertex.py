"""What is written for Vertex AI, and what is refused."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tfx import components, types
from tfx.dsl.components.common import resolver
from tfx.dsl.input_resolution.strategies import latest_blessed_model_strategy
from tfx.orchestration import pipeline as tfx_pipeline
from tfx.proto import infra_validator_pb2
from tfx.types import standard_artifacts

from cli import main
from kubeflow import compiler, vertex


def pipeline_of(*nodes: object) -> tfx_pipeline.Pipeline:
    return tfx_pipeline.Pipeline("small", "gs://bucket/root", components=list(nodes))


def test_what_tfx_s_runner_can_express_is_written(tmp_path: Path) -> None:
    example_gen = components.CsvExampleGen("gs://bucket/rows")
    statistics = components.StatisticsGen(examples=example_gen.outputs["examples"])
    blessed = resolver.Resolver(
        strategy_class=latest_blessed_model_strategy.LatestBlessedModelStrategy,
        model=types.Channel(type=standard_artifacts.Model),
        model_blessing=types.Channel(type=standard_artifacts.ModelBlessing),
    )
    output = tmp_path / "small.json"
    assert vertex.write(pipeline_of(example_gen, statistics, blessed), "finetune:1", output) == 3
    spec = json.loads(output.read_text())["pipelineSpec"]
    assert {"CsvExampleGen", "StatisticsGen"} <= spec["root"]["dag"]["tasks"].keys()
    images = {one["container"]["image"] for one in spec["deploymentSpec"]["executors"].values() if "container" in one}
    assert images == {"finetune:1"}


def test_what_it_can_not_is_refused_node_by_node(tmp_path: Path) -> None:
    output = tmp_path / "p.json"
    arguments = ["kubeflow", "compile", "--data", "gs://bucket/photos", "--image", "finetune:1", "--output", str(output)]
    done = CliRunner().invoke(main, [*arguments, "--target", "vertex"])
    assert done.exit_code == 2, done.output
    assert "ImageExampleGen has a driver, components.image_example_gen.driver" in done.stderr
    assert "Resolver looks up by LatestBlessedBaselineStrategy" in done.stderr
    assert "DataGate makes artifacts whose types TFX can't name there: DataVerdict" in done.stderr
    assert "Trainer" not in done.stderr
    assert not output.exists()


def test_the_validator_in_a_container_is_refused_too() -> None:
    model, spec = types.Channel(type=standard_artifacts.Model), infra_validator_pb2.ServingSpec()
    validator = components.InfraValidator(model=model, serving_spec=spec)
    with pytest.raises(compiler.CompileError, match="InfraValidator is not known there"):
        vertex.write(pipeline_of(validator), "finetune:1", Path("unused"))
