"""The pipeline: from a folder of labelled pictures to a published model."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any

import tensorflow as tf
import tensorflow_data_validation as tfdv
from ml_metadata.proto import metadata_store_pb2
from tfx import components, types
from tfx.dsl.compiler import constants
from tfx.dsl.components.common import resolver
from tfx.orchestration import data_types
from tfx.orchestration import pipeline as tfx_pipeline
from tfx.proto import infra_validator_pb2, transform_pb2
from tfx.types import standard_artifacts

from components.baseline_resolver.strategy import LatestAcceptedDataStrategy, LiveBaselineStrategy
from components.cross_validator.component import CrossValidator
from components.data_gate import findings
from components.data_gate.component import DataGate, DataVerdict
from components.image_example_gen.component import ImageExampleGen
from components.image_schema_gen.component import ImageSchemaGen
from components.model_evaluator import gate
from components.model_evaluator.component import ModelEvaluator
from components.publisher.component import Publisher
from components.run_report.component import RunReport
from components.serving_check.component import ServingCheck
from components.serving_check.container import InfraValidator
from configs import schema
from modules import features, signatures, weights
from pipeline import evaluation
from pipeline.fingerprint import code_fingerprint, file_fingerprint

_MOST_LABELS = 10_000  # TFDV lists no more values of a feature


@dataclasses.dataclass(frozen=True)
class _DataNodes:
    """The nodes from the source to the gate for data."""

    example_gen: ImageExampleGen
    statistics_gen: components.StatisticsGen
    schema_gen: ImageSchemaGen
    example_validator: components.ExampleValidator
    baseline: resolver.Resolver
    gate: DataGate

    def in_order(self) -> list[Any]:
        return [getattr(self, field.name) for field in dataclasses.fields(self)]


def create_data_pipeline(
    config: schema.Config,
    *,
    pipeline_root: str,
    metadata_connection_config: metadata_store_pb2.ConnectionConfig | None = None,
) -> tfx_pipeline.Pipeline:
    """Return the pipeline that ingests and judges data, and trains nothing.

    It goes by the same name as the whole one, so both find what the other has ingested. Its gate only writes down what it
    finds, and accepts nothing.

    Args:
      config: `data.source` must be set.
      pipeline_root: folder for the artifacts.
      metadata_connection_config: of the metadata store; None leaves it to the orchestrator.
    """
    return tfx_pipeline.Pipeline(
        pipeline_name=config.name,
        pipeline_root=pipeline_root,
        components=_data_nodes(config, enforce=False).in_order(),
        enable_cache=True,
        metadata_connection_config=metadata_connection_config,
    )


def create_pipeline(
    config: schema.Config,
    *,
    pipeline_root: str,
    serving_dir: str,
    work_dir: str,
    metadata_connection_config: metadata_store_pb2.ConnectionConfig | None = None,
) -> tfx_pipeline.Pipeline:
    """Return the pipeline of a configuration; the same one for every orchestrator.

    Args:
      config: `data.source` must be set.
      pipeline_root: folder for the artifacts.
      serving_dir: folder that TensorFlow Serving watches, where blessed models are published.
      work_dir: folder on a file system of the machine that trains, for what outlives an interrupted run: kept features and
        the state of training.
      metadata_connection_config: of the metadata store; None leaves it to the orchestrator.
    """
    data = _data_nodes(config, enforce=True)
    examples = data.example_gen.outputs["examples"]
    transform = components.Transform(
        examples=examples,
        schema=data.schema_gen.outputs["schema"],
        preprocessing_fn="modules.preprocessing.preprocessing_fn",
        # What is worth knowing of the data, StatisticsGen says.
        disable_statistics=True,
        splits_config=transform_pb2.SplitsConfig(analyze=list(features.SPLITS)),
        # Trainer decodes with the very function, on all cores, while it reads; and only what it has not kept features of.
        materialize=False,
        custom_config={
            "image": config.image.model_dump(mode="json", include={"height", "width"}),
            "code_fingerprint": code_fingerprint("modules.preprocessing"),
        },
    )
    transform.add_upstream_node(data.gate)
    learnt_from = {"examples": examples, "transform_graph": transform.outputs["transform_graph"]}
    training = _trainer_config(config, work_dir)
    validation = _cross_validators(config, learnt_from, training)
    search = []
    if config.tuning.trials:
        tuning = {"tuning": config.tuning.model_dump(mode="json"), "code_fingerprint": code_fingerprint("modules.search")}
        search = [components.Tuner(tuner_fn="modules.search.tuner_fn", **learnt_from, custom_config=training | tuning)]
    trainer = components.Trainer(
        run_fn="modules.trainer.run_fn",
        **learnt_from,
        hyperparameters=search[0].outputs["best_hyperparameters"] if search else None,
        custom_config=training,
    )
    for validator in validation:
        trainer.add_upstream_node(validator)  # it tells sooner what can't be done, and both keep the same features
    model = trainer.outputs["model"]
    baseline = resolver.Resolver(
        strategy_class=LiveBaselineStrategy,
        config={"serving_dir": serving_dir, "root": os.path.join(pipeline_root, "Adopted")},
        candidate=model,
        model=types.Channel(type=standard_artifacts.Model),
        model_blessing=types.Channel(type=standard_artifacts.ModelBlessing),
    ).with_id("Resolver")
    evaluator = ModelEvaluator(
        examples=examples,
        example_splits=[features.TEST],
        model=model,
        baseline_model=baseline.outputs["model"],
        cross_validation=validation[0].outputs["cross_validation"] if validation else None,
        eval_config=evaluation.eval_config(config.evaluation),
        limits=config.evaluation.model_dump(mode="json", include={field.name for field in dataclasses.fields(gate.Limits)}),
        code_fingerprint=code_fingerprint("components.model_evaluator.executor"),
    ).with_id("Evaluator")
    check = ServingCheck(
        model=model,
        evaluation=evaluator.outputs["evaluation"],
        code_fingerprint=code_fingerprint("components.serving_check.executor"),
    )
    validators = _infra_validators(config.serving.infra_validator, model, examples)
    publisher = Publisher(
        model=model,
        examples=examples,
        evaluation=evaluator.outputs["evaluation"],
        model_blessing=evaluator.outputs["blessing"],
        infra_blessing=check.outputs["blessing"],
        baseline_model=baseline.outputs["model"],
        container_blessing=validators[0].outputs["blessing"] if validators else None,
        destination={
            "folder": serving_dir,
            "name": served_name(config),
            **config.serving.model_dump(include={"base_path", "keep", "grace_seconds", "endpoint", "wait_seconds"}),
            "image": config.image.model_dump(mode="json", include={"height", "width"}),
            "config_fingerprint": hashlib.sha256(
                config.model_dump_json(exclude={"kubeflow", "notify", "keep_runs", "report"}).encode()
            ).hexdigest(),
        },
        run_id=_run_id(),
    ).with_id("Pusher")
    report = RunReport(publisher.outputs["pushed_model"], serving_dir, config.report.pictures, _run_id())
    return tfx_pipeline.Pipeline(
        pipeline_name=config.name,
        pipeline_root=pipeline_root,
        components=[
            *(*data.in_order(), transform, *validation, *search, trainer),
            *(baseline, evaluator, check, *validators, publisher, report),
        ],
        enable_cache=True,
        metadata_connection_config=metadata_connection_config,
    )


def _run_id() -> data_types.RuntimeParameter:
    return data_types.RuntimeParameter(name=constants.PIPELINE_RUN_ID_PARAMETER_NAME, ptype=str)


def served_name(config: schema.Config) -> str:
    """Return the name of a pipeline's model at the server.

    Args:
      config: of the pipeline.
    """
    return config.serving.model_name or config.name


def _data_nodes(config: schema.Config, enforce: bool) -> _DataNodes:
    data = config.data
    if data.source is None:
        raise schema.ConfigError("data.source = None: name a folder of pictures, a manifest or TFRecords")
    example_gen = ImageExampleGen(
        source=data.source,
        splits=data.splits.model_dump(),
        num_spans=data.num_spans,
        record_features=data.features.model_dump(),
        **data.grouping(),
        near_copies_share_a_split=data.near_copies == "same_split",
        deduplicate=data.deduplicate,
        shard_megabytes=data.shard_megabytes,
        **config.image.preparation(),
        code_fingerprint=code_fingerprint("components.image_example_gen.executor"),
    )
    statistics_gen = components.StatisticsGen(
        examples=example_gen.outputs["examples"],
        stats_options=tfdv.StatsOptions(
            feature_allowlist=list(features.DESCRIPTIVE), num_rank_histogram_buckets=_MOST_LABELS
        ),
    )
    statistics = statistics_gen.outputs["statistics"]
    schema_gen = ImageSchemaGen(
        statistics=statistics,
        schema_file=data.schema_file,
        schema_fingerprint=_fingerprint_if_here(data.schema_file),
        code_fingerprint=code_fingerprint("components.image_schema_gen.component"),
    ).with_id("SchemaGen")
    example_validator = components.ExampleValidator(statistics=statistics, schema=schema_gen.outputs["schema"])
    baseline = resolver.Resolver(
        strategy_class=LatestAcceptedDataStrategy, candidate=statistics, verdict=types.Channel(type=DataVerdict)
    ).with_id("AcceptedData")
    gate = DataGate(
        statistics=statistics,
        schema=schema_gen.outputs["schema"],
        anomalies=example_validator.outputs["anomalies"],
        rejects=example_gen.outputs["rejects"],
        baseline=baseline.outputs["verdict"],
        limits=data.model_dump(include={field.name for field in dataclasses.fields(findings.Limits)})
        | {"folds": config.evaluation.folds},
        enforce=enforce,
        code_fingerprint=code_fingerprint("components.data_gate.executor"),
    )
    return _DataNodes(example_gen, statistics_gen, schema_gen, example_validator, baseline, gate)


def _fingerprint_if_here(path: str | None) -> str | None:
    """The fingerprint of a file; None where it is not: who compiles the pipeline need not have what its nodes read."""
    try:
        return file_fingerprint(path) if path else None
    except (OSError, tf.errors.OpError):
        return None


def _cross_validators(
    config: schema.Config, learnt_from: dict[str, types.BaseChannel], training: dict[str, Any]
) -> list[CrossValidator]:
    """Cross-validation, where it is wanted, with what Trainer is told."""
    if config.evaluation.folds is None:
        return []
    own = training | {"code_fingerprint": code_fingerprint("components.cross_validator.executor")}
    return [CrossValidator(**learnt_from, folds=config.evaluation.folds, custom_config=own)]


def _infra_validators(
    config: schema.InfraValidator | None, model: types.BaseChannel, examples: types.BaseChannel
) -> list[InfraValidator]:
    """TFX's InfraValidator, where it is wanted: TensorFlow Serving has to load the model and answer some test pictures."""
    if config is None:
        return []
    image, _, tag = config.image.rpartition(":")
    serving = infra_validator_pb2.ServingSpec(
        tensorflow_serving=infra_validator_pb2.TensorFlowServing(image_name=image, tags=[tag])
    )
    getattr(serving, "kubernetes" if config.platform == "kubernetes" else "local_docker").SetInParent()
    requests = infra_validator_pb2.RequestSpec(
        tensorflow_serving=infra_validator_pb2.TensorFlowServingRequestSpec(signature_names=[signatures.EXAMPLES]),
        split_name=features.TEST,
        num_examples=8,
    )
    return [InfraValidator(model=model, examples=examples, serving_spec=serving, request_spec=requests)]


def _trainer_config(config: schema.Config, work_dir: str) -> dict[str, Any]:
    """The sections that Trainer depends on, and what tells one state of its code and weights from another."""
    own = config.model_dump(mode="json", include={"model", "training", "augmentation"})
    own["image"] = config.image.model_dump(mode="json", include={"height", "width"})
    own["preparation"] = config.image.preparation()
    own["work_dir"] = work_dir
    own["views_fingerprint"] = code_fingerprint("modules.batches")
    own["code_fingerprint"] = code_fingerprint("modules.trainer")
    path = config.model.weights
    if path not in (None, weights.IMAGENET) and Path(path).is_file():
        own["weights_fingerprint"] = file_fingerprint(path)
    return own
