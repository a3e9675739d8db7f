"""What belongs together, through the whole component: groups, half-given splits and near-copies."""

import io
import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from components.image_example_gen import belonging, rejects, spans
from modules import features
from tests.components.test_image_example_gen import Ingested, ingest, many
from tests.conftest import encode, random_picture

Write = Callable[..., Path]


def splits_by_path(ingested: Ingested) -> dict[str, str]:
    return {
        example.features.feature["path"].bytes_list.value[0].decode(): split
        for split, examples in ingested.examples.items()
        for example in examples
    }


def photograph(seed: int, side: int = 160) -> np.ndarray:
    """Pixels that are smooth as those of a photograph are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return np.asarray(PIL.Image.fromarray(coarse).resize((side, side), PIL.Image.Resampling.BICUBIC))


def saved_again(pixels: np.ndarray, side: int) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).resize((side, side), PIL.Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def test_a_pattern_over_the_path_keeps_groups_on_one_side(picture_folder: Write, tmp_path: Path) -> None:
    files = {f"class{i % 2}/patient{i % 20}_{i}.png": random_picture(i) for i in range(120)}
    ingested = ingest(picture_folder(files), tmp_path / "out", group_pattern=r"(?P<group>patient\d+)_")
    found = splits_by_path(ingested)
    assert len(found) == 120
    for patient in range(20):
        assert len({split for path, split in found.items() if f"/patient{patient}_" in path}) == 1
    assert set(found.values()) == set(features.SPLITS)


def test_what_the_pattern_finds_no_group_in_is_rejected_by_name(picture_folder: Write, tmp_path: Path) -> None:
    files = {f"class{i % 2}/p{i}.png": random_picture(i) for i in range(40)} | {"class0/other.png": random_picture(99)}
    ingested = ingest(picture_folder(files), tmp_path / "out", group_pattern=r"/(?P<group>p\d+)\.png")
    assert ingested.rejects() == {"class0/other.png": rejects.NO_GROUP}


def test_a_column_and_a_feature_group_alike(picture_folder: Write, tmp_path: Path) -> None:
    files = {f"{i}.png": random_picture(i) for i in range(80)}
    folder = picture_folder(files)
    lines = ["path,label,patient", *(f"{i}.png,{'ab'[i % 2]},{i // 5}" for i in range(80))]
    (folder / "list.csv").write_text("\n".join(lines))
    of_manifest = splits_by_path(ingest(folder / "list.csv", tmp_path / "of manifest", group_name="patient"))
    with tf.io.TFRecordWriter(str(tmp_path / "all.tfrecord")) as writer:
        for i in range(80):
            feature = {
                "image": features.bytes_feature(files[f"{i}.png"]),
                "label": features.bytes_feature(b"ab"[i % 2 : i % 2 + 1]),
                "patient": features.int_feature(i // 5),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    of_records = splits_by_path(ingest(tmp_path / "all.tfrecord", tmp_path / "of records", group_name="patient"))
    assert {f"all.tfrecord#{path.split('.')[0]}": split for path, split in of_manifest.items()} == of_records
    for group in range(16):
        assert len({of_manifest[f"{i}.png"] for i in range(5 * group, 5 * group + 5)}) == 1


def test_a_feature_that_records_lack_is_never_taken_for_no_group(tmp_path: Path) -> None:
    with tf.io.TFRecordWriter(str(tmp_path / "all.tfrecord")) as writer:
        feature = {"image": features.bytes_feature(random_picture(1)), "label": features.bytes_feature(b"a")}
        writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    with pytest.raises(spans.DataError, match="no feature patient"):
        ingest(tmp_path / "all.tfrecord", tmp_path / "out", group_name="patient")


def test_groups_that_a_copy_joins_move_to_the_strictest_and_are_named(picture_folder: Write, tmp_path: Path) -> None:
    files = {f"a/g{i // 6}_{i}.png": random_picture(i) for i in range(120)} | many("b", 20, 500)
    pattern = r"(?P<group>g\d+|[^/]*)(_\d+)?\.png"
    apart = splits_by_path(ingest(picture_folder(files, "apart"), tmp_path / "apart out", group_pattern=pattern))
    of_groups = {path.split("_")[0]: split for path, split in apart.items() if path.startswith("a/")}
    in_train = next(group for group, split in of_groups.items() if split == "train")
    in_test = next(group for group, split in of_groups.items() if split == "test")
    original = next(path for path in files if path.startswith(f"{in_test}_"))
    files[f"{in_train}_copy_900.png"] = files[original]
    ingested = ingest(
        picture_folder(files, "joined"), tmp_path / "joined out", group_pattern=r"(?P<group>g\d+|[^/_]*)\w*\.png"
    )
    joined = splits_by_path(ingested)
    moved = {path for path in apart if joined.get(path, apart[path]) != apart[path]}
    assert moved == {path for path in apart if path.startswith(f"{in_train}_")}
    summary = belonging.read_summary(str(ingested.report))
    (line,) = summary.sentences()
    name = in_train.removeprefix("a/")
    assert line.startswith(
        f"6 pictures are in the split of what belongs to them: group {name!r} (6 pictures) from train to test,"
    )


@pytest.mark.parametrize(("given", "cut"), [("Testing", "eval"), ("valid", "test")])
def test_a_set_that_comes_with_two_splits_gets_its_third_from_train(
    picture_folder: Write, tmp_path: Path, given: str, cut: str
) -> None:
    train = {
        f"Training/{label}/{i}.png": random_picture(100 * (label == "dog") + i)
        for label in ("cat", "dog")
        for i in range(60)
    }
    other = {
        f"{given}/{label}/{i}.png": random_picture(1000 + 100 * (label == "dog") + i)
        for label in ("cat", "dog")
        for i in range(9)
    }
    names = {"Testing": "test", "valid": "eval"}
    ingested = ingest(picture_folder(train | other), tmp_path / "out", splits={"train": 8, "eval": 1, "test": 1})
    found = splits_by_path(ingested)
    assert {split for path, split in found.items() if path.startswith(given)} == {names[given]}
    assert {split for path, split in found.items() if path.startswith("Training")} == {"train", cut}
    assert 2 <= sum(split == cut for split in found.values()) <= 30
    (line,) = belonging.read_summary(str(ingested.report)).sentences()
    assert line == f"nothing was put into {cut}, which is cut from train by the shares of data.splits"


def test_a_split_whose_files_are_all_damaged_is_not_made_up_from_train(picture_folder: Write, tmp_path: Path) -> None:
    files = {f"train/{'ab'[i % 2]}/{i}.png": random_picture(i) for i in range(60)}
    files |= {f"val/{'ab'[i % 2]}/{i}.png": random_picture(100 + i) for i in range(9)} | {"test/a/1.png": b"damaged"}
    with pytest.raises(spans.DataError, match="no picture fell into the split test"):
        ingest(picture_folder(files), tmp_path / "out")


def test_a_letter_is_the_same_however_a_file_system_composes_it(picture_folder: Write, tmp_path: Path) -> None:
    names = [
        unicodedata.normalize(form, f"class{i % 2}/Zo\u00eb{i % 24}-{form}{i}.png")
        for i in range(48)
        for form in ("NFC", "NFD")
    ]
    files = {name: random_picture(number) for number, name in enumerate(names)}
    found = splits_by_path(ingest(picture_folder(files), tmp_path / "out", group_pattern=r"(?P<group>Zoë\d+)-"))
    assert len(found) == 96
    for patient in range(24):
        of_patient = {split for path, split in found.items() if f"Zo\u00eb{patient}-" in unicodedata.normalize("NFC", path)}
        assert len(of_patient) == 1


def test_copies_that_are_left_out_have_not_moved(picture_folder: Write, tmp_path: Path) -> None:
    places = [f"{split}/{label}/{i}.png" for split in ("train", "val", "tests") for label in "ab" for i in range(5)]
    files = {place: random_picture(number) for number, place in enumerate(places)}
    files["train/a/copy.png"] = files["tests/a/0.png"]
    ingested = ingest(picture_folder(files), tmp_path / "out")
    assert splits_by_path(ingested)["tests/a/0.png"] == "test"
    assert "train/a/copy.png" not in splits_by_path(ingested)
    assert belonging.read_summary(str(ingested.report)).moved == 0


def test_near_copies_are_named_and_share_a_split_if_wanted(picture_folder: Write, tmp_path: Path) -> None:
    files = {f"train/{'ab'[i % 2]}/{i}.png": encode(photograph(i)) for i in range(30)}
    files |= {f"test/{'ab'[i % 2]}/{i}.jpg": saved_again(photograph(i), 120) for i in range(6)}
    files |= {
        f"{split}/{label}/other{label}.png": encode(photograph(70 + ord(label) + ord(split[0])))
        for split in ("eval", "test")
        for label in "ab"
    }
    files["train/b/again.jpg"] = saved_again(photograph(8), 100)
    folder = picture_folder(files)
    warned = ingest(folder, tmp_path / "warned")
    before = splits_by_path(warned)
    summary = belonging.read_summary(str(warned.report))
    assert (summary.near_copies, summary.across, summary.disputed, summary.moved) == (7, 6, 1, 0)
    pairs = [json.loads(line) for line in (warned.report / belonging.NEAR_COPIES_FILE).read_text().splitlines()]
    assert all(Path(pair["path"]).stem == Path(pair["other"]).stem for pair in pairs if "again" not in str(pair))
    assert all(before[pair["path"]] == pair["split"] and before[pair["other"]] == pair["other_split"] for pair in pairs)
    assert (summary.first_disputed[0].label, summary.first_disputed[0].other_label) in {("a", "b"), ("b", "a")}
    joined = ingest(folder, tmp_path / "joined", near_copies_share_a_split=True)
    after = splits_by_path(joined)
    assert {path for path in before if before[path] != after[path]} == {f"train/{'ab'[i % 2]}/{i}.png" for i in range(6)}
    assert belonging.read_summary(str(joined.report)).across == 0
    (line,) = belonging.read_summary(str(joined.report)).sentences()
    assert line.startswith("6 pictures are in the split of what belongs to them: ")
    assert "train/a/0.png from train to test, as test/a/0.jpg is" in line
