"""ImageExampleGen's executor: reads, checks, describes and sorts every picture, on Beam."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import tensorflow as tf
from tfx import types
from tfx.components.example_gen import utils
from tfx.components.util import examples_utils
from tfx.dsl.components.base import base_beam_executor
from tfx.dsl.io import fileio
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import io_utils

from components.image_example_gen import (
    assignment,
    belonging,
    files,
    inventory,
    preparation,
    progress,
    publishing,
    rejects,
    shards,
    sources,
    spans,
    spill,
)

REJECTS_KEY = "rejects"
SETTINGS_KEY = "settings"
LOCATIONS_KEY = "locations"
VOLUME_KEY, LISTED_KEY = "volume", "listed"
PICTURES_PROPERTY = "pictures"

_TRIES, _PAUSE = 20, 0.25
"""How often, and after how many seconds, what is in the way of a folder's removal is waited for."""

_log = logging.getLogger("finetune.components.image_example_gen")


class Executor(base_beam_executor.BaseBeamExecutor):
    """Generates the examples of a source of pictures.

    No picture's bytes are shuffled through Beam, whose local runner keeps all it shuffles in memory: examples are put aside
    on disk as they are made, sorted by shard, only hashes, paths and labels are grouped, and each shard is then copied
    together.
    """

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
          exec_properties: `settings` as the component took them; `locations`, `volume` in bytes, `listed` pictures and the
            fingerprint of what was listed as the driver found them.

        Raises:
          DataError: there is nothing to learn from, or a split is left empty.
        """
        settings = json.loads(exec_properties[SETTINGS_KEY])
        locations = [spans.Location(*location) for location in json.loads(exec_properties[LOCATIONS_KEY])]
        examples = artifact_utils.get_single_instance(output_dict[standard_component_specs.EXAMPLES_KEY])
        examples.split_names = artifact_utils.encode_split_names(list(settings["splits"]))
        folders = {split: artifact_utils.get_split_uri([examples], split) for split in settings["splits"]}
        count = shards.number(exec_properties[VOLUME_KEY], exec_properties[LISTED_KEY], settings["shard_megabytes"])
        listed = inventory.place(examples.uri, exec_properties[utils.FINGERPRINT_PROPERTY_NAME])
        portion = spill.portion_bytes(exec_properties[VOLUME_KEY], count)
        with inventory.opened(listed) as found:
            units = list(found.units(portion))
            class_labels, put_into = found.class_labels(), found.splits()
        report = artifact_utils.get_single_uri(output_dict[REJECTS_KEY])
        for folder in (*folders.values(), report):
            fileio.makedirs(folder)
        aside = os.path.join(self._get_tmp_dir(), "aside")
        told = progress.place(aside)
        for folder in (aside, told):
            fileio.makedirs(folder)
        try:
            with progress.shown(told, sum(unit.rows for unit in units)), self._make_beam_pipeline() as pipeline:
                _ingest(pipeline, listed, units, portion, put_into, settings, folders, count, aside, report)
        finally:
            for folder in (aside, told):
                _remove(folder)
        for name in (*rejects.GATHERED_FILES, *belonging.FILES):
            if not fileio.exists(os.path.join(report, name)):  # there was nothing to say
                io_utils.write_string_file(os.path.join(report, name), "")
        lines = [json.dumps({"span": at.span, "name": at.name}, ensure_ascii=False) + "\n" for at in locations if at.name]
        io_utils.write_string_file(os.path.join(report, rejects.SPANS_FILE), "".join(lines))
        _write_empty(report, class_labels)
        summary = rejects.read_summary(report)
        if summary.rejected:
            # The file that names all may not outlive the run; who shows its end names the one that does.
            _log.warning("%s", summary.describe(with_path=False))
        if summary.pictures:
            _log.info("%s", summary.describe_labels())
        together = belonging.read_summary(report)
        for line in together.sentences():
            _log.info("%s", line)
        try:
            _check(summary, list(settings["splits"]), locations)
        except spans.DataError as error:
            if not summary.rejected or not files.is_local(report):
                raise
            # TFX removes the artifacts of a node that failed.
            kept = shutil.copytree(report, tempfile.mkdtemp(prefix="finetune-rejects-"), dirs_exist_ok=True)
            message = str(error) if summary.path in str(error) else f"{error}; {summary.describe()}"
            raise spans.DataError(message.replace(os.path.abspath(report), kept)) from None
        examples_utils.set_payload_format(examples, example_gen_pb2.FORMAT_TF_EXAMPLE)
        examples_utils.set_file_format(examples, "tfrecords_gzip")
        examples.set_int_custom_property(PICTURES_PROPERTY, summary.total)


def _remove(folder: str) -> None:
    """Remove a folder; what workers of a job that was ended are still at may be written for a moment."""
    for _ in range(_TRIES):
        with contextlib.suppress(OSError, tf.errors.OpError):
            fileio.rmtree(folder)
        if not fileio.exists(folder):
            return
        time.sleep(_PAUSE)


def _ingest(
    pipeline: beam.Pipeline,
    listed: str,
    units: Iterable[inventory.Unit],
    portion: int,
    put_into: set[str],
    settings: dict[str, Any],
    folders: dict[str, str],
    count: int,
    aside: str,
    report: str,
) -> None:
    """Build the Beam pipeline from what was listed to the shards and the report."""
    names = settings["features"]
    reading = preparation.Settings(
        background=tuple(settings["background"]),
        max_pixels=settings["max_pixels"],
        image_feature=names["image"],
        label_feature=names["label"],
        split_feature=names["split"] or "",
        group_feature=settings["group_name"] or "",
        group_pattern=settings["group_pattern"] or "",
    )
    prepared = (
        pipeline
        | "Units" >> beam.Create(list(units))
        | "Spread" >> beam.Reshuffle()
        | "Prepare"
        >> beam.ParDo(preparation.PrepareImages(reading, listed, aside, count, spill.buffer_bytes(portion))).with_outputs(
            preparation.REJECTS, preparation.OTHERS, preparation.TRAITS, main="pictures"
        )
    )
    assigned = (
        prepared[preparation.TRAITS]
        | "Traits" >> beam.FlatMap(assignment.traits_of)
        | "Whole" >> beam.WithKeys(0)
        | "Together" >> beam.GroupByKey()
        | "Assign"
        >> beam.ParDo(
            assignment.AssignSplits(
                settings["splits"], count, settings["near_copies_share_a_split"], put_into, settings["deduplicate"]
            )
        ).with_outputs(assignment.LINES, main="places")
    )
    written = (
        {shards.PARTS: prepared.pictures, shards.PLACES: assigned.places}
        | "Group" >> beam.CoGroupByKey()
        | "Write"
        >> beam.ParDo(shards.WriteShard(aside, settings["deduplicate"])).with_outputs(
            preparation.REJECTS, shards.DUPLICATES, shards.WRITTEN, main="counts"
        )
    )
    _ = (
        written[shards.WRITTEN]
        # A step of its own, so that what is published is what an attempt that succeeded has written.
        | "Shards" >> beam.GroupBy(lambda shard: (shard.split, shard.shard))
        | "Publish" >> beam.MapTuple(lambda _, attempts: shards.publish(min(attempts), folders, count))
    )
    rejected = (prepared[preparation.REJECTS], written[preparation.REJECTS])
    lines = (
        assigned[assignment.LINES],
        rejected | "AllRejects" >> beam.Flatten() | "RejectLines" >> beam.Map(_reject_line),
        written[shards.DUPLICATES] | "DuplicateLines" >> beam.Map(_duplicate_line),
        written.counts | "Count" >> beam.CombinePerKey(sum) | "CountLines" >> beam.MapTuple(_count_line),
        prepared[preparation.OTHERS] | "CountOthers" >> beam.CombinePerKey(sum) | "OtherLines" >> beam.MapTuple(_other_line),
    )
    _ = (
        lines
        | "AllLines" >> beam.Flatten()
        | "GroupLines" >> beam.GroupByKey()
        | "WriteLines" >> beam.MapTuple(functools.partial(_write_lines, report, aside))
    )


def _write_empty(report: str, class_labels: set[str]) -> None:
    """Write down which classes have a folder and no picture that could be used."""
    empty = sorted(class_labels - rejects.read_labels(report))
    lines = "".join(json.dumps({"label": label}, ensure_ascii=False) + "\n" for label in empty)
    io_utils.write_string_file(os.path.join(report, rejects.EMPTY_FILE), lines)


def _reject_line(reject: rejects.Reject) -> tuple[str, str]:
    return rejects.REJECTS_FILE, reject.to_json()


def _duplicate_line(duplicate: shards.Duplicate) -> tuple[str, str]:
    return rejects.DUPLICATES_FILE, json.dumps(duplicate._asdict(), ensure_ascii=False)


def _count_line(key: tuple[str, str], pictures: int) -> tuple[str, str]:
    return rejects.COUNTS_FILE, json.dumps({"split": key[0], "label": key[1], "pictures": pictures}, ensure_ascii=False)


def _other_line(kind: str, number: int) -> tuple[str, str]:
    return rejects.OTHERS_FILE, json.dumps({"kind": kind, "files": number}, ensure_ascii=False)


def _write_lines(folder: str, aside: str, name: str, lines: Iterable[str]) -> None:
    # Beam's own WriteToText takes a dozen stages for each file, half a second each.
    path = publishing.new(aside)
    with fileio.open(path, "wb") as file:
        for line in sorted(lines):
            file.write(line.encode() + b"\n")
    publishing.publish(path, os.path.join(folder, name))


def _check(summary: rejects.Summary, splits: list[str], locations: list[spans.Location]) -> None:
    """Stop where statistics and training would have nothing to work on."""
    source = ", ".join(location.uri for location in locations)
    if not summary.pictures:
        why = summary.describe() if summary.rejected else "none found"
        raise spans.DataError(f"{source}: no picture can be used: {why}")
    sources.check_classes(source, summary.labels)
    for split in splits:
        if split not in summary.by_split:
            raise spans.DataError(
                f"{source}: no picture fell into the split {split}; add pictures (of other groups, with data.group), or"
                " enlarge its share in data.splits where that decides"
            )
