"""What is kept of data says how they are, and not of each picture what it is: it stays small as they grow."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2

from components.data_gate import executor, findings
from components.image_example_gen import belonging, rejects
from components.image_schema_gen import component as schema_gen
from configs import schema as configuration
from modules import features
from pipeline import pipeline

_FEW, _MANY = 300, 6_000


@pytest.fixture(scope="module")
def options() -> tfdv.StatsOptions:
    """As the pipeline's StatisticsGen has them."""
    config = configuration.Config.model_validate({"name": "sizes", "data": {"source": "pictures"}})
    nodes = {node.id: node for node in pipeline.create_data_pipeline(config, pipeline_root="root").components}
    return tfdv.StatsOptions.from_json(nodes["StatisticsGen"].exec_properties["stats_options_json"])


def statistics(pictures: int, options: tfdv.StatsOptions) -> statistics_pb2.DatasetFeatureStatisticsList:
    random = np.random.default_rng(1)
    columns = {
        features.IMAGE: [b"\xff\xd8%d" % i for i in range(pictures)],
        features.LABEL: [f"label {i % 20}" for i in range(pictures)],
        features.PATH: [f"label {i % 20}/holidays/picture {i:07d}.jpg" for i in range(pictures)],
        features.SPAN: [0] * pictures,
        features.HEIGHT: random.integers(100, 4000, pictures),
        features.WIDTH: random.integers(100, 4000, pictures),
        features.CHANNELS: [3] * pictures,
        features.FORMAT: ["JPEG"] * pictures,
        features.SIZE: random.integers(1_000, 4_000_000, pictures),
        features.CONTENT_HASH: [f"{i:064x}" for i in range(pictures)],
    }
    return tfdv.generate_statistics_from_dataframe(pd.DataFrame(columns), options, n_jobs=1)


def inferred(of: statistics_pb2.DatasetFeatureStatisticsList) -> schema_pb2.Schema:
    schema = tfdv.infer_schema(of)
    schema_gen.declare_labels(schema, {f"label {i}" for i in range(20)})
    schema_gen.declare_unseen(schema)
    return schema


def test_statistics_schema_and_verdict_do_not_grow_with_the_pictures(tmp_path: Path, options: tfdv.StatsOptions) -> None:
    sizes = []
    for pictures in (_FEW, _MANY):
        of = statistics(pictures, options)
        schema = inferred(of)
        anomalies = tfdv.validate_statistics(of, schema)
        assert not anomalies.anomaly_info
        counts = {(split, f"label {i}"): pictures for split in features.SPLITS for i in range(20)}
        first = tuple(rejects.Reject(f"{i}.jpg", "damaged", "is damaged") for i in range(10))
        summary = rejects.Summary(counts, pictures, pictures, first, {"damaged": pictures}, "rejects.jsonl")
        evidence = findings.Evidence(
            summary, of, frozenset(f"label {i}" for i in range(20)), {"train": anomalies}, belonging.Summary()
        )
        limits = findings.Limits(0.0001, 5, "warn", "refuse", "refuse", "refuse", "refuse", 0.1, 0.3, None)
        folder = tmp_path / str(pictures)
        folder.mkdir()
        executor._write(str(folder), findings.judge(limits, evidence, None), evidence)
        written = {path.name: path.stat().st_size for path in folder.iterdir()}
        sizes.append({"statistics": of.ByteSize(), "schema": schema.ByteSize(), **written})
    few, many = sizes
    assert few.keys() == many.keys()
    assert len(few) == 5
    for name, size in many.items():
        assert size < 1.1 * few[name] + 200, name


def test_neither_paths_nor_hashes_are_a_domain(options: tfdv.StatsOptions) -> None:
    schema = inferred(statistics(15, options))
    named = {feature.name: feature for feature in schema.feature}
    assert named.keys() == {*features.DESCRIPTIVE, *features.UNSEEN}
    for name in features.UNSEEN:
        assert named[name] == schema_pb2.Feature(name=name, type=schema_pb2.BYTES)
    assert not any("holidays" in value for domain in schema.string_domain for value in domain.value)
    assert list(named[features.LABEL].string_domain.value) == sorted(f"label {i}" for i in range(20))


def test_a_schema_that_was_written_when_statistics_saw_paths_still_fits(options: tfdv.StatsOptions) -> None:
    schema = inferred(statistics(_FEW, options))
    for feature in schema.feature:
        if feature.name in features.UNSEEN:
            feature.presence.min_fraction = 1
            feature.presence.min_count = 1
    before = tfdv.validate_statistics(statistics(_FEW, options), schema)
    assert set(before.anomaly_info) == set(features.UNSEEN)
    schema_gen.declare_unseen(schema)
    assert not tfdv.validate_statistics(statistics(_FEW, options), schema).anomaly_info


def test_reading_a_report_keeps_no_more_of_it_than_a_few_lines(tmp_path: Path) -> None:
    lines = {
        rejects.REJECTS_FILE: [{"path": f"{i}.jpg", "code": rejects.CONTAINER, "message": "damaged"} for i in range(5_000)],
        rejects.DUPLICATES_FILE: [{"path": f"{i}.jpg", "copy_of": "0.jpg"} for i in range(7_000)],
        rejects.COUNTS_FILE: [{"split": "train", "label": "cat", "pictures": 9}],
        rejects.SPANS_FILE: [],
        rejects.OTHERS_FILE: [],
        rejects.EMPTY_FILE: [],
    }
    for name, found in lines.items():
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in found))
    summary = rejects.read_summary(str(tmp_path))
    assert (summary.rejected, summary.duplicates) == (5_000, 7_000)
    assert len(summary.first) == len(summary.containers) == 10
