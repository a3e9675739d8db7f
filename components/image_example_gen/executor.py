"""ImageExampleGen's executor: reads, checks and describes every picture, on Beam."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import tensorflow as tf
from tfx import types
from tfx.components.example_gen import base_example_gen_executor
from tfx.dsl.io import fileio
from tfx.types import artifact_utils, standard_component_specs

from components.image_example_gen import sources
from modules import features, images

REJECTS_KEY = "rejects"
REJECTS_FILE = "rejects.jsonl"

_REJECTS_PATH = "_rejects_path"
_NAMED_IN_LOG = 10
_log = logging.getLogger("finetune.components.image_example_gen")


class ReadImage(beam.DoFn):
    """Turns an ImageFile into a tf.Example, or into a line of `rejects`.

    Args:
      source: the folder that the paths are below.
    """

    def __init__(self, source: str):
        super().__init__()
        self._source = source

    def process(self, file: sources.ImageFile) -> Iterator[Any]:
        """Yield the tf.Example of a picture, or its reject, tagged."""
        try:
            with fileio.open(os.path.join(self._source, file.path), "rb") as opened:
                encoded = opened.read()
            info = images.inspect(encoded)
        except (images.BadImageError, OSError, tf.errors.OpError) as error:
            reject = {"path": file.path, "message": str(error)}
            yield beam.pvalue.TaggedOutput(REJECTS_KEY, json.dumps(reject, ensure_ascii=False))
            return
        yield to_example(file, encoded, info)


def to_example(file: sources.ImageFile, encoded: bytes, info: images.ImageInfo) -> tf.train.Example:
    """Return the raw features of one picture."""
    feature = {
        features.IMAGE: features.bytes_feature(encoded),
        features.LABEL: features.bytes_feature(file.label.encode()),
        features.PATH: features.bytes_feature(file.path.encode()),
        features.HEIGHT: features.int_feature(info.height),
        features.WIDTH: features.int_feature(info.width),
        features.CHANNELS: features.int_feature(info.channels),
        features.FORMAT: features.bytes_feature(info.format.encode()),
        features.SIZE: features.int_feature(info.bytes),
        features.CONTENT_HASH: features.bytes_feature(info.content_hash.encode()),
    }
    return tf.train.Example(features=tf.train.Features(feature=feature))


@beam.ptransform_fn
@beam.typehints.with_input_types(beam.Pipeline)
@beam.typehints.with_output_types(tf.train.Example)
def _ReadImages(  # noqa: N802 Beam's name for a transform
    pipeline: beam.Pipeline, exec_properties: dict[str, Any], split_pattern: str
) -> beam.PCollection:
    """Read every picture below the source folder."""
    del split_pattern
    source = exec_properties[standard_component_specs.INPUT_BASE_KEY]
    read = (
        pipeline
        | "Source" >> beam.Create([source])
        | "List" >> beam.FlatMap(sources.list_images)
        | "Spread" >> beam.Reshuffle()
        | "Read" >> beam.ParDo(ReadImage(source)).with_outputs(REJECTS_KEY, main="examples")
    )
    _ = read[REJECTS_KEY] | "WriteRejects" >> beam.io.WriteToText(
        exec_properties[_REJECTS_PATH], num_shards=1, shard_name_template=""
    )
    return read.examples


class Executor(base_example_gen_executor.BaseExampleGenExecutor):
    """Generates the examples of a folder of pictures."""

    def GetInputSourceToExamplePTransform(self) -> beam.PTransform:  # noqa: N802 TFX's name
        """Return the transform from the source folder to tf.Examples."""
        return _ReadImages

    def Do(  # noqa: N802 TFX's name
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Write the examples and the rejects.

        Args:
          input_dict: empty.
          output_dict: `examples` and `rejects`.
          exec_properties: `input_base` is the source folder; the others as in TFX's file-based ExampleGens.

        Raises:
          DataError: there is nothing to learn from, or a split is left empty.
        """
        source = exec_properties[standard_component_specs.INPUT_BASE_KEY]
        sources.check(source)
        rejects_path = os.path.join(artifact_utils.get_single_uri(output_dict[REJECTS_KEY]), REJECTS_FILE)
        super().Do(input_dict, output_dict, {**exec_properties, _REJECTS_PATH: rejects_path})
        _warn_of_rejects(rejects_path)
        for split in features.SPLITS:
            folder = artifact_utils.get_split_uri(output_dict[standard_component_specs.EXAMPLES_KEY], split)
            if _is_empty(folder):
                raise sources.DataError(
                    f"{source}: no picture fell into the split {split}; add pictures or enlarge its share in data.splits"
                )


def _warn_of_rejects(path: str) -> None:
    with fileio.open(path, "r") as opened:
        lines = opened.read().splitlines()
    if lines:
        rejects = [json.loads(line) for line in lines[:_NAMED_IN_LOG]]
        named = "; ".join(f"{reject['path']}: {reject['message']}" for reject in rejects)
        more = f"; and {len(lines) - len(rejects)} more, all in {path}" if len(lines) > len(rejects) else ""
        _log.warning("%d unreadable files passed over: %s%s", len(lines), named, more)


def _is_empty(folder: str) -> bool:
    files = fileio.glob(os.path.join(folder, "*"))
    return not any(True for _ in tf.data.TFRecordDataset(files, "GZIP").take(1)) if files else True
