import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from modules import durable, segments
from tests.modules import segment_writer
from tests.modules.segment_writer import COLLECTION, IDS, KEY, SHAPE, rows_of

KILLS = 50


def store(root: Path, *collections: str) -> segments.Store:
    return segments.Store(root, collections or [COLLECTION])


def write(root: Path, ids: np.ndarray, collection: str = COLLECTION) -> Path:
    """Write a segment, and return its folder."""
    own = store(root, collection)
    with own.writing(collection, KEY, SHAPE) as writer:
        writer.add(ids, np.ones(len(ids), np.float32), rows_of(ids))
    (found,) = [one.folder for one in own.segments(collection, KEY) if set(one.ids) == set(ids)]
    return found


def check(root: Path) -> set[bytes]:
    """Compare every row that counts with one made alone; return whose there are."""
    found: set[bytes] = set()
    for segment in store(root).segments(COLLECTION, KEY):
        np.testing.assert_array_equal(segment.rows(), rows_of(segment.ids))
        found |= set(segment.ids)
    return found


def test_two_writers_that_are_killed_at_any_moment_leave_no_wrong_row(tmp_path: Path) -> None:
    choose, killed, grown, seen = random.Random(1), 0, 0, set[bytes]()
    command = [sys.executable, "-m", "tests.modules.segment_writer", str(tmp_path)]
    while killed < KILLS:
        writers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
        for writer in writers:
            assert writer.stdout is not None
            writer.stdout.readline()
        for writer in choose.sample(writers, 2):
            time.sleep(choose.uniform(0, 0.15))
            writer.send_signal(signal.SIGKILL)
        killed += sum(writer.wait() == -signal.SIGKILL for writer in writers)
        for writer in writers:
            writer.communicate()
        there = check(tmp_path)
        assert there >= seen, "what was there stays"
        seen, grown = there, grown + (there > seen)
        if len(seen) == len(IDS):
            # All is there before all kills are done: begin anew.
            for folder in (tmp_path / "views").glob("*/*/*"):
                shutil.rmtree(folder)
            seen = set()
    assert grown > 5, "they were killed too soon to show anything"
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert check(tmp_path) == set(IDS)
    store(tmp_path).make_room(0, 10**9, {})
    assert not list((tmp_path / "unfinished").glob("*")), "what the killed ones left is removed"


def test_views_of_earlier_versions_are_removed(tmp_path: Path) -> None:
    old = tmp_path / "0123456789abcdef" / "view-1"
    old.mkdir(parents=True)
    (old / "features.npy").write_bytes(bytes(1000))
    folder = write(tmp_path, IDS[:10])
    store(tmp_path).make_room(0, 10**9, {})
    assert not old.exists()
    assert folder.exists()


def test_a_writer_that_comes_second_changes_nothing(tmp_path: Path) -> None:
    first = write(tmp_path, IDS[:10])
    before = (first.stat().st_ino, (first / "rows").read_bytes())
    assert write(tmp_path, IDS[:10]) == first
    assert (first.stat().st_ino, (first / "rows").read_bytes()) == before


@pytest.mark.parametrize("file", ["rows", "ids.npy", "shares.npy", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "empty", "gone"])
def test_a_damaged_segment_counts_as_none_and_is_written_anew(file: str, damage: str, tmp_path: Path) -> None:
    path = write(tmp_path, IDS[:10]) / file
    if damage == "gone":
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size // 2 if damage == "cut" else 0)
    assert not store(tmp_path).segments(COLLECTION, KEY)
    write(tmp_path, IDS[:10])
    assert check(tmp_path) == set(IDS[:10])


def test_rows_of_another_key_are_not_taken(tmp_path: Path) -> None:
    write(tmp_path, IDS[:10])
    assert not store(tmp_path).segments(COLLECTION, KEY | {"dtype": "bfloat16"})


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write(tmp_path, IDS[:4])
    assert not store(tmp_path).segments(COLLECTION, KEY)
    assert not list(tmp_path.glob("unfinished/*"))
    assert not list(tmp_path.glob("views/*/*/*"))


def test_room_is_made_from_what_was_used_longest_ago_and_never_from_what_is_in_use(tmp_path: Path) -> None:
    folders = [write(tmp_path, IDS[:10], f"{name}/plain") for name in ("old", "new", "held")]
    for age, folder in enumerate(folders):
        os.utime(folder, (1000 + age, 1000 + age))
    held = store(tmp_path, "held/plain")
    one, mine = segments.size(folders[0]), store(tmp_path, "mine/plain")
    assert mine.make_room(one, segments.size(tmp_path), {}) == one
    assert [folder.exists() for folder in folders] == [False, True, True]
    with pytest.raises(OSError, match="are in use"):
        mine.make_room(2 * one, one, {})
    assert [folder.exists() for folder in folders] == [False, False, True]
    del held
    mine.make_room(0, 0 + segments.size(tmp_path / "users"), {})
    assert not folders[2].exists()


def test_of_what_one_uses_the_segment_with_the_fewest_needed_rows_goes_first(tmp_path: Path) -> None:
    folders = [write(tmp_path, IDS[start : start + 10]) for start in (0, 10, 20)]
    parts = dict(zip(folders, (0.5, 1.0, 0.1), strict=True))
    own, size = store(tmp_path), segments.size(folders[0])
    own.make_room(0, segments.size(tmp_path) - size // 2, parts)
    assert [folder.exists() for folder in folders] == [True, True, False]
    with pytest.raises(OSError, match="are in use"):
        own.make_room(0, 0, parts)
    assert folders[1].exists(), "all of it is needed"


def of_another_machine(root: Path, monkeypatch: pytest.MonkeyPatch, age: float) -> Path:
    """A user of whom no lock is seen here."""
    with monkeypatch.context() as patched:
        patched.setattr(durable, "machine", lambda: "elsewhere")
        sign = segments._Sign(root / "users", [COLLECTION])
    path = sign._path
    text = path.read_bytes()
    del sign
    path.write_bytes(text)
    os.utime(path, (time.time() - age,) * 2)
    return path


@pytest.mark.parametrize(("age", "stays"), [(60, True), (7200, False)])
def test_a_user_on_another_machine_counts_for_an_hour_after_its_last_sign(
    age: float, stays: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path, IDS[:10])
    sign = of_another_machine(tmp_path, monkeypatch, age)
    (tmp_path / "unfinished" / sign.name).mkdir(parents=True)
    mine = store(tmp_path, "mine/plain")
    if stays:
        with pytest.raises(OSError, match="are in use"):
            mine.make_room(0, 0, {})
    else:
        mine.make_room(0, segments.size(tmp_path) - segments.size(folder), {})
    assert folder.exists() is stays
    assert sign.exists() is stays
    assert (tmp_path / "unfinished" / sign.name).exists() is stays


def test_a_process_that_was_killed_no_longer_uses_anything(tmp_path: Path) -> None:
    folder = write(tmp_path, IDS[:10])
    store_of_it = f"segments.Store(Path({str(tmp_path)!r}), ['{COLLECTION}'])"
    program = f"from pathlib import Path; from modules import segments; kept = {store_of_it}"
    with subprocess.Popen(
        [sys.executable, "-c", f"{program}; print('there', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as user:
        assert user.stdout is not None
        user.stdout.readline()
        mine = store(tmp_path, "mine/plain")
        with pytest.raises(OSError, match="are in use"):
            mine.make_room(0, 0, {})
        user.kill()
        user.wait()
        mine.make_room(0, segments.size(tmp_path) - segments.size(folder), {})
    assert not folder.exists()


def test_a_sign_that_someone_removed_is_given_again(tmp_path: Path) -> None:
    own = store(tmp_path)
    path = own._sign._path
    path.unlink()
    own._sign.give(at_once=True)
    assert path.exists()
    write(tmp_path, IDS[:10])
    with pytest.raises(OSError, match="are in use"):
        store(tmp_path, "mine/plain").make_room(0, 0, {})


def test_the_writer_of_this_test_makes_other_rows_for_other_ids() -> None:
    assert len({row.tobytes() for row in rows_of(segment_writer.IDS)}) == len(IDS)


def test_a_file_that_can_not_grow_says_why(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    own = store(tmp_path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        # The rows have 4 kB, their ids 64.
        with pytest.raises(OSError, match="File too large"), own.writing(COLLECTION, KEY, (1, 1, 1)) as writer:
            writer.add(IDS, np.ones(len(IDS), np.float32), np.zeros((len(IDS), 1, 1, 1), np.float16))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.glob("unfinished/*"))


def test_who_writes_for_long_gives_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "_SECONDS_BETWEEN_SIGNS", 0.0)
    own = store(tmp_path)
    with own.writing(COLLECTION, KEY, SHAPE) as writer:
        os.utime(own._sign._path, (1000, 1000))
        writer.add(IDS[:4], np.ones(4, np.float32), rows_of(IDS[:4]))
        assert time.time() - own._sign._path.stat().st_mtime < 60


def test_two_that_make_room_at_once_both_get_it(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from modules import segments; own ="
        " segments.Store(Path(sys.argv[1]), [sys.argv[2]]); print('ready', flush=True); input();"
        " own.make_room(int(sys.argv[3]), int(sys.argv[4]), {})"
    )
    one = segments.size(write(tmp_path / "one", IDS[:4]))
    for turn in range(5):
        root = tmp_path / str(turn)
        for start in range(0, 120, 4):
            write(root, IDS[start : start + 4], "old/plain")
        # Each wants a third, and all is just too much.
        arguments = [str(10 * one), str(segments.size(root))]
        both = [
            subprocess.Popen(
                [sys.executable, "-c", program, str(root), f"{name}/plain", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for name in ("first", "second")
        ]
        for process in both:
            assert process.stdout is not None
            process.stdout.readline()
        for process in both:
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.flush()
        ended = [process.communicate()[1] for process in both]
        assert [process.returncode for process in both] == [0, 0], ended
