import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import tensorflow as tf
from tfx.proto import example_gen_pb2
from tfx.types import standard_artifacts
from tfx.utils import proto_utils

from components.image_example_gen import component, executor, sources
from modules import features
from tests.conftest import random_picture

Write = Callable[..., Path]
SPLITS = {"train": 2, "eval": 1, "test": 1}


def ingest(folder: Path, output: Path) -> dict[str, list[tf.train.Example]]:
    """Run the executor and read the examples of each split back."""
    spec = component.ImageExampleGen(source=str(folder), splits=SPLITS).spec
    properties = {
        key: proto_utils.proto_to_json(value)
        if isinstance(value, (example_gen_pb2.Input, example_gen_pb2.Output))
        else value
        for key, value in spec.exec_properties.items()
    }
    examples, rejects = standard_artifacts.Examples(), component.Rejects()
    examples.uri, rejects.uri = str(output / "examples"), str(output / "rejects")
    context = executor.Executor.Context(
        beam_pipeline_args=["--runner=FnApiRunner"], tmp_dir=str(output / "tmp"), unique_id="1"
    )
    executor.Executor(context).Do({}, {"examples": [examples], "rejects": [rejects]}, properties)
    return {
        split: [
            tf.train.Example.FromString(record)
            for path in sorted((output / "examples" / f"Split-{split}").iterdir())
            for record in tf.data.TFRecordDataset(str(path), "GZIP").as_numpy_iterator()
        ]
        for split in features.SPLITS
    }


def value(example: tf.train.Example, name: str) -> bytes | int:
    feature = example.features.feature[name]
    (only,) = feature.bytes_list.value or feature.int64_list.value
    return only


def splits_by_content(examples: dict[str, list[tf.train.Example]]) -> dict[bytes, str]:
    return {value(example, "content_hash"): split for split, found in examples.items() for example in found}


def test_every_picture_becomes_one_example_with_what_was_learnt_of_it(picture_folder: Write, tmp_path: Path) -> None:
    pictures = {f"class {i % 2}/ö{i}.png": random_picture(i, 9 + i, 7) for i in range(40)}
    examples = ingest(picture_folder(pictures), tmp_path / "out")
    found = {value(example, "path").decode(): example for split in examples.values() for example in split}
    assert sum(map(len, examples.values())) == 40
    assert found.keys() == pictures.keys()
    for path, example in found.items():
        assert value(example, "image") == pictures[path]
        assert value(example, "label").decode() == path.split("/")[0]
        assert value(example, "height") == 9 + int(path.split("ö")[1].removesuffix(".png"))
        assert value(example, "width") == 7
        assert value(example, "channels") == 3
        assert value(example, "format") == b"PNG"
        assert value(example, "bytes") == len(pictures[path])


def test_a_picture_stays_in_its_split_as_the_data_grows_and_copies_share_one(picture_folder: Write, tmp_path: Path) -> None:
    first = {f"a/{i}.png": random_picture(i) for i in range(20)} | {f"b/{i}.png": random_picture(100 + i) for i in range(20)}
    before = splits_by_content(ingest(picture_folder(first, "first"), tmp_path / "1"))
    # The same pictures under other names and other labels, copies of them, and new ones.
    grown = {f"c/new{name.replace('/', '-')}": content for name, content in first.items()}
    grown |= {f"d/{i}.png": random_picture(i) for i in range(10)} | {
        f"d/x{i}.png": random_picture(200 + i) for i in range(30)
    }
    examples = ingest(picture_folder(grown, "second"), tmp_path / "2")
    after = splits_by_content(examples)
    assert sum(map(len, examples.values())) == 80
    assert {content: after[content] for content in before} == before
    for split, found in examples.items():
        assert {after[value(example, "content_hash")] for example in found} == {split}


def test_a_bad_file_is_named_and_the_others_are_kept(
    picture_folder: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pictures = {f"{'ab'[i % 2]}/{i}.png": random_picture(i) for i in range(40)}
    folder = picture_folder(pictures | {"a/broken.jpg": b"\xff\xd8broken", "b/empty.png": b""})
    with caplog.at_level(logging.WARNING, "finetune"):
        examples = ingest(folder, tmp_path / "out")
    assert sum(map(len, examples.values())) == 40
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects" / "rejects.jsonl").read_text().splitlines()]
    assert {reject["path"] for reject in rejects} == {"a/broken.jpg", "b/empty.png"}
    (warning,) = caplog.messages
    assert warning.startswith("2 unreadable files passed over: ")
    assert "a/broken.jpg: " in warning
    assert "b/empty.png: the file is empty" in warning


def test_an_empty_split_is_an_error(picture_folder: Write, tmp_path: Path) -> None:
    folder = picture_folder({"a/1.png": random_picture(1), "b/2.png": random_picture(2)})
    with pytest.raises(sources.DataError, match="no picture fell into the split"):
        ingest(folder, tmp_path / "out")
