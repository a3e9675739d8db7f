import contextlib
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from components.image_example_gen import files, inventory, rejects, sources, spans
from components.image_example_gen.rejects import Reject
from components.image_example_gen.spans import DataError, Location

Write = Callable[..., Path]


def listed(source: Path | str) -> list[tuple[str, str, str]]:
    """(path, label, split) of each file that should be a picture."""
    found = sources.list_files(Location(str(source)))
    return [(file.path, file.label, file.split) for file in found if isinstance(file, sources.ImageFile) and file.label]


def rejected(source: Path | str) -> dict[str, str]:
    return {found.path: found.code for found in sources.list_files(Location(str(source))) if isinstance(found, Reject)}


def test_nested_folders_belong_to_their_class_and_hidden_files_are_passed_over(picture_folder: Write) -> None:
    names = [
        *("cat/2.png", "cat/1.png", "dog/old/3.png", "lost.png", "readme.txt"),
        *("cat/.hidden.png", "cat/Thumbs.db", "cat/desktop.ini", ".cache/x.png", "dog/.t/y.png", "__MACOSX/cat/1.png"),
    ]
    folder = picture_folder(dict.fromkeys(names, b"x"))
    assert listed(folder) == [("cat/1.png", "cat", ""), ("cat/2.png", "cat", ""), ("dog/old/3.png", "dog", "")]
    assert rejected(folder) == {"lost.png": rejects.NO_LABEL}


def test_a_tree_may_have_its_splits_above_the_classes(picture_folder: Write) -> None:
    folder = picture_folder(dict.fromkeys(["train/cat/1.png", "eval/dog/deep/2.png", "test/cat/3.png", "test/4.png"], b"x"))
    assert listed(folder) == [
        ("eval/dog/deep/2.png", "dog", "eval"),
        ("test/cat/3.png", "cat", "test"),
        ("train/cat/1.png", "cat", "train"),
    ]
    assert rejected(folder) == {"test/4.png": rejects.NO_LABEL}


@pytest.mark.parametrize(
    "folders",
    [
        ("train", "val"),
        ("train", "test"),
        ("Train", "Eval", "Test"),
        ("Training", "Testing"),
        ("train", "dev"),
        ("train", "valid", "test"),
        ("training_set", "test-set"),
        ("1_train", "2_val", "3_test"),
        ("TRAINING", "Holdout"),
        ("training", "hold-out"),
        ("seg_train", "seg_test"),
        ("images_train", "images_val"),
        ("my_train_data", "my_test_data"),
        ("TrainSet1", "TestSet1"),
        ("trains", "tests"),
        ("train", "evaluate"),
        ("trainval", "test"),
        ("train_2017", "val_2014"),
        ("\uff34\uff32\uff21\uff29\uff2e", "test"),
        ("tra\u00adin", "te\u200bst"),
    ],
)
def test_splits_above_the_classes_may_be_spelt_as_usual_and_one_may_be_missing(
    picture_folder: Write, folders: tuple[str, ...]
) -> None:
    folder = picture_folder({f"{name}/{label}/1.png": b"x" for name in folders for label in ("cat", "dog")})
    found = listed(folder)
    assert {label for _, label, _ in found} == {"cat", "dog"}
    of_folders = {path.split("/")[0]: split for path, _, split in found}
    assert of_folders[folders[0]] == "train"
    assert len(set(of_folders.values())) == len(folders)


@pytest.mark.parametrize(
    "folders",
    [
        ("train", "eval", "validation", "test"),
        ("train", "eval", "test", "predictions"),
        ("train_images", "test_images", "notes"),
        ("seg_train", "seg_test", "seg_pred"),
        ("trainA", "trainB", "testA", "testB"),
        ("train", "test_unlabelled"),
        ("val", "test"),
        ("train", "trainval", "test"),
    ],
)
def test_a_tree_that_looks_like_splits_but_is_not_quite_is_explained(picture_folder: Write, folders: list[str]) -> None:
    folder = picture_folder({f"{name}/cat/1.png": b"x" for name in folders})
    with pytest.raises(DataError, match="look like splits; a tree with splits above its classes holds one folder of each"):
        listed(folder)


def test_a_split_within_a_split_is_explained(picture_folder: Write) -> None:
    folder = picture_folder({"seg_train/seg_train/cat/1.png": b"x", "seg_test/seg_test/cat/1.png": b"x"})
    with pytest.raises(DataError, match="seg_test and seg_train hold seg_test, seg_train, which are splits once more: move"):
        listed(folder)


def test_a_class_may_be_called_train(picture_folder: Write) -> None:
    folder = picture_folder({"train/1.png": b"x", "bus/2.png": b"x", "trainers/3.png": b"x", "contest/4.png": b"x"})
    assert [label for _, label, _ in listed(folder)] == ["bus", "contest", "train", "trainers"]


@pytest.mark.parametrize(
    "folders",
    [
        ("test tube", "beaker"),
        ("training shoes", "running shoes"),
        ("training shoes", "test tube"),
        ("bullet train", "crash test dummy", "freight train"),
        ("contest", "strain"),
        ("train_cats", "train_dogs"),
        ("validity", "devil", "testament"),
    ],
)
def test_a_word_that_means_a_split_makes_none_alone(picture_folder: Write, folders: list[str]) -> None:
    folder = picture_folder({f"{name}/{number}.png": b"x" for number, name in enumerate(folders)})
    assert sorted(label for _, label, _ in listed(folder)) == sorted(folders)
    below = picture_folder({f"cat/{name}/{number}.png": b"x" for number, name in enumerate(folders)}, "below")
    assert len(listed(below)) == len(folders)


def test_splits_below_the_classes_are_refused_since_they_would_be_mixed(picture_folder: Write) -> None:
    folder = picture_folder({"cat/train/1.png": b"x", "cat/test/2.png": b"x", "dog/3.png": b"x"})
    with pytest.raises(DataError, match=r"/cat: holds folders that look like splits.*train/cat, eval/cat, test/cat"):
        listed(folder)
    spelt = picture_folder({"cat/seg_train/1.png": b"x", "cat/seg_test/2.png": b"x", "dog/3.png": b"x"}, "spelt")
    with pytest.raises(DataError, match=r"/cat: holds folders that look like splits"):
        listed(spelt)
    one_alone = picture_folder({"cat/test/1.png": b"x", "dog/2.png": b"x"}, "alone")
    assert len(listed(one_alone)) == 2


def test_folders_may_lie_as_deep_as_the_system_lets_them(picture_folder: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = picture_folder({"cat/1.png": b"x", "cat/z.png": b"x", "dog/2.png": b"x"})
    monkeypatch.chdir(folder / "cat")
    for _ in range(1200):
        os.mkdir("x")
        os.chdir("x")
    Path("deep.png").write_bytes(b"x")
    found = [path for path, _, _ in listed(folder)]
    os.chdir(folder)
    subprocess.run(["rm", "-r", "cat/x"], check=True)  # deeper than what pytest cleans up
    assert found == ["cat/1.png", f"cat/{'x/' * 1200}deep.png", "cat/z.png", "dog/2.png"]


def test_a_folder_that_can_not_be_listed_is_no_mere_file(picture_folder: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = picture_folder({"cat/1.png": b"x", "dog/2.png": b"x", "dog/more.zip": b"x", "dog/old/3.png": b"x"})
    Path(os.fsdecode(os.fsencode(folder) + b"/dog/\xff")).mkdir()
    scan = files.scan

    def closed(path: str) -> list[os.DirEntry]:
        if path.endswith("/old"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(files, "scan", closed)
    assert rejected(folder) == dict.fromkeys(["dog/old", "dog/more.zip", "dog/\\xff"], rejects.CONTAINER)


def test_archives_and_records_in_a_tree_are_containers_that_are_not_read(picture_folder: Write) -> None:
    endings = [
        "tar.lz4",
        "tar.Z",
        "tzst",
        "tbz",
        "tar.lzma",
        "7z.001",
        "z01",
        "zipx",
        "gz",
        "iso",
        "cab",
        "ZIP",
        "part1.rar",
    ]
    endings += ["tfrecord", "tfrecord-00000-of-00002", "tfrec.gz", "parquet", "h5", "npz", "zip.002", "r00"]
    names = [f"dog/more.{ending}" for ending in endings]
    folder = picture_folder(dict.fromkeys(["cat/1.png", "dog/2.png", "dog/z.2010", "dog/gz", "dog/iso.txt", *names], b"x"))
    assert rejected(folder) == dict.fromkeys(names, rejects.CONTAINER)


def test_one_class_that_holds_the_classes_is_explained(picture_folder: Write) -> None:
    folder = picture_folder({"flowers/daisy/1.png": b"x", "flowers/rose/2.png": b"x"})
    with pytest.raises(
        DataError, match=rf"only one class, flowers; .*; if daisy, rose are the classes, name {folder}/flowers$"
    ):
        sources.check([Location(str(folder))])


def test_csv_and_json_lines_say_the_same(picture_folder: Write) -> None:
    folder = picture_folder(dict.fromkeys(["a/1.png", "2.png", "ö 3.png"], b"x"))
    (folder / "list.csv").write_text(
        '\ufeffpath,label,split,note\na/1.png,cat,train,\n2.png,"dog, small",,x\n./ö 3.png,7,test,\n'
    )
    rows = [
        {"path": "a/1.png", "label": "cat", "split": "train"},
        {"path": "2.png", "label": "dog, small"},
        {"path": "ö 3.png", "label": 7, "split": "test"},
    ]
    (folder / "list.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    expected = [("a/1.png", "cat", "train"), ("2.png", "dog, small", ""), ("ö 3.png", "7", "test")]
    for name in ("list.csv", "list.jsonl"):
        assert listed(folder / name) == expected
        assert rejected(folder / name) == {}


def test_a_column_of_splits_may_be_spelt_as_usual(picture_folder: Write) -> None:
    folder = picture_folder(dict.fromkeys(["1.png", "2.png", "3.png"], b"x"))
    (folder / "list.csv").write_text("path,label,split\n1.png,cat,Training\n2.png,cat,valid\n3.png,dog,TEST\n")
    assert [split for _, _, split in listed(folder / "list.csv")] == ["train", "eval", "test"]


def groups(manifest: Path) -> dict[str, str]:
    found = sources.list_files(Location(str(manifest)), "patient")
    return {file.path: file.group for file in found if isinstance(file, sources.ImageFile)}


def test_a_column_may_say_what_belongs_together(picture_folder: Write) -> None:
    folder = picture_folder(dict.fromkeys(["1.png", "2.png", "3.png"], b"x"))
    (folder / "list.csv").write_text("path,label,patient\n1.png,cat, ann \n2.png,cat,0\n3.png,dog,\n")
    rows = [
        {"path": "1.png", "label": "cat", "patient": "ann"},
        {"path": "2.png", "label": "cat", "patient": 0},
        {"path": "3.png", "label": "dog", "patient": None},
    ]
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name in ("list.csv", "list.jsonl"):
        assert groups(folder / name) == {"1.png": "ann", "2.png": "0", "3.png": ""}


def test_a_group_that_is_nowhere_is_never_taken_for_none(picture_folder: Write) -> None:
    folder = picture_folder({"cat/1.png": b"x", "dog/2.png": b"x"})
    (folder / "list.csv").write_text("path,label,Patient\ncat/1.png,cat,ann\n")
    with pytest.raises(DataError, match=r"no column patient in the header 'path,label,Patient', which data\.group names"):
        groups(folder / "list.csv")
    (folder / "list.jsonl").write_text(
        '{"path": "cat/1.png", "label": "cat"}\n{"path": "dog/2.png", "label": 1, "patient": 1.5}'
    )
    found = [
        entry for entry in sources.list_files(Location(str(folder / "list.jsonl")), "patient") if isinstance(entry, Reject)
    ]
    assert [entry.code for entry in found] == [rejects.BAD_ROW, rejects.BAD_ROW]
    assert "has no key 'patient' in list.jsonl:1, which data.group names" in found[0].message
    with pytest.raises(DataError, match=r"data\.group = patient names a column, and a folder has none; .*\(\?P<group>"):
        groups(folder)


def test_rows_that_can_not_be_used_are_named_and_the_others_taken(picture_folder: Write, tmp_path: Path) -> None:
    folder = picture_folder({"1.png": b"x", "2.png": b"x"})
    (tmp_path / "secret.png").write_bytes(b"x")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "way").symlink_to(tmp_path)
    paths = ["1.png", "../secret.png", "a/../../secret.png", str(tmp_path / "secret.png"), "link.png", "way/secret.png"]
    paths += ["missing.png", "gs://other/1.png", "", "."]
    lines = [json.dumps({"path": path, "label": "cat"}) for path in paths]
    lines += ["not json", "[1]", '{"path": "2.png"}', '{"path": "2.png", "label": "a", "split": "none"}']
    lines += ['{"path": "2.png", "label": "a\\nb"}', '{"path": "2.png", "label": "\\ud800"}', '{"path": "\\udfff.png"}']
    (folder / "list.jsonl").write_text("\n".join(lines))
    assert listed(folder / "list.jsonl") == [("1.png", "cat", "")]
    found = [entry for entry in sources.list_files(Location(str(folder / "list.jsonl"))) if isinstance(entry, Reject)]
    assert len(found) == len(lines) - 1
    codes = [entry.code for entry in found]
    assert codes.count(rejects.OUTSIDE_ROOT) == 6
    assert codes.count(rejects.UNREADABLE) == 2
    assert codes.count(rejects.BAD_ROW) == 6
    assert codes.count(rejects.NO_LABEL) == codes.count(rejects.BAD_LABEL) == 1
    assert {f"list.jsonl:{line}" for line in (9, 11, 12, 16, 17)} <= {entry.path for entry in found}
    assert all(entry.to_json().isprintable() for entry in found)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("list.csv", b"file,class\n1.png,cat\n", "no column label and no column path"),
        ("list.csv", b"", "no column label and no column path"),
        ("list.csv", b"path,label\n\xff\xfe.png,cat\n", "not UTF-8"),
        ("list.jsonl", b"\xff\xfe", "not UTF-8"),
        ("list.txt", b"1.png cat\n", "is a file; expected"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said) as error:
        listed(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


def messages(source: Path) -> list[str]:
    return [found.message for found in sources.list_files(Location(str(source))) if isinstance(found, Reject)]


def test_a_row_of_a_manifest_is_a_line_as_long_as_the_header(picture_folder: Write) -> None:
    folder = picture_folder({f"{number}.png": b"x" for number in range(9)})
    rows = [
        "0.png,cat",
        '1.png,"cat',
        "2.png,cat",
        "3.png",
        "4.png,cat,",
        '5.png,"c"at',
        '6.png,"a, b"',
        "",
        '7.png,5" disk',
    ]
    (folder / "list.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    assert [path for path, _, _ in listed(folder / "list.csv")] == ["0.png", "2.png", "6.png", "7.png"]
    assert rejected(folder / "list.csv") == {f"list.csv:{line}": rejects.BAD_ROW for line in (3, 5, 6, 7)}
    assert messages(folder / "list.csv")[:3] == [
        "opens a quote that is not closed in this line; a field can't run over lines",
        "has 1 fields, and the header has 2",
        "has 3 fields, and the header has 2",
    ]


@pytest.mark.parametrize(
    "content", [b"path,label\r1.png,cat\r2.png,dog", b"path,label\r\n1.png,cat\n", b"path,label\n1.png,a\rb\n"]
)
def test_a_manifest_whose_lines_end_in_several_ways_is_refused(picture_folder: Write, content: bytes) -> None:
    folder = picture_folder({"1.png": b"x", "2.png": b"x"})
    (folder / "list.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"list\.csv: line [12] has another line end .*; save it as CSV UTF-8"):
        listed(folder / "list.csv")
    (folder / "list.csv").write_bytes(b"\xef\xbb\xbfpath,label\r\n1.png,cat\r\n2.png,dog")
    assert len(listed(folder / "list.csv")) == 2


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["list.csv", "list.jsonl"])
def test_a_manifest_of_utf_16_is_told_so(picture_folder: Write, encoding: str, end: str, name: str) -> None:
    folder = picture_folder({"1.png": b"x"})
    rows = ["path,label", "1.png,cat"] if name.endswith("csv") else ['{"path": "1.png", "label": "cat"}'] * 2
    (folder / name).write_bytes("".join(row + end for row in rows).encode(encoding))
    with pytest.raises(DataError, match=r"is UTF-16 or UTF-32, not UTF-8; save it as UTF-8"):
        listed(folder / name)


@pytest.mark.parametrize("header", ["path,label,label", "path,path,label", "split,path,label,split"])
def test_a_repeated_column_is_refused_and_others_may_repeat(picture_folder: Write, header: str) -> None:
    folder = picture_folder({"1.png": b"x"})
    (folder / "list.csv").write_text(f"{header}\n1.png,1.png,1.png,\n")
    with pytest.raises(DataError, match="is there more than once; keep the right one"):
        listed(folder / "list.csv")
    (folder / "list.csv").write_text(",path,label,\n0,1.png,cat,\n")
    assert len(listed(folder / "list.csv")) == 1


@pytest.mark.parametrize(
    "column", ["Split", " split", "split ", "splits", "SPLITS", '"split "', "spl\u200bit", "Path", "labels"]
)
def test_a_column_that_is_nearly_one_of_ours_is_not_passed_over(picture_folder: Write, column: str) -> None:
    folder = picture_folder({"1.png": b"x"})
    (folder / "list.csv").write_text(f"path,label,{column}\n1.png,cat,test\n")
    with pytest.raises(DataError, match=r"list\.csv: the column .* is written otherwise; expected path,label"):
        listed(folder / "list.csv")
    (folder / "list.jsonl").write_text(json.dumps({"path": "1.png", "label": "cat", column.strip('"'): "test"}))
    assert rejected(folder / "list.jsonl") == {"list.jsonl:1": rejects.BAD_ROW}
    assert repr(column.strip('"')) in messages(folder / "list.jsonl")[0]


def test_other_columns_may_have_any_name(picture_folder: Write) -> None:
    folder = picture_folder({"1.png": b"x"})
    (folder / "list.csv").write_text("path,label,split_by,image_path,label_id,s\n1.png,cat,x,y,1,\n")
    assert len(listed(folder / "list.csv")) == 1


@pytest.mark.parametrize("header", ["Path,Label", "path, label", "path;label", "cat/1.png,cat"])
def test_a_header_of_another_kind_is_shown_with_what_is_expected(picture_folder: Write, header: str) -> None:
    folder = picture_folder({"1.png": b"x"})
    (folder / "list.csv").write_text(f"{header}\n1.png,cat\n")
    with pytest.raises(DataError, match=f"in the header '{header}'; expected path,label .* in lower case, with commas"):
        listed(folder / "list.csv")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("cat\\1.png", ": the path has backslashes; write / between folders"),
        (" cat/1.png", ": the path begins or ends with a blank"),
        ("cat/1.png ", ": the path begins or ends with a blank"),
        ("cat/2.png", ""),
    ],
)
def test_a_path_at_which_nothing_is_says_where_was_looked(picture_folder: Write, path: str, said: str) -> None:
    folder = picture_folder({"cat/1.png": b"x"})
    (folder / "list.csv").write_text(f"path,label\n{path},cat\n")
    assert messages(folder / "list.csv") == [f"no such file; looked for {os.path.join(folder, path)!r}{said}"]


def test_absolute_paths_below_the_manifest_are_taken(picture_folder: Write, tmp_path: Path) -> None:
    folder = picture_folder({"cat/1.png": b"x", "dog/2.png": b"x"})
    (tmp_path / "link").symlink_to(folder)
    paths = [f"{folder}/cat/1.png", f"file://{folder}/dog/2.png", f"{folder}/../secret.png", f"{tmp_path}/pictures2/1.png"]
    (folder / "list.csv").write_text("path,label\n" + "".join(f"{path},cat\n" for path in paths))
    for manifest in (folder / "list.csv", tmp_path / "link" / "list.csv"):
        assert [path for path, _, _ in listed(manifest)] == ["cat/1.png", "dog/2.png"]
        assert set(rejected(manifest).values()) == {rejects.OUTSIDE_ROOT}


def test_what_is_checked_of_a_path_is_what_is_read(picture_folder: Write, tmp_path: Path) -> None:
    folder = picture_folder({"a/b/x.png": b"x"})
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "x.png").write_bytes(b"x")
    (folder / "in").symlink_to(folder / "a")  # in/.. is the source itself for the system, and by its letters
    (folder / "a" / "in").symlink_to(folder / "a" / "b")  # a/in/.. is a for the letters
    (folder / "b").symlink_to(tmp_path / "secret")  # by its letters in/../b leads out
    (folder / "list.csv").write_text("path,label\nin/../b/x.png,cat\nin/../a/b/x.png,cat\na/in/../b/x.png,cat\n")
    assert [path for path, _, _ in listed(folder / "list.csv")] == ["a/b/x.png", "a/b/x.png"]
    assert rejected(folder / "list.csv") == {"in/../b/x.png": rejects.OUTSIDE_ROOT}


def test_file_is_no_way_around_the_links(picture_folder: Write, tmp_path: Path) -> None:
    folder = picture_folder({"cat/1.png": b"x", "dog/2.png": b"x"})
    (tmp_path / "secret.png").write_bytes(b"x")
    (folder / "cat" / "out.png").symlink_to(tmp_path / "secret.png")
    base, pattern = spans.divide(f"file://{folder}")
    assert rejected(spans.resolve(base, pattern)[0].uri) == {"cat/out.png": rejects.OUTSIDE_ROOT}


def test_json_lines_say_what_is_wrong_with_a_value(picture_folder: Write) -> None:
    folder = picture_folder({f"{number}.png": b"x" for number in range(9)})
    rows = ['"label": 1.0', '"label": true', '"label": ["a"]', '"label": "a", "split": ["train"]', '"label": NaN']
    rows += ['"label": "a", "label": "b"', f'"label": {"[" * 100_000}', f'"label": {"1" * 5000}', '"label": 3']
    lines = [f'{{"path": "{number}.png", {row}}}' for number, row in enumerate(rows)]
    (folder / "list.jsonl").write_text("\n".join(lines))
    assert [label for _, label, _ in listed(folder / "list.jsonl")] == ["3"]
    found = messages(folder / "list.jsonl")
    assert found[0] == "the label in list.jsonl:1 is 1.0; expected text or a whole number, e.g. 1"
    assert found[1] == "the label in list.jsonl:2 is true; expected text or a whole number"
    assert found[3] == 'split ["train"] in list.jsonl:4; expected train, eval, test or nothing'
    assert found[5] == "has a key more than once"
    assert len(found) == 8


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("list.csv", [b"path,label", b"1.png,cat", b"\0.png,cat", b"2.png,dog"]),
        ("list.jsonl", [b"", *(b'{"path": "%s", "label": "a"}' % path for path in (b"1.png", b"\\u0000.png", b"2.png"))]),
    ],
)
def test_a_path_that_can_be_none_is_one_bad_row(picture_folder: Write, name: str, lines: list[bytes]) -> None:
    folder = picture_folder({"1.png": b"x", "2.png": b"x"})
    (folder / name).write_bytes(b"\n".join(lines))
    assert [path for path, _, _ in listed(folder / name)] == ["1.png", "2.png"]
    assert rejected(folder / name) == {f"{name}:3": rejects.BAD_ROW}


def test_whatever_the_system_says_of_a_path_is_the_fate_of_its_row(
    picture_folder: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = picture_folder({"1.png": b"x", "2.png": b"x", "3.png": b"x"})
    (folder / "list.csv").write_text("path,label\n1.png,cat\n2.png,cat\n3.png,cat\n")
    realpath = os.path.realpath

    def strange(path: str) -> str:
        if path.endswith("2.png"):
            raise ValueError("strange path")
        return realpath(path)

    monkeypatch.setattr(os.path, "realpath", strange)
    assert [path for path, _, _ in listed(folder / "list.csv")] == ["1.png", "3.png"]
    assert rejected(folder / "list.csv") == {"2.png": rejects.UNREADABLE}
    assert messages(folder / "list.csv") == ["can't be read: strange path"]


def test_a_manifest_that_breaks_off_is_no_mere_row(picture_folder: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = picture_folder({"1.png": b"x", "2.png": b"x"})
    (folder / "list.csv").write_text("path,label\n1.png,cat\n2.png,cat\n")

    @contextlib.contextmanager
    def breaking(uri: str) -> Iterator[Iterator[bytes]]:
        def lines() -> Iterator[bytes]:
            yield from Path(uri).read_bytes().splitlines(keepends=True)[:2]
            raise OSError(5, "Input/output error")

        yield lines()

    monkeypatch.setattr(files, "opened", breaking)
    assert [path for path, _, _ in listed(folder / "list.csv")] == ["1.png"]
    assert rejected(folder / "list.csv") == {"list.csv": rejects.CONTAINER}
    assert "behind line 2" in messages(folder / "list.csv")[0]


@pytest.mark.parametrize("name", ["a.tfrec", "a.tfrecord", "a.tfrecords.gz", "[1].tfrecord"])
def test_records_may_have_every_usual_name_and_a_name_is_no_pattern(tmp_path: Path, name: str) -> None:
    (tmp_path / "in [1]").mkdir()
    (tmp_path / "in [1]" / name).write_bytes(b"x")
    (tmp_path / "in [1]" / "1.tfrecord").write_bytes(b"x")
    for pattern in (name, "*.tfrec*"):
        found = list(sources.list_files(Location(f"{tmp_path}/in [1]/{pattern}")))
        assert name in [record.path for record in found]
        assert len(found) == (1 if pattern == name else 2)
    below = list(sources.list_files(Location(f"{tmp_path}/*/1.tfrec*")))
    assert [(record.path, record.uri) for record in below] == [("in [1]/1.tfrecord", f"{tmp_path}/in [1]/1.tfrecord")]


def test_a_folder_with_the_name_of_spans_or_records_is_a_folder(picture_folder: Write) -> None:
    for name in ("photos {SPAN}", "photos.tfrecord", "photos*"):
        folder = picture_folder({"cat/1.png": b"x"}, name)
        (location,) = spans.resolve(*spans.divide(str(folder)))
        assert listed(location.uri) == [("cat/1.png", "cat", "")]


def test_links_are_taken_below_the_root_and_refused_outside_it(picture_folder: Write, tmp_path: Path) -> None:
    folder = picture_folder({"cat/1.png": b"x", "dog/2.png": b"x"})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "3.png").write_bytes(b"x")
    (folder / "cat" / "inside.png").symlink_to(folder / "dog" / "2.png")
    (folder / "cat" / "outside.png").symlink_to(tmp_path / "out" / "3.png")
    (folder / "cat" / "folder").symlink_to(tmp_path / "out")
    (folder / "cat" / "circle").symlink_to(folder)
    (folder / "cat" / "broken.png").symlink_to(folder / "nothing.png")
    (folder / "cat" / "itself.png").symlink_to("itself.png")
    assert [path for path, _, _ in listed(folder)] == ["cat/1.png", "cat/inside.png", "dog/2.png"]
    assert rejected(folder) == {
        "cat/outside.png": rejects.OUTSIDE_ROOT,
        "cat/folder": rejects.CONTAINER,
        "cat/circle": rejects.LINKED_FOLDER,
        "cat/broken.png": rejects.UNREADABLE,
        "cat/itself.png": rejects.UNREADABLE,
    }


@pytest.mark.parametrize("hidden", [".store", "@eaDir", "store/.old", "cat/.old"])
def test_a_link_to_a_folder_that_is_passed_over_is_a_container_that_is_not_read(picture_folder: Write, hidden: str) -> None:
    folder = picture_folder({"cat/1.png": b"x", "dog/2.png": b"x", f"{hidden}/owl/3.png": b"x"})
    (folder / "owl").symlink_to(f"{hidden}/owl")
    (folder / "lynx").symlink_to("cat")
    assert [path for path, _, _ in listed(folder)] == ["cat/1.png", "dog/2.png"]
    assert rejected(folder) == {"owl": rejects.CONTAINER, "lynx": rejects.LINKED_FOLDER}
    assert "hidden" in messages(folder)[1]


def test_splits_that_are_links_to_hidden_folders_are_not_read(picture_folder: Write) -> None:
    folder = picture_folder({f".store/{split}/cat/1.png": b"x" for split in ("train", "eval", "test")})
    for split in ("train", "eval", "test"):
        (folder / split).symlink_to(f".store/{split}")
    assert rejected(folder) == dict.fromkeys(["train", "eval", "test"], rejects.CONTAINER)


def test_names_are_any_unicode_and_other_names_are_rejected_by_name(picture_folder: Write) -> None:
    names = ["ö.png", "日本 😀.png", "new\nline.png", "[x]*?.png", "-rf.png", "a%20b.png", "e\u0301.png"]
    folder = picture_folder({f"cat/{name}": b"x" for name in names})
    Path(os.fsdecode(os.fsencode(folder) + b"/cat/bad\xff.png")).write_bytes(b"x")
    assert {path for path, _, _ in listed(folder)} == {f"cat/{name}" for name in names}
    assert rejected(folder) == {"cat/bad\\xff.png": rejects.BAD_NAME}


def test_a_label_is_one_class_however_its_accents_are_written(picture_folder: Write) -> None:
    folder = picture_folder({"caf\u00e9/1.png": b"x", "cafe\u0301/2.png": b"x"})
    assert {label for _, label, _ in listed(folder)} == {"caf\u00e9"}


@pytest.mark.parametrize("label", ["\u200b", "\u2800", "\u3164 \u00ad", "\ufe0f"])
def test_a_label_of_which_nothing_is_seen_is_rejected(picture_folder: Write, label: str) -> None:
    folder = picture_folder({"cat/1.png": b"x", "dog/2.png": b"x", f"{label}/3.png": b"x", "\U0001f600/4.png": b"x"})
    assert rejected(folder) == {f"{label}/3.png": rejects.BAD_LABEL}
    assert "nothing that can be seen" in messages(folder)[0]


def test_a_tree_on_another_filesystem_is_listed_alike(picture_folder: Write) -> None:
    names = ["cat/1.png", "cat/deep/2.png", "dog/3.png", "dog/.hidden"]
    for name in names:
        tf.io.gfile.makedirs(os.path.dirname(f"ram://tree/{name}"))
        with tf.io.gfile.GFile(f"ram://tree/{name}", "wb") as opened:
            opened.write(b"x")
    assert listed("ram://tree") == listed(picture_folder(dict.fromkeys(names, b"x")))


def test_what_can_not_be_learnt_from_is_refused_by_name(picture_folder: Write, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    cases = {
        str(tmp_path / "missing"): "no such file or folder",
        str(tmp_path / "empty"): "no pictures found",
        str(picture_folder({"1.png": b"x"}, "flat")): r"no pictures found \(1.png: lies in no class's folder\)",
        str(picture_folder({"cat/1.png": b"x"}, "single")): "only one class, cat",
        str(picture_folder({"cat/1.png": b"x"}, "file") / "cat" / "1.png"): "is a file",
        str(tmp_path / "*.tfrecord"): "no such file",
    }
    for source, said in cases.items():
        with pytest.raises(DataError, match=said) as error:
            sources.check([Location(source)])
        assert str(error.value).startswith(f"{source}: ")
        assert "\n" not in str(error.value)


def test_the_fingerprint_sees_every_change(picture_folder: Write, tmp_path: Path) -> None:
    folder = picture_folder({"cat/1.png": b"x", "dog/2.png": b"y"})

    def fingerprint() -> str:
        return inventory.write(sources.list_files(Location(str(folder))), str(tmp_path / "examples" / "1")).fingerprint

    seen = [fingerprint()]
    assert fingerprint() == seen[0]
    (folder / "cat" / "1.png").rename(folder / "dog" / "1.png")  # relabelled: size and time stay
    seen.append(fingerprint())
    (folder / "dog" / "2.png").write_bytes(b"longer")
    seen.append(fingerprint())
    os.utime(folder / "dog" / "2.png", (1, 1))
    seen.append(fingerprint())
    (folder / "dog" / "1.png").unlink()
    seen.append(fingerprint())
    assert len(set(seen)) == len(seen)


def test_a_manifest_that_changes_a_label_changes_the_fingerprint(picture_folder: Write, tmp_path: Path) -> None:
    folder = picture_folder({"1.png": b"x"})
    seen = set()
    for label in ("cat", "dog"):
        (folder / "list.csv").write_text(f"path,label\n1.png,{label}\n")
        entries = sources.list_files(Location(str(folder / "list.csv")))
        seen.add(inventory.write(entries, str(tmp_path / "examples" / "1")).fingerprint)
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("pattern", "names", "expected"),
    [
        ("{SPAN}", ["1", "2", "10"], [(2, "2"), (10, "10")]),
        (
            "day-{SPAN:3}/list.csv",
            ["day-007/list.csv", "day-008/list.csv"],
            [(7, "day-007/list.csv"), (8, "day-008/list.csv")],
        ),
        ("{YYYY}-{MM}-{DD}", ["2026-11-23", "2026-11-24"], [(20780, "2026-11-23"), (20781, "2026-11-24")]),
        ("{SPAN}/v{VERSION}", ["3/v1", "3/v2", "4/v1"], [(3, "3/v2"), (4, "4/v1")]),
        ("{SPAN}/*.tfrecord", ["5/a.tfrecord", "5/b.tfrecord"], [(5, "5/*.tfrecord")]),
    ],
)
def test_the_latest_spans_are_read(tmp_path: Path, pattern: str, names: list[str], expected: list[tuple[int, str]]) -> None:
    for name in names:
        (tmp_path / name).mkdir(parents=True)
    base, divided = spans.divide(f"{tmp_path}/{pattern}")
    assert (base, divided) == (str(tmp_path), pattern)
    found = spans.resolve(base, divided, num_spans=2)
    assert [(location.span, location.name) for location in found] == expected
    assert [location.uri for location in found] == [f"{tmp_path}/{name}" for _, name in expected]
    (latest,) = spans.resolve(base, divided)
    assert latest == found[-1]


def resolved(folder: Path, pattern: str, num_spans: int = 5) -> list[str]:
    return [location.name for location in spans.resolve(str(folder), pattern, num_spans)]


@pytest.mark.parametrize(
    ("pattern", "names", "read", "said"),
    [
        ("{SPAN}", ["2025_12_31", "7"], ["7"], ["2025_12_31 does not fit {SPAN}: digits 0 to 9 alone"]),
        ("{SPAN}", ["+4", "-4", "٤", "4.0", " 4", "3"], ["3"], ["+4 ", "-4 ", "٤ ", "4.0 ", " 4 "]),
        ("{SPAN}", ["1", "01", "2"], ["01", "2"], ["1 has a number that 01 has too"]),
        ("{SPAN}", ["9" * 19, "1"], ["1"], [f"{'9' * 19} has a number above"]),
        ("{SPAN:2}", ["1", "02", "003"], ["02"], ["1 does not fit", "003 does not fit"]),
        ("day-{SPAN}", ["day-x", "night-2", "day-3"], ["day-3"], ["day-x does not fit"]),
        (
            "{YYYY}-{MM}-{DD}",
            ["2025-02-30", "2026-1-1", "2025-02-28", "a-b-c"],
            ["2025-02-28"],
            ["2025-02-30 is no date", "2026-1-1 does not fit", "a-b-c does not fit"],
        ),
        ("{YYYY}/{MM}/{DD}", ["2026/01/31", "2026/13/01", "old/01/01"], ["2026/01/31"], ["2026/13/01 is no", "old does"]),
        ("{SPAN}/v{VERSION}", ["3/v1", "3/v2", "3/v02", "03/v1"], ["3/v02"], ["03/v1 has a number", "3/v2 has a number"]),
        ("{SPAN}/all", ["1/all", "2/half"], ["1/all"], ["2 has no all"]),
    ],
)
def test_whatever_has_the_shape_of_a_span_is_read_or_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, pattern: str, names: list[str], read: list[str], said: list[str]
) -> None:
    for name in [*names, ".snapshot", "@eaDir"]:
        (tmp_path / name).mkdir(parents=True)
    with caplog.at_level("INFO", "finetune"):
        assert resolved(tmp_path, pattern) == read
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == len(said)
    for words in said:
        assert any(f"passed over: {words}" in line for line in warnings), words
    assert caplog.messages[-1].endswith(f"spans: {', '.join(read)}")


def test_without_a_span_the_error_says_what_is_wrong_with_what_is_there(tmp_path: Path) -> None:
    for name, why in (("a", "nothing there has a number"), ("2026_1_1", "2026_1_1 does not fit {SPAN}")):
        with pytest.raises(DataError, match=f"no span found: {why}"):
            resolved(tmp_path, "{SPAN}" if name != "a" else "day-{SPAN}")
        (tmp_path / "2026_1_1").mkdir(exist_ok=True)
    with pytest.raises(DataError, match=r"no span found: .*nowhere is no folder"):
        resolved(tmp_path / "nowhere", "{SPAN}")
    for pattern in ("{SPAM}", "{VERSION}", "{SPAN}/{YYYY}", "{SPAN}/{SPAN}", "{SPAN:0}", "{SPAN:x}", "{YYYY}", "{SPAN}{X}"):
        with pytest.raises(DataError, match=r"expected \{SPAN\}"):
            resolved(tmp_path, pattern)


def test_many_that_are_no_spans_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ["1", *(f"x{number}" for number in range(30))]:
        (tmp_path / name).mkdir()
    assert resolved(tmp_path, "{SPAN}") == ["1"]
    assert caplog.messages[-1].endswith("passed over: 10 more")


@hypothesis.given(st.sets(st.text(st.sampled_from("0123456789_+-. \u0664\uff11"), min_size=1, max_size=4), min_size=1))
def test_a_span_is_ascii_digits_and_nothing_else(names: set[str]) -> None:
    names -= {name for name in names if name.startswith(".")}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            (Path(folder) / name).mkdir()
        numbers = {int(name) for name in names if re.fullmatch("[0-9]+", name, re.ASCII)}
        if not numbers:
            with pytest.raises(DataError, match="no span found"):
                spans.resolve(folder, "{SPAN}")
        else:
            found = spans.resolve(folder, "{SPAN}", 10_000)
            assert [location.span for location in found] == sorted(numbers)
            assert all(location.name in names and int(location.name) == location.span for location in found)
