"""The command `finetune data check`, and ingestion that is killed."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf

from tests.conftest import random_picture

Write = Callable[..., Path]


def check(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli", "data", "check", "--data", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_check_prints_what_speaks_against_data_and_their_fate(picture_folder: Write) -> None:
    files = {f"{label}/{i}.png": random_picture(1000 * n + i) for n, label in enumerate("ab") for i in range(60)}
    folder = picture_folder(files)
    good = check(folder)
    assert good.returncode == 0, good.stderr
    assert "pictures       120 of 2 labels" in good.stdout
    assert good.stdout.endswith("data           accepted\n")
    for i in range(5):
        (folder / "a" / f"broken{i}.jpg").write_bytes(b"no picture")
    bad = check(folder)
    assert bad.returncode == 1, bad.stderr
    assert "a      60: " in bad.stdout
    # The report outlives the command.
    (named,) = {Path(path) for path in re.findall(r"named in (\S+\.jsonl)", bad.stdout)}
    assert len(named.read_text().splitlines()) == 5
    assert len((named.parent / "findings.jsonl").read_text().splitlines()) == 1
    assert "finetune-check" not in bad.stderr
    assert "data.max_rejected_fraction = 0.01" in bad.stdout
    assert bad.stdout.endswith("data           refused\n")


def test_a_check_that_fails_keeps_what_it_says(picture_folder: Write) -> None:
    folder = picture_folder({f"{label}/{i}.png": b"no picture" for label in "ab" for i in range(2)})
    done = check(folder)
    assert done.returncode == 1
    assert "4 files rejected (4 not_an_image)" in done.stderr
    (named,) = re.findall(r"named in (\S+\.jsonl)", done.stderr)
    assert len(Path(named).read_text().splitlines()) == 4
    (log,) = re.findall(r"Log: (\S+)", done.stderr)
    assert "no picture can be used" in Path(log).read_text()


def test_odd_names_of_folders_are_names(picture_folder: Write, tmp_path: Path) -> None:
    files = {f"{label}/{i}.png": random_picture(1000 * n + i) for n, label in enumerate("ab") for i in range(60)}
    folder = picture_folder(files, "photos \U0001f600 [1]*{SPAN}")
    done = check(folder, "--output-dir", str(tmp_path / "runs \U0001f600 {2}"))
    assert done.returncode == 0, done.stderr
    assert "pictures       120 of 2 labels" in done.stdout


def test_a_run_on_data_that_are_refused_ends_before_training(picture_folder: Write, tmp_path: Path) -> None:
    counts = {"a": 60, "b": 60, "c": 3}
    files = {
        f"{label}/{i}.png": random_picture(1000 * ord(label) + i) for label, count in counts.items() for i in range(count)
    }
    command = [
        sys.executable,
        "-m",
        "cli",
        "run",
        "--data",
        str(picture_folder(files)),
        "--output-dir",
        str(tmp_path / "run"),
    ]
    done = subprocess.run([*command, "--set", "model.weights=null"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "  error: too few pictures: c has " in done.stderr
    assert "finetune: DataGate failed: RefusedDataError: the data are refused, nothing was trained" in done.stderr
    assert "Transform" not in done.stderr
    assert not (tmp_path / "run" / "serving").exists()


def test_ingestion_that_was_killed_is_done_again_with_none_twice(picture_folder: Write, tmp_path: Path) -> None:
    files = {f"{label}/{i}.png": random_picture(3000 * n + i, 200, 200) for n, label in enumerate("ab") for i in range(1500)}
    folder, output = picture_folder(files), tmp_path / "run"
    command = [sys.executable, "-m", "cli", "data", "check", "--data", str(folder), "--output-dir", str(output)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True) as process:
        while not any(path.stat().st_size for path in output.glob("pipeline_root/ImageExampleGen/**/aside/*")):
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert list(output.glob("pipeline_root/ImageExampleGen/**/aside/*"))
    again = check(folder, "--output-dir", str(output))
    assert again.returncode == 0, again.stderr
    assert not list(output.glob("pipeline_root/ImageExampleGen/**/aside/*"))
    latest = max(output.glob("pipeline_root/ImageExampleGen/examples/*"), key=lambda path: int(path.name))
    records = tf.data.TFRecordDataset([str(path) for path in latest.glob("Split-*/*")], "GZIP").as_numpy_iterator()
    paths = [tf.train.Example.FromString(record).features.feature["path"].bytes_list.value[0].decode() for record in records]
    assert sorted(paths) == sorted(files)
