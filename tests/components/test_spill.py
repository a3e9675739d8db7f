import contextlib
import io
import itertools
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import tensorflow as tf

from components.image_example_gen import (
    executor,
    files,
    inventory,
    preparation,
    shards,
    signatures,
    sources,
    spans,
    spill,
    splits,
)
from modules import features
from tests.components.test_image_example_gen import ingest, many, record
from tests.conftest import random_picture

Write = Callable[..., Path]


class Reads:
    """Stands before the files, and counts how they are read: (path, bytes) of each read, and how many were open at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.ranges: list[tuple[str, int]] = []
        self.most_open = self._open = 0
        self._lock = threading.Lock()
        self._opened = files.opened
        monkeypatch.setattr(files, "opened", self.opened)

    @contextlib.contextmanager
    def opened(self, uri: str) -> Iterator[Any]:
        with self._lock:
            self._open += 1
            self.most_open = max(self.most_open, self._open)
        with self._opened(uri) as file:
            yield _Counted(file, uri, self.ranges)
        with self._lock:
            self._open -= 1


class _Counted:
    def __init__(self, file: Any, uri: str, ranges: list[tuple[str, int]]):
        self._file, self._uri, self._ranges = file, uri, ranges
        self.seek, self.fileno = file.seek, file.fileno

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._file)

    def read(self, *size: int) -> bytes:
        content = self._file.read(*size)
        self._ranges.append((self._uri, len(content)))
        return content


def prepared(number: int, content_hash: str = "") -> spill.Prepared:
    return spill.Prepared(content_hash or f"{number:064x}", "", f"{number}.png", "a", "")


def looks(number: int) -> bytes:
    """A signature, that of a plain picture of a brightness of its own."""
    return signatures.signature(np.full((8, 8, 3), number % 256, np.uint8)).tobytes()


def test_signatures_are_read_back_in_the_order_of_the_examples(tmp_path: Path) -> None:
    aside = spill.Spill(str(tmp_path), most=1 << 20)
    for number in range(50):
        aside.add(number % 7, prepared(number), b"%d" % number, looks(number))
    parts = aside.flush()
    numbers = [int(one.path.removesuffix(".png")) for _, part in parts for one in part]
    found = spill.read_signatures(parts[0][1][0].aside)
    assert [signature.tobytes() for signature in found] == [looks(number) for number in numbers]


def test_examples_of_a_shard_lie_together_and_are_read_with_one_read_of_each_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aside, parts = spill.Spill(str(tmp_path), most=1 << 20), []
    for number in range(600):
        parts += aside.add(number % 7, prepared(number), b"%d" % number, looks(number))
        if number % 200 == 199:
            parts += aside.flush()
    assert len({one.aside for _, part in parts for one in part}) == 3
    assert [shard for shard, _ in parts] == [*range(7)] * 3
    reads = Reads(monkeypatch)
    of_shard = [part for shard, part in parts if shard == 3]
    everything = [one for part in of_shard for one in part]
    found = spill.read(of_shard, {(one.aside, one.offset) for one in everything})
    assert [found[one.aside, one.offset] for one in everything] == [b"%d" % number for number in range(3, 600, 7)]
    assert len(reads.ranges) == 3
    assert sum(size for _, size in reads.ranges) == sum(map(len, found.values()))


def test_what_was_said_of_an_example_is_on_the_disk_by_then(tmp_path: Path) -> None:
    aside, said = spill.Spill(str(tmp_path), most=10), 0
    for number in range(101):
        for _, part in aside.add(0, prepared(number), b"x" * 3, looks(number)):
            assert len(spill.read([part], {(one.aside, one.offset) for one in part})) == len(part)
            said += len(part)
        assert said > number - 4  # no more than ten bytes wait
    assert said < 101
    assert sum(len(part) for _, part in aside.flush()) == 101 - said
    assert aside.flush() == []


def test_examples_that_are_not_wanted_are_not_kept_in_memory(tmp_path: Path) -> None:
    aside = spill.Spill(str(tmp_path), most=1 << 20)
    for number in range(10):
        aside.add(0, prepared(number), b"%d" % number, looks(number))
    ((_, part),) = aside.flush()
    assert spill.read([part], {(part[4].aside, part[4].offset)}) == {(part[4].aside, part[4].offset): b"4"}


def test_a_file_that_ends_too_early_is_named(tmp_path: Path) -> None:
    aside = spill.Spill(str(tmp_path), most=1 << 20)
    aside.add(0, prepared(0), b"0123456789", looks(0))
    ((_, part),) = aside.flush()
    Path(part[0].aside).write_bytes(b"01234")
    with pytest.raises(OSError, match=f"{part[0].aside}: ends before byte 10"):
        spill.read([part], set())


def listed(sizes: np.ndarray) -> inventory.Inventory:
    """An inventory of which nothing is known but the sizes."""
    buffer = io.BytesIO()
    pa.parquet.write_table(pa.table({"size": sizes}), buffer)
    return inventory.Inventory(pa.parquet.ParquetFile(buffer))


@pytest.mark.parametrize(
    ("pictures", "size", "shards_", "least"), [(1_000_000, 51_200, 400, 256_000), (1_000_000, 1_000, 16, 256_000)]
)
def test_ranges_are_long_with_a_million_pictures(pictures: int, size: int, shards_: int, least: int) -> None:
    random, ranges, largest, total = np.random.default_rng(1), 0, 0, 0
    for unit in listed(np.full(pictures, size)).units(spill.portion_bytes(pictures * size, shards_)):
        ranges += len(np.unique(random.integers(0, shards_, unit.rows)))
        largest = max(largest, unit.rows * size)
        total += unit.rows
    assert total == pictures
    assert pictures * size / ranges >= least
    assert largest < spill.buffer_bytes(128_000_000) == 160_000_000


@pytest.mark.parametrize(("size", "shards_", "most"), [(51_200, 16, 300), (200, 1, 300), (0, 1, 10_000)])
def test_few_pictures_are_divided_among_workers(size: int, shards_: int, most: int) -> None:
    units = list(listed(np.full(2_000, size)).units(spill.portion_bytes(2_000 * size, shards_)))
    assert max(unit.rows for unit in units) <= most
    assert [unit.first for unit in units] == [0, *itertools.accumulate(unit.rows for unit in units)][:-1]


@pytest.mark.parametrize("kind", ["tree", "records"])
def test_what_is_written_does_not_depend_on_how_the_work_is_divided(
    picture_folder: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    pictures = many("a", 40) | many("b", 40, 50) | {f"a/copy/{i}.png": many("a", 40)[f"a/{i}.png"] for i in range(5)}
    source, given = picture_folder(pictures), {}
    if kind == "records":
        for number in range(3):
            with tf.io.TFRecordWriter(str(source / f"{number}.tfrecord")) as writer:
                for path, content in [*pictures.items()][number::3]:
                    writer.write(record(content, path[0]))
        source = source / "*.tfrecord"
        given = {"record_features": {"image": "image/encoded", "label": "image/class", "split": None}}
    written = []
    for portion, buffer in [(1, 1), (2_000, 1_000_000), (10_000, 3_000), (1_000_000, 1_000_000)]:
        monkeypatch.setattr(spill, "portion_bytes", lambda *_, portion=portion: portion)
        monkeypatch.setattr(spill, "buffer_bytes", lambda _, buffer=buffer: buffer)
        out = tmp_path / f"{portion}-{buffer}"
        ingested = ingest(source, out, shard_megabytes=0.01, **given)
        assert len(ingested.files["train"]) > 2
        written.append(
            {
                path.relative_to(out): path.read_bytes()
                for name in ("examples/1", "rejects")
                for path in (out / name).rglob("*.*")
            }
        )
        assert len(written[-1]) > 12
    assert all(one == written[0] for one in written)


def test_two_processes_write_the_same_bytes(picture_folder: Write, tmp_path: Path) -> None:
    """Python's hashes, and with them the order of sets and of protocol buffers' maps, are others in each process."""
    source = picture_folder(many("a", 30) | many("b", 30, 50) | {"b/bad.png": b"bad", "a/copy.png": random_picture(3)})
    outputs = [tmp_path / "here", tmp_path / "there"]
    ingest(source, outputs[0])
    script = (
        "import pathlib, sys\n"
        "from tests.components.test_image_example_gen import ingest\n"
        "ingest(*map(pathlib.Path, sys.argv[1:]))"
    )
    subprocess.run([sys.executable, "-c", script, source, outputs[1]], check=True, capture_output=True)
    here, there = (
        {path.relative_to(out): path.read_bytes() for path in out.rglob("*.*") if path.is_file()} for out in outputs
    )
    assert len(here) > 12
    assert here == there


def test_shards_are_read_back_once_with_few_files_open(
    picture_folder: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = picture_folder(many("a", 200) | many("b", 200, 500))
    monkeypatch.setattr(spill, "portion_bytes", lambda *_: 2_000)
    reads = Reads(monkeypatch)
    ingested = ingest(folder, tmp_path / "out", shard_megabytes=0.05)
    shard_count = len(ingested.files["train"])
    aside = [(path, size) for path, size in reads.ranges if "aside" in path and not path.endswith(".signatures")]
    units = len({path for path, _ in aside})
    assert units > 50
    assert len(aside) <= units * shard_count
    written = sum(example.ByteSize() for examples in ingested.examples.values() for example in examples)
    assert sum(size for _, size in aside) == written
    assert reads.most_open <= 16


def test_a_bundle_that_is_tried_again_leaves_nothing_twice(picture_folder: Write, tmp_path: Path) -> None:
    """What a worker that died had put aside is named by nobody."""
    settings = preparation.Settings((255, 255, 255), 10_000, "image", "label", "")
    folder, examples = picture_folder(many("a", 6) | many("b", 6, 50)), str(tmp_path / "examples" / "1")
    survey = inventory.write(sources.list_files(spans.Location(str(folder))), examples)
    function = preparation.PrepareImages(
        settings, inventory.place(examples, survey.fingerprint), str(tmp_path / "aside"), 2, 1 << 20
    )
    (tmp_path / "aside").mkdir()
    function.setup()
    for _ in range(2):
        function.start_bundle()
        outputs = [*function.process(inventory.Unit(0, 14)), *(one.value for one in function.finish_bundle())]
    function.teardown()
    assert len([path for path in (tmp_path / "aside").iterdir() if not path.suffix]) == 2
    parts = [part for part in outputs if isinstance(part, tuple)]  # and not of another output
    places = {one.content_hash: splits.Place("train", one.content_hash) for _, part in parts for one in part}
    known = [(shard, {shards.PARTS: [part], shards.PLACES: [places]}) for shard, part in parts]
    writing = shards.WriteShard(str(tmp_path / "aside"), True)
    written = [output for of_shard in known for output in writing.process(of_shard)]
    assert sum(count for _, count in (one for one in written if isinstance(one, tuple))) == 12


def test_a_worker_that_wakes_when_another_has_taken_its_place_changes_nothing(
    picture_folder: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker stops with half a shard written, others do all its work, and it goes on when all is published."""
    folder, done = picture_folder(many("a", 40) | many("b", 40, 50) | {"b/bad.png": b"bad"}), tmp_path / "out"
    stopped, go_on = threading.Event(), threading.Event()
    late: list[threading.Thread] = []
    write, process = shards.WriteShard._write, shards.WriteShard.process

    def slow(self: shards.WriteShard, *given: Any) -> shards.Written:
        if threading.current_thread() in late:
            with tf.io.TFRecordWriter(str(done / "tmp" / "half")):
                stopped.set()
                assert go_on.wait(60)
        return write(self, *given)

    def twice(self: shards.WriteShard, shard: Any) -> Iterator[Any]:
        shard = shard[0], {name: list(values) for name, values in shard[1].items()}
        if not late:

            def wake() -> None:
                for output in process(self, shard):
                    if getattr(output, "tag", None) == shards.WRITTEN:
                        folders = {split: str(done / "examples" / "1" / f"Split-{split}") for split in features.SPLITS}
                        shards.publish(output.value, folders, 3)

            late.append(threading.Thread(target=wake))
            late[0].start()
            assert stopped.wait(60)
        return process(self, shard)

    monkeypatch.setattr(shards, "number", lambda *_: 3)
    monkeypatch.setattr(shards.WriteShard, "_write", slow)
    monkeypatch.setattr(shards.WriteShard, "process", twice)
    monkeypatch.setattr(executor, "_remove", lambda _: None)  # it must not be the missing folder that stops it
    ingest(folder, done)
    before = files_below(done / "examples")
    assert len(before) == 18
    go_on.set()
    late[0].join()
    assert files_below(done / "examples") == before


def files_below(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_ino)
        for path in folder.rglob("*")
        if path.is_file()
    }
