"""The pipeline: from a folder of labelled pictures to a pushed model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow_data_validation as tfdv
from ml_metadata.proto import metadata_store_pb2
from tfx import components, types
from tfx.dsl.components.common import resolver
from tfx.orchestration import pipeline as tfx_pipeline
from tfx.proto import pusher_pb2, transform_pb2
from tfx.types import standard_artifacts

from components.baseline_resolver.strategy import LatestBlessedBaselineStrategy
from components.image_example_gen.component import ImageExampleGen
from components.image_schema_gen.component import ImageSchemaGen
from configs import schema
from modules import features, weights
from pipeline import evaluation
from pipeline.fingerprint import code_fingerprint, file_fingerprint


def create_pipeline(
    config: schema.Config,
    *,
    pipeline_root: str,
    serving_dir: str,
    metadata_connection_config: metadata_store_pb2.ConnectionConfig | None = None,
) -> tfx_pipeline.Pipeline:
    """Return the pipeline of a configuration; the same one for every orchestrator.

    Args:
      config: `data.source` must be set.
      pipeline_root: folder for the artifacts.
      serving_dir: folder that TensorFlow Serving watches, where blessed models are pushed.
      metadata_connection_config: of the metadata store; None leaves it to the orchestrator.
    """
    if config.data.source is None:
        raise schema.ConfigError("data.source = None: name the folder of pictures")
    example_gen = ImageExampleGen(
        source=config.data.source,
        splits={split: getattr(config.data.splits, split) for split in features.SPLITS},
        code_fingerprint=code_fingerprint("components.image_example_gen.executor"),
    )
    examples = example_gen.outputs["examples"]
    statistics_gen = components.StatisticsGen(
        examples=examples, stats_options=tfdv.StatsOptions(feature_allowlist=list(features.DESCRIPTIVE))
    )
    statistics = statistics_gen.outputs["statistics"]
    schema_gen = ImageSchemaGen(
        statistics=statistics, code_fingerprint=code_fingerprint("components.image_schema_gen.component")
    ).with_id("SchemaGen")
    example_validator = components.ExampleValidator(statistics=statistics, schema=schema_gen.outputs["schema"])
    transform = components.Transform(
        examples=examples,
        schema=schema_gen.outputs["schema"],
        preprocessing_fn="modules.preprocessing.preprocessing_fn",
        # The test split is left alone: the gate sees it raw, once.
        splits_config=transform_pb2.SplitsConfig(analyze=list(features.SPLITS), transform=[features.TRAIN, features.EVAL]),
        custom_config={
            "image": config.image.model_dump(mode="json"),
            "code_fingerprint": code_fingerprint("modules.preprocessing"),
        },
    )
    trainer = components.Trainer(
        run_fn="modules.trainer.run_fn",
        examples=transform.outputs["transformed_examples"],
        transform_graph=transform.outputs["transform_graph"],
        custom_config=_trainer_config(config),
    )
    model = trainer.outputs["model"]
    baseline = resolver.Resolver(
        strategy_class=LatestBlessedBaselineStrategy,
        candidate=model,
        model=types.Channel(type=standard_artifacts.Model),
        model_blessing=types.Channel(type=standard_artifacts.ModelBlessing),
    ).with_id("Resolver")
    evaluator = components.Evaluator(
        examples=examples,
        example_splits=[features.TEST],
        model=model,
        baseline_model=baseline.outputs["model"],
        eval_config=evaluation.eval_config(config.evaluation),
    )
    pusher = components.Pusher(
        model=model,
        model_blessing=evaluator.outputs["blessing"],
        push_destination=pusher_pb2.PushDestination(
            filesystem=pusher_pb2.PushDestination.Filesystem(base_directory=serving_dir)
        ),
    )
    return tfx_pipeline.Pipeline(
        pipeline_name=config.name,
        pipeline_root=pipeline_root,
        components=[
            *(example_gen, statistics_gen, schema_gen, example_validator, transform),
            *(trainer, baseline, evaluator, pusher),
        ],
        enable_cache=True,
        metadata_connection_config=metadata_connection_config,
        beam_pipeline_args=list(config.beam.args),
    )


def _trainer_config(config: schema.Config) -> dict[str, Any]:
    """The sections that Trainer depends on, and what tells one state of its code and weights from another."""
    own = config.model_dump(mode="json", include={"image", "model", "training", "augmentation"})
    own["code_fingerprint"] = code_fingerprint("modules.trainer")
    path = config.model.weights
    if path not in (None, weights.IMAGENET) and Path(path).is_file():
        own["weights_fingerprint"] = file_fingerprint(path)
    return own
