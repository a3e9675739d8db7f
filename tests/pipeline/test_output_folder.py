import errno
import os
from pathlib import Path
from typing import NoReturn

import ml_metadata as mlmd
import pytest
from tfx.orchestration import metadata

from pipeline import output_folder


def deep(root: Path, length: int) -> Path:
    """A folder whose path has a number of bytes."""
    path = str(root)
    while length - len(path) > 101:
        path += "/" + "d" * 99
    path = Path(path + "/" + "d" * (length - len(path) - 1))
    path.mkdir(parents=True)
    return path


def test_the_longest_path_holds_a_metadata_store_and_one_more_byte_is_refused(tmp_path: Path) -> None:
    longest = deep(tmp_path, output_folder._LONGEST)
    output_folder.check(longest)
    mlmd.MetadataStore(metadata.sqlite_metadata_connection_config(str(longest / output_folder.METADATA_FILE)))
    too_long = deep(tmp_path / "x", output_folder._LONGEST + 1)
    with pytest.raises(
        output_folder.FolderError, match=r"a path of 492 bytes; at most 491 are possible, name a shorter one"
    ):
        output_folder.check(too_long)


@pytest.mark.parametrize("part", [".", "serving", "pipeline_root/Trainer", "metadata.db", "logs"])
def test_a_part_that_belongs_to_someone_else_is_named(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / part).mkdir(parents=True, exist_ok=True)
    others = str(tmp_path / part)
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != others)
    with pytest.raises(output_folder.FolderError, match=f"^{others}: user [0-9]+ can't write it; change its owner or mode"):
        output_folder.check(tmp_path)


def test_files_of_others_beside_what_runs_make_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.txt").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("notes.txt"))
    output_folder.check(tmp_path)


def test_a_full_disk_is_named_before_anything_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(output_folder.FolderError, match=f"^{tmp_path}: No space left on device; make room there"):
        output_folder.check(tmp_path)
    assert not list(tmp_path.iterdir())
