"""ImageExampleGen: a folder of labelled pictures to tf.Examples in splits."""

from __future__ import annotations

from collections.abc import Mapping

from tfx import types
from tfx.components.example_gen import utils
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.proto import example_gen_pb2
from tfx.types import component_spec, standard_artifacts, standard_component_specs

from components.image_example_gen import driver, executor
from modules import features


class Rejects(types.Artifact):
    """Files that could not be used: JSON lines with `path` and `message`."""

    TYPE_NAME = "Rejects"


class ImageExampleGenSpec(component_spec.ComponentSpec):
    """FileBasedExampleGen's spec, with the rejected files and the fingerprint of our code besides."""

    PARAMETERS = {  # noqa: RUF012 TFX reads a plain class attribute
        **standard_component_specs.FileBasedExampleGenSpec.PARAMETERS,
        "code_fingerprint": component_spec.ExecutionParameter(type=str, optional=True),
    }
    INPUTS: Mapping[str, component_spec.ChannelParameter] = {}
    OUTPUTS = {  # noqa: RUF012
        standard_component_specs.EXAMPLES_KEY: component_spec.ChannelParameter(type=standard_artifacts.Examples),
        executor.REJECTS_KEY: component_spec.ChannelParameter(type=Rejects),
    }


class ImageExampleGen(base_beam_component.BaseBeamComponent):
    """Ingests a folder with one subfolder of JPEG or PNG files per class.

    Each picture becomes one tf.Example with the raw features of `modules.features`. Its split follows from a hash of its
    content, so it stays where it is as data grows, and equal files share a split.

    Component `outputs` contains:
      - `examples`: channel of type `standard_artifacts.Examples`, splits `train`, `eval` and `test`.
      - `rejects`: channel of type `Rejects`, the files that could not be used.
    """

    SPEC_CLASS = ImageExampleGenSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)
    DRIVER_CLASS = driver.Driver

    def __init__(self, source: str, splits: Mapping[str, int], code_fingerprint: str | None = None):
        """Construct an ImageExampleGen.

        Args:
          source: the folder, on any filesystem that TFX reads.
          splits: hash buckets of each split, e.g. `{"train": 8, "eval": 1, "test": 1}`.
          code_fingerprint: of the code behind the executor; another one makes cached results stale.
        """
        split_config = example_gen_pb2.SplitConfig(
            splits=[example_gen_pb2.SplitConfig.Split(name=name, hash_buckets=buckets) for name, buckets in splits.items()],
            partition_feature_name=features.CONTENT_HASH,
        )
        super().__init__(
            ImageExampleGenSpec(
                input_base=source,
                input_config=utils.make_default_input_config(),
                output_config=example_gen_pb2.Output(split_config=split_config),
                output_data_format=example_gen_pb2.FORMAT_TF_EXAMPLE,
                output_file_format=example_gen_pb2.FORMAT_TFRECORDS_GZIP,
                code_fingerprint=code_fingerprint,
                examples=types.Channel(type=standard_artifacts.Examples),
                rejects=types.Channel(type=Rejects),
            )
        )
