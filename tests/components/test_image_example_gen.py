import io
import json
import logging
import os
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from tfx.proto import example_gen_pb2, range_config_pb2
from tfx.types import standard_artifacts
from tfx.utils import proto_utils

from components.image_example_gen import (
    assignment,
    component,
    driver,
    executor,
    preparation,
    rejects,
    shards,
    sources,
    spans,
)
from components.image_example_gen import files as stored
from configs import schema
from modules import contents, dataset, features, images
from pipeline import beam
from tests import corpus
from tests.conftest import random_picture

Write = Callable[..., Path]
SPLITS = {"train": 2, "eval": 1, "test": 1}


class Ingested(NamedTuple):
    """What ingestion wrote."""

    examples: dict[str, list[tf.train.Example]]
    report: Path
    files: dict[str, list[str]]

    def by_path(self) -> dict[str, tf.train.Example]:
        return {value(example, "path").decode(): example for split in self.examples.values() for example in split}

    def splits_by_content(self) -> dict[bytes, str]:
        return {value(example, "content_hash"): split for split, found in self.examples.items() for example in found}

    def rejects(self) -> dict[str, str]:
        lines = (self.report / rejects.REJECTS_FILE).read_text().splitlines()
        return {line["path"]: line["code"] for line in map(json.loads, lines)}


def ingest(
    source: Path | str,
    output: Path,
    splits: dict[str, int] = SPLITS,
    meanwhile: Callable[[], object] | None = None,
    **settings: object,
) -> Ingested:
    """Run the component's driver, what happens meanwhile, and its executor, and read the examples of each split back."""
    spec = component.ImageExampleGen(str(source), splits, **settings).spec
    protos = (example_gen_pb2.Input, range_config_pb2.RangeConfig)
    properties = {
        key: proto_utils.proto_to_json(given) if isinstance(given, protos) else given
        for key, given in spec.exec_properties.items()
    }
    examples, report = standard_artifacts.Examples(), component.Rejects()
    examples.uri, report.uri = str(output / "examples" / "1"), str(output / "rejects" / "1")
    properties |= driver.resolve(properties, examples.uri)
    if meanwhile:
        meanwhile()
    context = executor.Executor.Context(beam.arguments(schema.Beam()), tmp_dir=str(output / "tmp"), unique_id="1")
    executor.Executor(context).Do({}, {"examples": [examples], "rejects": [report]}, properties)
    files = {split: sorted(map(str, Path(examples.uri, f"Split-{split}").iterdir())) for split in features.SPLITS}
    return Ingested({split: list(read(paths)) for split, paths in files.items()}, Path(report.uri), files)


def read(paths: list[str]) -> Iterator[tf.train.Example]:
    for record in tf.data.TFRecordDataset(paths, "GZIP").as_numpy_iterator():
        yield tf.train.Example.FromString(record)


def value(example: tf.train.Example, name: str) -> bytes | int:
    feature = example.features.feature[name]
    (only,) = feature.bytes_list.value or feature.int64_list.value
    return only


def many(label: str, count: int, first: int = 0) -> dict[str, bytes]:
    """Distinct pictures of one class."""
    return {f"{label}/{i}.png": random_picture(first + i) for i in range(count)}


def test_every_picture_becomes_one_example_with_what_was_learnt_of_it(picture_folder: Write, tmp_path: Path) -> None:
    pictures = {f"class {i % 2}/ö{i}.png": random_picture(i, 9 + i, 7) for i in range(40)}
    ingested = ingest(picture_folder(pictures), tmp_path / "out")
    assert sum(map(len, ingested.examples.values())) == 40
    found = ingested.by_path()
    assert found.keys() == pictures.keys()
    for path, example in found.items():
        assert value(example, "image") == pictures[path]
        assert value(example, "label").decode() == path.split("/")[0]
        assert value(example, "height") == 9 + int(path.split("ö")[1].removesuffix(".png"))
        assert value(example, "width") == 7
        assert value(example, "channels") == 3
        assert value(example, "format") == b"PNG"
        assert value(example, "bytes") == len(pictures[path])
        assert value(example, "span") == 0
    assert ingested.rejects() == {}


def test_an_empty_split_is_an_error(picture_folder: Write, tmp_path: Path) -> None:
    folder = picture_folder({"a/1.png": random_picture(1), "b/2.png": random_picture(2)})
    with pytest.raises(spans.DataError, match="no picture fell into the split"):
        ingest(folder, tmp_path / "out")


def test_every_kind_of_trouble_and_every_valid_kind_has_its_fate(
    picture_folder: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, expected = {}, {}
    for number, (kind, (make, *_)) in enumerate(corpus.VALID.items()):
        files[f"good/{number} {kind}"] = make(number)
    for number, (kind, (content, code)) in enumerate(corpus.BAD.items()):
        path = f"bad/{number} {kind}.jpg"
        files[path], expected[path] = content, code
    files |= many("bad", 20, 500) | {"good/a PNG called.jpg": random_picture(700), "good/no extension": random_picture(701)}
    files |= {"bad/conflict.png": random_picture(800), "good/conflict.png": random_picture(800)}
    # What is no picture, and does not claim to be, is passed over and counted.
    others = {"README.md": b"# Pictures", "bad/1.xml": b"<a/>", "bad/2.xml": b"", "good/notes": b"x", "bad/.gitkeep": b""}
    files |= others | {"bad/0.png:Zone.Identifier": b"[ZoneTransfer]\r\n", "lost.jpg": random_picture(702)}
    others |= {"bad/0.png:Zone.Identifier": b""}
    files |= {"no extension": random_picture(703), "bad/more.zip": b"PK"}
    files["good/backup"] = b"PK\3\4" + bytes(26) + b"1.png"
    expected |= {"lost.jpg": rejects.NO_LABEL, "no extension": rejects.NO_LABEL}
    expected |= dict.fromkeys(["bad/more.zip", "good/backup"], rejects.CONTAINER)
    folder = picture_folder(files)
    expected |= dict.fromkeys(["bad/conflict.png", "good/conflict.png"], rejects.CONFLICT)

    (tmp_path / "elsewhere.png").write_bytes(random_picture(900))
    (folder / "good" / "outside.png").symlink_to(tmp_path / "elsewhere.png")
    (folder / "good" / "broken link.png").symlink_to(folder / "nothing.png")
    (folder / "good" / "circle").symlink_to(folder)
    os.mkfifo(folder / "good" / "pipe.png")
    (folder / "good" / "locked.png").write_bytes(random_picture(901))
    (folder / "good" / "locked.png").chmod(0)
    if os.geteuid() == 0:  # whom no permission stops
        monkeypatch.setattr(stored, "opened", refuse_locked(stored.opened))
    Path(os.fsdecode(os.fsencode(folder) + b"/good/bad\xff.png")).write_bytes(random_picture(902))
    expected |= {
        "good/outside.png": rejects.OUTSIDE_ROOT,
        "good/broken link.png": rejects.UNREADABLE,
        "good/circle": rejects.LINKED_FOLDER,
        "good/pipe.png": images.EMPTY,
        "good/locked.png": rejects.UNREADABLE,
        "good/bad\\xff.png": rejects.BAD_NAME,
    }
    assert len(expected) >= 25

    ingested = ingest(folder, tmp_path / "out", deduplicate=False)
    assert ingested.rejects() == expected
    found = ingested.by_path()
    assert found.keys() == files.keys() - expected.keys() - others.keys()
    summary = rejects.read_summary(str(ingested.report))
    assert summary.others == {"md": 1, "xml": 2, "": 1, "identifier": 1}
    assert summary.describe_others() == "5 other files: 2 .xml, 1 without an ending, 1 .identifier, 1 .md"
    for path, example in found.items():
        picture = images.prepare(files[path])
        assert value(example, "image") == picture.encoded
        assert value(example, "content_hash").decode() == picture.content_hash
        assert value(example, "format").decode() == picture.format


def refuse_locked(opened: Callable[..., object]) -> Callable[..., object]:
    def as_others(path: str) -> object:
        if path.endswith("locked.png"):
            raise PermissionError(13, "Permission denied", path)
        return opened(path)

    return as_others


def test_whatever_goes_wrong_in_one_file_is_the_fate_of_that_file(
    picture_folder: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    decode, to_example = images.decoding.decode, preparation.to_example

    def broken(encoded: bytes, max_pixels: int) -> object:
        if encoded == random_picture(3):
            raise MemoryError("inside\na decoder")
        return decode(encoded, max_pixels)

    def unwritten(file: sources.ImageFile, picture: images.Picture) -> tf.train.Example:
        if file.path == "a/4.png":
            raise ZeroDivisionError
        return to_example(file, picture)

    monkeypatch.setattr(images.decoding, "decode", broken)
    monkeypatch.setattr(preparation, "to_example", unwritten)
    ingested = ingest(picture_folder(many("a", 20) | many("b", 20, 50)), tmp_path / "out")
    assert ingested.rejects() == {"a/3.png": images.FAILED, "a/4.png": images.FAILED}
    assert len(ingested.by_path()) == 38
    assert caplog.text.count("Traceback") == 2


def test_what_is_rejected_is_still_named_in_a_file_after_a_source_without_a_usable_picture(
    picture_folder: Write, tmp_path: Path
) -> None:
    with pytest.raises(spans.DataError, match="2 files rejected") as error:
        ingest(picture_folder({"a/1.png": b"x", "b/2.png": b"y"}), tmp_path / "out")
    kept = Path(re.search(r"named in (\S+):", str(error.value))[1])
    assert kept.is_file()
    assert (tmp_path / "out") not in kept.parents
    assert len(kept.read_text().splitlines()) == 2


def test_an_empty_split_names_the_rejects_that_may_be_missing_there(picture_folder: Write, tmp_path: Path) -> None:
    with pytest.raises(spans.DataError, match=r"no picture fell into the split .*; 1 file rejected .* named in /") as error:
        ingest(
            picture_folder({"a/1.png": random_picture(1), "b/2.png": random_picture(2), "b/3.png": b"x"}), tmp_path / "out"
        )
    assert Path(re.search(r"named in (\S+):", str(error.value))[1]).is_file()


def test_a_folder_whose_name_is_a_pattern_is_a_folder(picture_folder: Write, tmp_path: Path) -> None:
    folder = picture_folder(many("a", 20) | many("b", 20, 50), "in [1] {x} *")
    assert len(ingest(folder, tmp_path / "out").by_path()) == 40


def test_a_class_folder_without_a_usable_picture_is_written_down(picture_folder: Write, tmp_path: Path) -> None:
    files = many("a", 20) | many("b", 20, 50) | {"empty/.gitkeep": b"", "broken/1.png": b"x"}
    ingested = ingest(picture_folder(files), tmp_path / "out")
    assert rejects.read_summary(str(ingested.report)).empty == ("broken", "empty")


def test_a_conflict_names_both_pictures(picture_folder: Write, tmp_path: Path) -> None:
    same = random_picture(99)
    folder = picture_folder(many("a", 20) | many("b", 20, 50) | {"a/same.png": same, "b/same.png": same})
    ingested = ingest(folder, tmp_path / "out")
    lines = [json.loads(line) for line in (ingested.report / rejects.REJECTS_FILE).read_text().splitlines()]
    assert {line["path"] for line in lines} == {"a/same.png", "b/same.png"}
    for line in lines:
        other = ({"a/same.png", "b/same.png"} - {line["path"]}).pop()
        assert f"{other} ({other[0]})" in line["message"]


def test_rejects_make_one_line_in_the_terminal(
    picture_folder: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = {f"a/broken{i:02d}.jpg": b"\xff\xd8\xffbroken" for i in range(12)}
    with caplog.at_level(logging.WARNING, "finetune"):
        ingested = ingest(picture_folder(many("a", 20) | many("b", 20, 50) | broken), tmp_path / "out")
    (warning,) = caplog.messages
    assert warning.startswith("12 files rejected (12 damaged): a/broken")
    described = rejects.read_summary(str(ingested.report)).describe()
    assert described.startswith(f"12 files rejected (12 damaged), all named in {ingested.report / rejects.REJECTS_FILE}: ")
    assert warning.count("a/broken") == 10
    assert "\n" not in warning


def test_copies_are_counted_once_and_share_a_split_in_any_case(picture_folder: Write, tmp_path: Path) -> None:
    pictures = many("a", 30) | many("b", 30, 100)
    copies = {f"{path[0]}/copy/{path[2:]}": content for path, content in pictures.items()}
    as_bmp = {"a/x.bmp": transcode(pictures["a/0.png"], "BMP"), "a/x.tiff": transcode(pictures["a/1.png"], "TIFF")}
    folder = picture_folder(pictures | copies | as_bmp)
    once = ingest(folder, tmp_path / "once")
    assert len(once.by_path()) == 60
    lines = [json.loads(line) for line in (once.report / rejects.DUPLICATES_FILE).read_text().splitlines()]
    assert {line["path"] for line in lines} == (pictures | copies | as_bmp).keys() - once.by_path().keys()
    assert all(line["copy_of"] in once.by_path() for line in lines)
    counts = rejects.read_summary(str(once.report))
    assert (sum(counts.pictures.values()), counts.duplicates, counts.rejected) == (60, 62, 0)

    all_of_them = ingest(folder, tmp_path / "all", deduplicate=False)
    assert len(all_of_them.by_path()) == 122
    for split, examples in all_of_them.examples.items():
        assert {all_of_them.splits_by_content()[value(example, "content_hash")] for example in examples} == {split}


def transcode(png: bytes, kind: str) -> bytes:
    return corpus.save(PIL.Image.open(io.BytesIO(png)), kind)


def test_splits_given_by_folders_hold_and_copies_in_two_go_to_the_one_that_leaks_least(
    picture_folder: Write, tmp_path: Path
) -> None:
    files = {
        f"{split}/{label}/{i}.png": random_picture(1000 * n + 100 * m + i)
        for n, split in enumerate(features.SPLITS)
        for m, label in enumerate("ab")
        for i in range(5)
    }
    leak = {"train/a/leak.png": files["test/a/0.png"], "eval/b/leak.png": files["train/b/0.png"]}
    ingested = ingest(picture_folder(files | leak), tmp_path / "out")
    for split, examples in ingested.examples.items():
        for example in examples:
            path = value(example, "path").decode()
            if path not in {"train/a/leak.png", "test/a/0.png", "train/b/0.png", "eval/b/leak.png"}:
                assert path.startswith(f"{split}/")
    splits = ingested.splits_by_content()
    assert splits[images.prepare(files["test/a/0.png"]).content_hash.encode()] == "test"
    assert splits[images.prepare(files["train/b/0.png"]).content_hash.encode()] == "eval"


def test_a_manifest_and_tfrecords_give_what_the_tree_gives(picture_folder: Write, tmp_path: Path) -> None:
    pictures = many("a", 20) | many("b", 20, 50)
    folder = picture_folder(pictures)
    (folder / "all.csv").write_text("path,label\n" + "".join(f"{path},{path[0]}\n" for path in pictures))
    for compression, name in [("", "1.tfrecord"), ("GZIP", "2.tfrecord.gz")]:
        with tf.io.TFRecordWriter(str(folder / name), compression) as writer:
            for path, content in pictures.items():
                if (path[0] == "a") == (compression == ""):
                    writer.write(record(content, path[0]))
    of_tree = ingest(folder, tmp_path / "tree")
    contents = of_tree.splits_by_content()
    assert ingest(folder / "all.csv", tmp_path / "manifest").splits_by_content() == contents
    names = {"image": "image/encoded", "label": "image/class", "split": None}
    of_records = ingest(folder / "*.tfrecord*", tmp_path / "records", record_features=names)
    assert of_records.splits_by_content() == contents
    assert {"1.tfrecord#0", "2.tfrecord.gz#19"} <= of_records.by_path().keys()


def record(image: bytes, label: str | int) -> bytes:
    labelled = features.bytes_feature(label.encode()) if isinstance(label, str) else features.int_feature(label)
    feature = {"image/encoded": features.bytes_feature(image), "image/class": labelled}
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def test_records_that_can_not_be_used_are_named(tmp_path: Path) -> None:
    with tf.io.TFRecordWriter(str(tmp_path / "x.tfrecord")) as writer:
        for i in range(60):
            writer.write(record(random_picture(i), i % 2))
        writer.write(b"no example")
        writer.write(tf.train.Example().SerializeToString())
        writer.write(record(b"no picture", 1))
    content = (tmp_path / "x.tfrecord").read_bytes()
    (tmp_path / "y.tfrecord").write_bytes(content[: len(content) // 2])
    names = {"image": "image/encoded", "label": "image/class", "split": None}
    ingested = ingest(tmp_path / "*.tfrecord", tmp_path / "out", record_features=names)
    assert len(ingested.by_path()) == 60
    assert {value(example, "label") for example in ingested.by_path().values()} == {b"0", b"1"}
    assert ingested.rejects() == {
        "x.tfrecord#60": rejects.BAD_ROW,
        "x.tfrecord#61": rejects.BAD_ROW,
        "x.tfrecord#62": images.NOT_AN_IMAGE,
        "y.tfrecord": rejects.CONTAINER,
    }


def test_a_window_of_spans_is_read_together(picture_folder: Write, tmp_path: Path) -> None:
    for span in (1, 2, 3):
        folder = picture_folder(many("a", 20, 100 * span) | many("b", 20, 100 * span + 50), f"days/{span}")
    source = f"{folder.parent}/{{SPAN}}"
    assert {value(example, "span") for example in ingest(source, tmp_path / "1").by_path().values()} == {3}
    ingested = ingest(source, tmp_path / "2", num_spans=2)
    assert rejects.read_summary(str(ingested.report)).spans == ("2", "3")
    window = ingested.by_path()
    assert len(window) == 80
    for path, example in window.items():
        assert path.startswith(f"{value(example, 'span')}/")
    assert {value(example, "span") for example in window.values()} == {2, 3}


def test_shards_have_the_size_that_is_asked_for_and_no_two_classes_are_apart(picture_folder: Write, tmp_path: Path) -> None:
    folder = picture_folder(
        {f"{label}/{i}.png": random_picture(1000 * n + i, 24, 24) for n, label in enumerate("ab") for i in range(200)}
    )
    ingested = ingest(folder, tmp_path / "out", shard_megabytes=0.1)
    total = sum(Path(path).stat().st_size for paths in ingested.files.values() for path in paths)
    shards = len(ingested.files["train"])
    assert 8 <= shards <= 10
    for path in ingested.files["train"]:
        assert Path(path).stat().st_size < 2 * total / shards
        assert {value(example, "label") for example in read([path])} == {b"a", b"b"}


def test_what_is_written_is_the_same_in_every_run(picture_folder: Write, tmp_path: Path) -> None:
    folder = picture_folder(many("a", 40) | many("b", 40, 50))
    first, second = (ingest(folder, tmp_path / name, shard_megabytes=0.01) for name in ("1", "2"))
    for split in features.SPLITS:
        assert first.examples[split] == second.examples[split]
        for written in tf.data.TFRecordDataset(first.files[split], "GZIP").as_numpy_iterator():
            # Whichever process wrote it.
            assert tf.train.Example.FromString(written).SerializeToString(deterministic=True) == written


def test_what_a_split_holds_stands_beside_its_records(picture_folder: Write, tmp_path: Path) -> None:
    folder = picture_folder(many("a", 40) | {f"a/copy/{i}.png": random_picture(i) for i in range(3)} | many("b", 40, 50))
    ingested = ingest(folder, tmp_path / "out", shard_megabytes=0.01, deduplicate=False)
    for split, files in ingested.files.items():
        found = contents.read(files, ["b", "a"])
        examples = ingested.examples[split]
        assert [["b", "a"][label_id] for label_id in found.label_ids] == [value(one, "label").decode() for one in examples]
        assert found.record_bytes.tolist() == [one.ByteSize() for one in examples]
        ids = [contents.id_of(value(one, "image")).encode() for one in examples]
        assert set(ids) <= set(found.ids.tolist())
        assert len(set(found.ids.tolist())) == len(examples) == found.total
    with pytest.raises(ValueError, match="labels b are not in the vocabulary"):
        contents.read(ingested.files["train"], ["a", "c"])


def test_training_sees_the_same_batches_however_many_files_there_are(picture_folder: Write, tmp_path: Path) -> None:
    folder = picture_folder(many("a", 40) | many("b", 40, 50))

    def batches(shard_megabytes: float) -> list[np.ndarray]:
        ingested = ingest(folder, tmp_path / str(shard_megabytes), shard_megabytes=shard_megabytes)
        split = dataset.read(ingested.files["train"], 12, 10, ["a", "b"])
        found = dataset.training_batches(split, 8, 1, None).take(12)
        return [array for pair in found.as_numpy_iterator() for array in pair]

    many_files, one_file = batches(0.005), batches(128)
    assert len(list((tmp_path / "0.005").glob("examples/1/Split-train/*"))) > 3
    for first, second in zip(many_files, one_file, strict=True):
        np.testing.assert_array_equal(first, second)


def test_everything_that_travels_to_a_worker_can_be_pickled() -> None:
    settings = preparation.Settings((255, 255, 255), 100, "image", "label", "")
    for function in (
        preparation.PrepareImages(settings, "x", "y", 3, 1),
        assignment.AssignSplits({"train": 1}, 3, True, {"test"}, True),
        shards.WriteShard("x", True),
    ):
        assert pickle.loads(pickle.dumps(function)).__class__ is function.__class__


def test_a_folder_that_workers_still_write_into_is_removed_once_they_are_quiet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "aside").mkdir()
    removed, tries = executor.fileio.rmtree, []

    def disturbed(folder: str) -> None:
        tries.append(folder)
        if len(tries) == 1:
            raise tf.errors.FailedPreconditionError(None, None, f"{folder}; Directory not empty")
        removed(folder)
        if len(tries) == 2:
            (tmp_path / "aside").mkdir()

    monkeypatch.setattr(executor, "_PAUSE", 0)
    monkeypatch.setattr(executor.fileio, "rmtree", disturbed)
    executor._remove(str(tmp_path / "aside"))
    assert len(tries) == 3
    assert not (tmp_path / "aside").exists()
