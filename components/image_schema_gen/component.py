"""ImageSchemaGen: TFX's SchemaGen, and the encoded picture besides."""

from __future__ import annotations

import os
from typing import Any

from tensorflow_metadata.proto.v0 import schema_pb2
from tfx import types
from tfx.components.schema_gen import executor
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import artifact_utils, component_spec, standard_artifacts, standard_component_specs
from tfx.utils import io_utils, json_utils

from modules import features


class Executor(executor.Executor):
    """Infers the schema of what statistics saw, and declares the picture, which they never see."""

    def Do(  # noqa: N802 TFX's name
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Write the schema; inputs and outputs are those of TFX's SchemaGen."""
        super().Do(input_dict, output_dict, exec_properties)
        folder = artifact_utils.get_single_uri(output_dict[standard_component_specs.SCHEMA_KEY])
        path = os.path.join(folder, executor.DEFAULT_FILE_NAME)
        schema = io_utils.parse_pbtxt_file(path, schema_pb2.Schema())
        declare_image(schema)
        io_utils.write_pbtxt_file(path, schema)


def declare_image(schema: schema_pb2.Schema) -> None:
    """Add the encoded picture to a schema, without asking statistics for it, and say what Transform reads: two scalars.

    Args:
      schema: changed in place.
    """
    schema.feature.add(name=features.IMAGE, type=schema_pb2.BYTES)
    representations = schema.tensor_representation_group[""].tensor_representation
    for name in (features.IMAGE, features.LABEL):
        representations[name].dense_tensor.column_name = name
        representations[name].dense_tensor.shape.SetInParent()


class ImageSchemaGenSpec(component_spec.ComponentSpec):
    """SchemaGen's spec, with the fingerprint of our code besides."""

    PARAMETERS = {  # noqa: RUF012 TFX reads a plain class attribute
        **standard_component_specs.SchemaGenSpec.PARAMETERS,
        "code_fingerprint": component_spec.ExecutionParameter(type=str, optional=True),
    }
    INPUTS = standard_component_specs.SchemaGenSpec.INPUTS
    OUTPUTS = standard_component_specs.SchemaGenSpec.OUTPUTS


class ImageSchemaGen(base_component.BaseComponent):
    """Infers the schema of labelled pictures from statistics over all that is known of them but their bytes.

    Component `outputs` contains:
      - `schema`: channel of type `standard_artifacts.Schema`, with the encoded picture declared.
    """

    SPEC_CLASS = ImageSchemaGenSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(self, statistics: types.BaseChannel, code_fingerprint: str | None = None):
        """Construct an ImageSchemaGen.

        Args:
          statistics: channel of type `standard_artifacts.ExampleStatistics`.
          code_fingerprint: of the code behind the executor; another one makes cached results stale.
        """
        super().__init__(
            ImageSchemaGenSpec(
                statistics=statistics,
                infer_feature_shape=1,
                exclude_splits=json_utils.dumps([]),
                code_fingerprint=code_fingerprint,
                schema=types.Channel(type=standard_artifacts.Schema),
            )
        )
