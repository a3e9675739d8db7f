from pathlib import Path

import pytest

from serving import local


def test_the_highest_version_is_found_by_number(tmp_path: Path) -> None:
    for version in ("9", "10", "11.unfinished"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "saved_model.pb").touch()
    (tmp_path / "12").mkdir()  # nothing in it
    assert local.find_version(tmp_path) == tmp_path / "10"
    assert local.find_version(tmp_path / "9") == tmp_path / "9"


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(local.ModelError, match="no SavedModel here"):
        local.find_version(tmp_path)
    with pytest.raises(local.ModelError, match="no such folder"):
        local.find_version(tmp_path / "missing")
