"""ImageExampleGen: labelled pictures, wherever they are, to tf.Examples in splits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.proto import example_gen_pb2, range_config_pb2
from tfx.types import component_spec, standard_artifacts, standard_component_specs

from components.image_example_gen import driver, executor, spans
from modules import features, images


class Rejects(types.Artifact):
    """Files that could not be used.

    `rejects.jsonl` holds a line with `path`, `code` and `message` for each, `duplicates.jsonl` one with `path` and `copy_of`
    for each copy that was left out, `counts.jsonl` the number of `pictures` of each `split` and `label`, `spans.jsonl` the
    number and the name of each `span` that was read, `others.jsonl` the number of `files` of each `kind` that are no
    pictures, `empty.jsonl` each `label` with a folder and no picture. `near_copies.jsonl` holds pairs that look like one
    photograph, `moves.jsonl` each picture that is in the split of what belongs to it, `cut.jsonl` each `split` that was cut
    from train; see `belonging`.
    """

    TYPE_NAME = "Rejects"


class ImageExampleGenSpec(component_spec.ComponentSpec):
    """What TFX's file-based ExampleGens take, where it applies, and our settings."""

    PARAMETERS = {  # noqa: RUF012 TFX reads a plain class attribute
        standard_component_specs.INPUT_BASE_KEY: component_spec.ExecutionParameter(type=str),
        standard_component_specs.INPUT_CONFIG_KEY: component_spec.ExecutionParameter(type=example_gen_pb2.Input),
        standard_component_specs.RANGE_CONFIG_KEY: component_spec.ExecutionParameter(type=range_config_pb2.RangeConfig),
        executor.SETTINGS_KEY: component_spec.ExecutionParameter(type=str),
        "code_fingerprint": component_spec.ExecutionParameter(type=str, optional=True),
    }
    INPUTS: Mapping[str, component_spec.ChannelParameter] = {}
    OUTPUTS = {  # noqa: RUF012
        standard_component_specs.EXAMPLES_KEY: component_spec.ChannelParameter(type=standard_artifacts.Examples),
        executor.REJECTS_KEY: component_spec.ChannelParameter(type=Rejects),
    }


class ImageExampleGen(base_beam_component.BaseBeamComponent):
    """Ingests a folder with one subfolder per class, the same in split folders, a manifest, or TFRecords.

    Each picture becomes one tf.Example with the raw features of `modules.features`, its bytes as TensorFlow decodes them
    right. Unless it was put into a split, that follows from a hash of its pixels or of its group: it stays where it is as
    data grows, and copies share a split. A picture under two labels is rejected.

    Component `outputs` contains:
      - `examples`: channel of type `standard_artifacts.Examples`, splits `train`, `eval` and `test`.
      - `rejects`: channel of type `Rejects`, the files that could not be used.
    """

    SPEC_CLASS = ImageExampleGenSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)
    DRIVER_CLASS = driver.Driver

    def __init__(
        self,
        source: str,
        splits: Mapping[str, int],
        num_spans: int = 1,
        record_features: Mapping[str, str | None] | None = None,
        group_name: str | None = None,
        group_pattern: str | None = None,
        near_copies_share_a_split: bool = False,
        deduplicate: bool = True,
        shard_megabytes: float = 128,
        background: tuple[int, int, int] = images.WHITE,
        max_pixels: int = images.MAX_PIXELS,
        code_fingerprint: str | None = None,
    ):
        """Construct an ImageExampleGen.

        Args:
          source: folder, manifest or pattern of TFRecords, on any filesystem that TFX reads; `{SPAN}` (or `{YYYY}`, `{MM}`,
            `{DD}`) and `{VERSION}` in it mean what they mean to TFX.
          splits: hash buckets of each split, e.g. `{"train": 8, "eval": 1, "test": 1}`.
          num_spans: how many of the latest spans are read.
          record_features: names of the features `image`, `label` and `split` in TFRecords; no split where it is None.
          group_name: column of a manifest, or feature of TFRecords, whose pictures with one value are in one split.
          group_pattern: regular expression that is searched in paths; what its `group` finds does the same.
          near_copies_share_a_split: likewise for what looks like one photograph.
          deduplicate: count copies of one picture once.
          shard_megabytes: about the size of an output file of all splits together, in 10^6 bytes of input.
          background: RGB, 0 to 255 each, behind transparent pixels.
          max_pixels: of a picture; larger ones are rejected before they are decoded.
          code_fingerprint: of the code behind the executor; another one makes cached results stale.
        """
        base, pattern = spans.divide(source)
        settings: dict[str, Any] = {
            "splits": dict(splits),
            "features": dict(record_features or {"image": features.IMAGE, "label": features.LABEL, "split": None}),
            "group_name": group_name,
            "group_pattern": group_pattern,
            "near_copies_share_a_split": near_copies_share_a_split,
            "deduplicate": deduplicate,
            "shard_megabytes": shard_megabytes,
            "background": list(background),
            "max_pixels": max_pixels,
        }
        super().__init__(
            ImageExampleGenSpec(
                input_base=base,
                input_config=example_gen_pb2.Input(
                    splits=[example_gen_pb2.Input.Split(name="source", pattern=pattern)],
                ),
                range_config=range_config_pb2.RangeConfig(rolling_range=range_config_pb2.RollingRange(num_spans=num_spans)),
                settings=json.dumps(settings),
                code_fingerprint=code_fingerprint,
                examples=types.Channel(type=standard_artifacts.Examples),
                rejects=types.Channel(type=Rejects),
            )
        )
