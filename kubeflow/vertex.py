"""The pipeline for Vertex AI, through TFX's own runner, as far as that can express it."""

from __future__ import annotations

from pathlib import Path

from tfx import components
from tfx.dsl.components.base import base_driver
from tfx.dsl.components.common import resolver
from tfx.dsl.input_resolution.strategies import latest_artifact_strategy, latest_blessed_model_strategy
from tfx.orchestration import pipeline as tfx_pipeline
from tfx.orchestration.kubeflow.v2 import kubeflow_v2_dag_runner
from tfx.types import standard_artifacts

from configs import schema
from kubeflow import folders
from kubeflow.compiler import CompileError
from pipeline.pipeline import create_pipeline

_STRATEGIES = (latest_artifact_strategy.LatestArtifactStrategy, latest_blessed_model_strategy.LatestBlessedModelStrategy)


def compile_for_vertex(config: schema.Config, image: str, output: Path) -> int:
    """Write the pipeline of a configuration for Vertex AI, as JSON.

    Args:
      config: `data.source` must be set.
      image: with this project in it.
      output: file to write.

    Returns:
      The number of tasks.

    Raises:
      CompileError: TFX's runner can't express a node as it is; with other drivers, look-ups or artifacts it would be another
        pipeline.
    """
    return write(create_pipeline(config, **folders.folders(config)._asdict()), image, output)


def write(pipeline: tfx_pipeline.Pipeline, image: str, output: Path) -> int:
    """Write a pipeline of TFX for Vertex AI; arguments, result and errors as for `compile_for_vertex`."""
    if problems := unsupported(pipeline):
        raise CompileError(f"Vertex AI can't run this pipeline: {'; '.join(problems)}")
    settings = kubeflow_v2_dag_runner.KubeflowV2DagRunnerConfig(default_image=image)
    runner = kubeflow_v2_dag_runner.KubeflowV2DagRunner(settings, output_dir=str(output.parent), output_filename=output.name)
    runner.run(pipeline)
    return len(pipeline.components)


def unsupported(pipeline: tfx_pipeline.Pipeline) -> list[str]:
    """Return what TFX's runner for Vertex AI can't express, a line a node.

    Args:
      pipeline: of TFX.
    """
    found = []
    for node in pipeline.components:
        reasons = []
        if isinstance(node, resolver.Resolver):
            strategy = node.exec_properties[resolver.RESOLVER_STRATEGY_CLASS]
            if strategy not in _STRATEGIES:
                reasons.append(f"looks up by {strategy.__name__}, and only TFX's own strategies are known there")
        elif isinstance(node, components.InfraValidator):
            reasons.append("is not known there")
        elif node.driver_class is not base_driver.BaseDriver and not isinstance(node, components.FileBasedExampleGen):
            reasons.append(f"has a driver, {node.driver_class.__module__}, and no drivers but TFX's own are called there")
        own = [
            channel.type.TYPE_NAME
            for channel in node.outputs.values()
            if not hasattr(standard_artifacts, channel.type.__name__) and not isinstance(node, resolver.Resolver)
        ]
        if own:
            reasons.append(f"makes artifacts whose types TFX can't name there: {', '.join(own)}")
        if reasons:
            found.append(f"{node.id} {' and '.join(reasons)}")
    return found
