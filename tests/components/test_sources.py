import os
from collections.abc import Callable
from pathlib import Path

import pytest

from components.image_example_gen import sources

Write = Callable[..., Path]


def test_nested_folders_belong_to_their_class_and_hidden_files_are_passed_over(picture_folder: Write) -> None:
    names = [
        "cat/2.png",
        "cat/1.png",
        "dog/old/3.png",
        "cat/.hidden.png",
        "cat/Thumbs.db",
        ".cache/x.png",
        "dog/.t/y.png",
        "readme.txt",
    ]
    folder = picture_folder(dict.fromkeys(names, b"x"))
    assert [tuple(file) for file in sources.list_images(str(folder))] == [
        ("cat/1.png", "cat"),
        ("cat/2.png", "cat"),
        ("dog/old/3.png", "dog"),
    ]
    assert sources.check(str(folder)) == 3


def test_what_can_not_be_learnt_from_is_refused_by_name(picture_folder: Write, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    cases = {
        str(tmp_path / "missing"): "no such folder",
        str(tmp_path / "empty"): "no pictures found",
        str(picture_folder({"cat/1.png": b"x"}, "single")): "only one class, cat",
        str(picture_folder({"cat/1.png": b"x"}, "file") / "cat" / "1.png"): "is a file",
    }
    for source, said in cases.items():
        with pytest.raises(sources.DataError) as error:
            sources.check(source)
        assert str(error.value).startswith(f"{source}: ")
        assert said in str(error.value)
        assert "\n" not in str(error.value)


def test_the_fingerprint_sees_every_change(picture_folder: Write) -> None:
    folder = picture_folder({"cat/1.png": b"x", "dog/2.png": b"y"})
    seen = [sources.fingerprint(str(folder))]
    assert sources.fingerprint(str(folder)) == seen[0]

    (folder / "cat" / "1.png").rename(folder / "dog" / "1.png")  # relabelled: size and time stay
    seen.append(sources.fingerprint(str(folder)))
    (folder / "dog" / "2.png").write_bytes(b"longer")
    seen.append(sources.fingerprint(str(folder)))
    os.utime(folder / "dog" / "2.png", (1, 1))
    seen.append(sources.fingerprint(str(folder)))
    (folder / "dog" / "1.png").unlink()
    seen.append(sources.fingerprint(str(folder)))
    assert len(set(seen)) == len(seen)
