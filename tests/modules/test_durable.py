import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from modules import durable


def text(content: str) -> Callable[[BinaryIO], object]:
    return lambda opened: opened.write(content.encode())


def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_name_before_anything_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    flush, rename = os.fsync, Path.replace

    def fsync(handle: int) -> None:
        path = os.readlink(f"/proc/self/fd/{handle}")
        done.append(f"flushed {Path(path).name}: {Path(path).read_text() if Path(path).is_file() else 'folder'}")
        flush(handle)

    def replace(source: Path, target: Path) -> Path:
        done.append(f"renamed to {target.name}")
        return rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    durable.replace(tmp_path / "file", text("all of it"))
    assert [re.sub(r"\.[0-9a-f]{32}\.", ".*.", one) for one in done] == [
        "flushed file.*.unfinished: all of it",
        "renamed to file",
        f"flushed {tmp_path.name}: folder",
    ]
    assert (tmp_path / "file").read_text() == "all of it"


def test_what_can_not_be_written_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    durable.replace(tmp_path / "file", text("before"))

    def half(opened: BinaryIO) -> None:
        opened.write(b"half a ")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        durable.replace(tmp_path / "file", half)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"file": "before"}


def test_two_who_write_the_same_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    def slow(opened: BinaryIO) -> None:
        opened.write(b"slow ")
        durable.replace(tmp_path / "file", text("the other's"))
        assert (tmp_path / "file").read_text() == "the other's"
        opened.write(b"and whole")

    durable.replace(tmp_path / "file", slow)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"file": "slow and whole"}


def test_new_folders_are_on_the_disk_with_those_above_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[Path] = []
    monkeypatch.setattr(durable, "flush", flushed.append)
    durable.make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    assert set(flushed) == {tmp_path, tmp_path / "a"}
    durable.make_folder(tmp_path / "a" / "b")


def test_what_killed_processes_have_left_is_deleted_and_what_others_are_at_is_not(tmp_path: Path) -> None:
    for name, age in {"old.1.unfinished": 7200, "new.2.unfinished": 60, "old": 7200}.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    durable.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.2.unfinished", "old"]
    durable.sweep(tmp_path / "nowhere")
