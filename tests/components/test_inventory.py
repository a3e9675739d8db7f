import os
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from apache_beam.io import filesystem as beam_filesystem
from tfx.dsl.io import filesystem, filesystem_registry

from components.image_example_gen import files, inventory, rejects, sources, spans
from components.image_example_gen.rejects import Reject
from components.image_example_gen.sources import ClassFolder, ImageFile, RecordFile
from components.image_example_gen.spans import DataError, Location
from tests.components.test_image_example_gen import ingest, many, record
from tests.conftest import random_picture

Write = Callable[..., Path]
SPLITS = ("train", "eval", "test")


def written(entries: Iterable[sources.Entry], folder: Path) -> tuple[inventory.Survey, str]:
    examples = str(folder / "examples" / "1")
    survey = inventory.write(entries, examples)
    return survey, inventory.place(examples, survey.fingerprint)


def image_file(number: int, size: int = 1) -> ImageFile:
    return ImageFile(f"a/{number:07d}.png", f"/photos/a/{number:07d}.png", "a", "", 0, size, number)


def test_what_is_read_is_what_was_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "_ROWS_AT_ONCE", 7)
    odd = os.fsdecode(b"/photos/\xff/1.png")
    entries = [
        *map(image_file, range(30)),
        ImageFile("ö/\n1.png", odd, "ö", "test", 7, 3, 1 << 62),
        RecordFile("x.tfrecord", "/x.tfrecord", 2, 9, 5),
        ClassFolder("cat", "cat"),
        Reject("\ud800.png", rejects.BAD_NAME, "half of a pair"),
        *map(image_file, range(30, 40)),
    ]
    survey, path = written(entries, tmp_path)
    assert survey.bytes == 40 + 3 + 9
    with inventory.opened(path) as listed:
        for portion, count in [(1, 42), (5, 9), (20, 3), (1000, 1)]:
            units = list(listed.units(portion))
            assert len(units) == count
            assert [entry for unit in units for entry in listed.read(unit)] == entries
        assert listed.class_labels() == {"cat"}
    assert os.listdir(os.path.dirname(path)) == [f"{survey.fingerprint}.parquet"]


def test_a_source_that_vanished_from_the_store_is_explained(tmp_path: Path) -> None:
    with (
        pytest.raises(DataError, match=r"gone\.parquet: what was listed of the source is gone; run again"),
        inventory.opened(str(tmp_path / "gone.parquet")),
    ):
        pass


def test_inventories_that_no_run_needs_any_more_are_removed(tmp_path: Path) -> None:
    _, first = written([image_file(1)], tmp_path)
    _, second = written([image_file(2)], tmp_path)
    os.utime(first, (0, time.time() - 8 * 24 * 3600))
    _, third = written([image_file(3)], tmp_path)
    assert {second, third} == {str(path) for path in Path(third).parent.iterdir()}
    os.utime(second, (0, time.time() - 8 * 24 * 3600))
    written([image_file(2)], tmp_path)  # which a run is about to need again
    written([image_file(3)], tmp_path)
    assert Path(second).exists()


def test_memory_does_not_grow_with_the_number_of_files(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        tracemalloc.start()
        _, path = written(map(image_file, range(count)), tmp_path)
        with inventory.opened(path) as listed:
            for unit in list(listed.units(1000))[-3:]:
                listed.read(unit)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(100)
    assert peak(60_000) < 1.2 * peak(20_000)


def test_files_that_change_between_the_listing_and_the_reading_are_rejected_and_new_ones_not_read(
    picture_folder: Write, tmp_path: Path
) -> None:
    folder = picture_folder(many("a", 20) | many("b", 20, 50))

    def meanwhile() -> None:
        (folder / "a" / "new.png").write_bytes(random_picture(999))
        (folder / "a" / "1.png").unlink()
        (folder / "a" / "2.png").write_bytes(random_picture(998, 20, 20))
        content = (folder / "b" / "3.png").read_bytes()
        (folder / "b" / "3.png").write_bytes(content[:-1] + b"x")
        os.utime(folder / "b" / "3.png", ns=(1, 1))

    ingested = ingest(folder, tmp_path / "out", meanwhile=meanwhile)
    assert ingested.rejects() == dict.fromkeys(["a/1.png", "a/2.png", "b/3.png"], rejects.CHANGED)
    assert len(ingested.by_path()) == 37
    assert "a/new.png" not in ingested.by_path()
    again = ingest(folder, tmp_path / "again")
    assert "a/new.png" in again.by_path()


def test_records_that_change_after_the_listing_are_not_read(tmp_path: Path) -> None:
    for name, first in (("x", 0), ("y", 100)):
        with tf.io.TFRecordWriter(str(tmp_path / f"{name}.tfrecord")) as writer:
            for i in range(first, first + 40):
                writer.write(record(random_picture(i), i % 2))
    names = {"image": "image/encoded", "label": "image/class", "split": None}
    ingested = ingest(
        tmp_path / "*.tfrecord",
        tmp_path / "out",
        record_features=names,
        meanwhile=lambda: os.utime(tmp_path / "y.tfrecord", (1, 1)),
    )
    assert ingested.rejects() == {"y.tfrecord": rejects.CONTAINER}
    assert len(ingested.by_path()) == 40


class Looks:
    """Counts how files are looked for: folders that were listed, files and folders that were looked up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.listed: list[str] = []
        self.looked_up: list[str] = []
        scan, names, look_up = files.scan, files.names, files.look_up

        def counted_scan(folder: str) -> list[Any]:
            self.listed.append(folder)
            return [_Entry(entry, self.looked_up) for entry in scan(folder)]

        def counted_names(folder: str) -> list[str]:
            self.listed.append(folder)
            return names(folder)

        def counted_look_up(uri: str) -> files.Stat:
            self.looked_up.append(uri)
            return look_up(uri)

        monkeypatch.setattr(files, "scan", counted_scan)
        monkeypatch.setattr(files, "names", counted_names)
        monkeypatch.setattr(files, "look_up", counted_look_up)

    def below(self, folder: Path) -> tuple[list[str], list[str]]:
        return (
            sorted(path for path in self.listed if path.startswith(str(folder))),
            sorted(path for path in self.looked_up if path.startswith(str(folder))),
        )


class _Entry:
    def __init__(self, entry: os.DirEntry, looked_up: list[str]):
        self._entry, self._looked_up = entry, looked_up
        self.name, self.is_dir, self.is_symlink = entry.name, entry.is_dir, entry.is_symlink

    def stat(self) -> os.stat_result:
        self._looked_up.append(self._entry.path)
        return self._entry.stat()


@pytest.mark.parametrize("splits", [False, True])
def test_a_run_lists_each_folder_once_and_looks_each_file_up_once(
    picture_folder: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, splits: bool
) -> None:
    pictures = many("a", 20) | many("b", 20, 50) | {"b/deep/1.png": random_picture(200), "c/notes.txt": b"x"}
    if splits:
        pictures = {
            f"{split}/{path}": random_picture(1000 * n + i)
            for n, split in enumerate(SPLITS)
            for i, path in enumerate(pictures)
        }
    folder = picture_folder(pictures)
    looks = Looks(monkeypatch)
    ingest(folder, tmp_path / "out")
    listed, looked_up = looks.below(folder)
    assert listed == sorted({str(folder), *(str(path) for path in folder.rglob("*") if path.is_dir())})
    assert looked_up == sorted(str(folder / path) for path in pictures)


def test_the_check_before_a_run_looks_at_one_file_of_two_classes(
    picture_folder: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = picture_folder(dict.fromkeys([f"{label}/{i}.png" for label in "abcd" for i in range(50)], b"x"))
    looks = Looks(monkeypatch)
    sources.check([Location(str(folder))])
    listed, looked_up = looks.below(folder)
    assert listed == [str(folder), f"{folder}/a", f"{folder}/b"]
    assert looked_up == [f"{folder}/a/0.png", f"{folder}/b/0.png"]


def test_the_check_before_a_run_passes_over_a_manifests_rows_of_a_class_that_it_has_seen(
    picture_folder: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = picture_folder(dict.fromkeys([f"{i}.png" for i in range(5000)], b"x"))
    rows = [f"{i}.png,{'cat' if i < 4900 else 'dog'}" for i in range(5000)]
    (folder / "list.csv").write_text("path,label\n" + "\n".join(rows))
    looks = Looks(monkeypatch)
    sources.check([Location(str(folder / "list.csv"))])
    assert len(looks.looked_up) < 1100


class Store(beam_filesystem.FileSystem):
    """An object store, as Beam sees one: a listing tells names, sizes and times."""

    content: dict[str, bytes] = {}  # noqa: RUF012
    requests: list[str] = []  # noqa: RUF012

    @classmethod
    def scheme(cls) -> str:
        return "store"

    def has_dirs(self) -> bool:
        return False

    def _list(self, dir_or_prefix: str) -> Iterator[beam_filesystem.FileMetadata]:
        self.requests.append(f"list {dir_or_prefix}")
        for path, content in self.content.items():
            if path.startswith(dir_or_prefix):
                yield beam_filesystem.FileMetadata(path, len(content), 12.5)

    def join(self, *_: Any) -> Any: ...
    def split(self, *_: Any) -> Any: ...
    def mkdirs(self, *_: Any) -> Any: ...
    def rename(self, *_: Any) -> Any: ...
    def create(self, *_: Any) -> Any: ...
    def open(self, *_: Any) -> Any: ...
    def copy(self, *_: Any) -> Any: ...
    def exists(self, *_: Any) -> Any: ...
    def size(self, *_: Any) -> Any: ...
    def last_updated(self, *_: Any) -> Any: ...
    def metadata(self, *_: Any) -> Any: ...
    def delete(self, *_: Any) -> Any: ...


class StoreThroughTfx(filesystem.Filesystem):
    """The same, as TFX sees it: names, and what is known of each for another request."""

    SUPPORTED_SCHEMES = ["store://"]  # noqa: RUF012

    @staticmethod
    def isdir(path: str) -> bool:
        return any(one.startswith(f"{path}/") for one in Store.content)

    @staticmethod
    def exists(path: str) -> bool:
        return path in Store.content or StoreThroughTfx.isdir(path)

    @staticmethod
    def listdir(path: str) -> list[str]:
        Store.requests.append(f"names {path}")
        return sorted({one[len(path) + 1 :].split("/")[0] for one in Store.content if one.startswith(f"{path}/")} - {""})

    @staticmethod
    def stat(path: str) -> Any:
        Store.requests.append(f"stat {path}")
        length = len(Store.content.get(path, b""))
        return _Known(length, 12_500_000_000, StoreThroughTfx.isdir(path))


class _Known:
    def __init__(self, length: int, mtime_nsec: int, is_directory: bool):
        self.length, self.mtime_nsec, self.is_directory = length, mtime_nsec, is_directory


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> type[Store]:
    monkeypatch.setattr(Store, "content", {})
    monkeypatch.setattr(Store, "requests", [])
    filesystem_registry.DEFAULT_FILESYSTEM_REGISTRY.register(StoreThroughTfx, priority=0)
    return Store


def test_an_object_store_is_listed_in_bulk(
    store: type[Store], picture_folder: Write, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"{label}/{i}.png" for label in ("cat", "dog [1]") for i in range(1000)]
    names += ["dog [1]/deep/1.png", "cat/.hidden/1.png", "cat/more.zip"]
    store.content = {f"store://bucket/photos/{name}": b"x" for name in names} | {"store://bucket/photos/cat/": b""}
    found = list(sources.list_files(Location("store://bucket/photos")))
    requests = store.requests
    assert len(requests) < 8
    assert not any("png" in request for request in requests)
    local = list(sources.list_files(Location(str(picture_folder(dict.fromkeys(names, b"x"))))))

    def known(entries: list[sources.Entry]) -> set[tuple]:
        return {(entry.path, getattr(entry, "label", ""), getattr(entry, "size", "")) for entry in entries}

    assert known(found) == known(local)
    assert {entry.modified for entry in found if isinstance(entry, ImageFile)} == {12_500_000_000}

    def failing(*_: object) -> None:
        raise beam_filesystem.BeamIOError("no credentials")

    monkeypatch.setattr(Store, "_list", failing)
    assert known(list(sources.list_files(Location("store://bucket/photos")))) == known(local)
    assert caplog.text.count("not listed at one go") == 1


def test_spans_are_told_apart_in_the_inventory(picture_folder: Write, tmp_path: Path) -> None:
    for span in (1, 2):
        folder = picture_folder({"cat/1.png": b"x"}, f"days/{span}")
    entries = [
        entry
        for location in spans.resolve(*spans.divide(f"{folder.parent}/{{SPAN}}"), 2)
        for entry in sources.list_files(location)
    ]
    _, path = written(entries, tmp_path)
    with inventory.opened(path) as listed:
        (unit,) = listed.units(100)
        assert [entry.path for entry in listed.read(unit)] == ["1/cat", "1/cat/1.png", "2/cat", "2/cat/1.png"]
