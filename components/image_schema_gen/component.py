"""ImageSchemaGen: TFX's SchemaGen, and what statistics do not see besides."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import tensorflow as tf
import tensorflow_data_validation as tfdv
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx import types
from tfx.components.schema_gen import executor
from tfx.components.statistics_gen import stats_artifact_utils
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import artifact_utils, component_spec, standard_artifacts, standard_component_specs
from tfx.utils import io_utils, json_utils

from modules import features

_SCHEMA_FILE_KEY = "schema_file"


class Executor(executor.Executor):
    """Infers the schema of what statistics saw, or takes a given one, and declares what they never see."""

    def Do(  # noqa: N802 TFX's name
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Write the schema; inputs and outputs are those of TFX's SchemaGen, and `schema_file` names one to take instead."""
        folder = artifact_utils.get_single_uri(output_dict[standard_component_specs.SCHEMA_KEY])
        path = os.path.join(folder, executor.DEFAULT_FILE_NAME)
        given = exec_properties.get(_SCHEMA_FILE_KEY)
        if given:
            schema = read_schema(given)
        else:
            super().Do(input_dict, output_dict, exec_properties)
            schema = io_utils.parse_pbtxt_file(path, schema_pb2.Schema())
            statistics = artifact_utils.get_single_instance(input_dict[standard_component_specs.STATISTICS_KEY])
            declare_labels(schema, _labels(statistics))
        declare_unseen(schema)
        io_utils.write_pbtxt_file(path, schema)


class SchemaError(ValueError):
    """A schema file that can't be used; the message says which and why."""


def read_schema(path: str) -> schema_pb2.Schema:
    """Read a schema that was written or inferred before.

    Args:
      path: of a `schema.pbtxt`, a TFMD schema in protobuf's text format.

    Raises:
      SchemaError: there is none, it can't be read, or it says nothing of the label.
    """
    try:
        schema = io_utils.parse_pbtxt_file(path, schema_pb2.Schema())
    except (OSError, tf.errors.OpError):
        raise SchemaError(f"data.schema_file = {path}: no such file, or it can't be read") from None
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise SchemaError(f"{path}: not a TFMD schema in text format: {' '.join(str(error).split())}") from None
    if features.LABEL not in {feature.name for feature in schema.feature}:
        raise SchemaError(f"{path}: no feature {features.LABEL}; expected a schema such as SchemaGen writes")
    return schema


def declare_labels(schema: schema_pb2.Schema, labels: Iterable[str]) -> None:
    """Say which labels there are, however many.

    Args:
      schema: changed in place; TFDV lists the values of a feature only if they are few.
      labels: of all pictures.
    """
    named = {domain.name: domain for domain in schema.string_domain}
    for feature in schema.feature:
        if feature.name == features.LABEL:
            if feature.HasField("domain") and feature.domain in named:
                schema.string_domain.remove(named.pop(feature.domain))
            feature.ClearField("domain_info")
            feature.string_domain.value.extend(sorted(labels))


def declare_unseen(schema: schema_pb2.Schema) -> None:
    """Add what statistics are not asked for to a schema, bare of what would be asked of it; say what Transform reads.

    Args:
      schema: changed in place; it may be of a time when statistics saw more.
    """
    for feature in [feature for feature in schema.feature if feature.name in features.UNSEEN]:
        schema.feature.remove(feature)
    for name in features.UNSEEN:
        schema.feature.add(name=name, type=schema_pb2.BYTES)
    representations = schema.tensor_representation_group[""].tensor_representation
    for name in (features.IMAGE, features.LABEL):
        representations[name].Clear()
        representations[name].dense_tensor.column_name = name
        representations[name].dense_tensor.shape.SetInParent()


def _labels(statistics: types.Artifact) -> set[str]:
    """The labels of all splits; a histogram names every one as long as StatisticsGen is told to."""
    labels = set()
    for split in artifact_utils.decode_split_names(statistics.split_names):
        view = (
            stats_artifact_utils.load_statistics(statistics, split)
            .get_default_slice_or_die()
            .get_feature(tfdv.FeaturePath([features.LABEL]))
        )
        labels |= {bucket.label for bucket in view.proto().string_stats.rank_histogram.buckets}
    return labels


class ImageSchemaGenSpec(component_spec.ComponentSpec):
    """SchemaGen's spec, with the fingerprint of our code besides."""

    PARAMETERS = {  # noqa: RUF012 TFX reads a plain class attribute
        **standard_component_specs.SchemaGenSpec.PARAMETERS,
        _SCHEMA_FILE_KEY: component_spec.ExecutionParameter(type=str, optional=True),
        "schema_fingerprint": component_spec.ExecutionParameter(type=str, optional=True),
        "code_fingerprint": component_spec.ExecutionParameter(type=str, optional=True),
    }
    INPUTS = standard_component_specs.SchemaGenSpec.INPUTS
    OUTPUTS = standard_component_specs.SchemaGenSpec.OUTPUTS


class ImageSchemaGen(base_component.BaseComponent):
    """Infers the schema of labelled pictures from statistics over what describes them.

    Component `outputs` contains:
      - `schema`: channel of type `standard_artifacts.Schema`, with the encoded picture, paths and hashes declared.
    """

    SPEC_CLASS = ImageSchemaGenSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        statistics: types.BaseChannel,
        schema_file: str | None = None,
        schema_fingerprint: str | None = None,
        code_fingerprint: str | None = None,
    ):
        """Construct an ImageSchemaGen.

        Args:
          statistics: channel of type `standard_artifacts.ExampleStatistics`.
          schema_file: a schema to take instead of inferring one.
          schema_fingerprint: of its content.
          code_fingerprint: of the code behind the executor; another one makes cached results stale.
        """
        super().__init__(
            ImageSchemaGenSpec(
                statistics=statistics,
                infer_feature_shape=1,
                exclude_splits=json_utils.dumps([]),
                schema_file=schema_file,
                schema_fingerprint=schema_fingerprint,
                code_fingerprint=code_fingerprint,
                schema=types.Channel(type=standard_artifacts.Schema),
            )
        )
