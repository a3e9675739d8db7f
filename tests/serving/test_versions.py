import multiprocessing
import random
import time
from pathlib import Path

import pytest

from serving import files, versions

PARTS = 40


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder that counts as an exported model: whole only if all of its parts are there."""
    folder = tmp_path / "model"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    for part in range(PARTS):
        (folder / "variables" / f"part{part}").write_bytes(bytes(5000))
    return folder


def nothing(folder: str, number: int) -> None:
    """Add nothing to a version."""


def number_it(folder: str, number: int) -> None:
    Path(folder, "number").write_text(str(number))


def publish_on_and_on(serving: str, model: str) -> None:
    while True:
        versions.Versions(serving).publish(model, number_it, "digits")


def is_whole(version: Path) -> bool:
    parts = [path.stat().st_size for path in (version / "variables").iterdir()]
    return parts == [5000] * PARTS and (version / "number").read_text() == version.name


def test_killed_publishers_leave_nothing_that_a_server_would_load_half(tmp_path: Path, model: Path) -> None:
    serving = tmp_path / "serving"
    store, seen, chance = versions.Versions(str(serving)), set[int](), random.Random(0)
    fork, kills = multiprocessing.get_context("fork"), 0

    def start() -> multiprocessing.context.ForkProcess:
        process = fork.Process(target=publish_on_and_on, args=(str(serving), str(model)))
        process.start()
        return process

    started = [start(), start()]
    while len(seen) < 200:
        kill_at = time.monotonic() + chance.uniform(0.05, 0.5)
        while time.monotonic() < kill_at:
            found = store.numbers()
            for number in found:
                if number not in seen:
                    assert is_whole(serving / str(number))
            assert not seen or max(found) >= max(seen)
            seen |= set(found)
            assert store.live is None or is_whole(serving / str(store.live))
        victim = chance.randrange(2)
        started[victim].kill()
        started[victim].join()
        kills += 1
        started[victim] = start()
    for process in started:
        process.kill()
        process.join()
    assert kills > 10
    last = store.publish(str(model), number_it, "digits")
    assert last == max(store.numbers()) > max(seen)
    assert store.live == last
    others = {path.name for path in serving.iterdir()} - {str(number) for number in store.numbers()}
    assert others == {".lock", ".last_version", "models.config"}


def test_numbers_grow_when_the_clock_goes_back_and_after_pruning(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = versions.Versions(str(tmp_path / "serving"))
    first = store.publish(str(model), nothing, "digits")
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    second = store.publish(str(model), nothing, "digits")
    store.rollback()
    assert store.prune(1) == [second]
    assert store.publish(str(model), nothing, "digits") > second > first


def test_a_rollback_points_the_server_back_and_withdraws_what_is_above(tmp_path: Path, model: Path) -> None:
    store = versions.Versions(str(tmp_path / "serving"))
    one, two, three = (store.publish(str(model), nothing, "digits", "/models") for _ in range(3))
    assert store.rollback() == two == store.live
    assert store.rollback() == one == store.live
    assert store.withdrawn == [two, three]
    with pytest.raises(versions.VersionError, match="no version before"):
        store.rollback()
    assert store.rollback(three) == three == store.live
    assert store.withdrawn == [two]
    assert 'base_path: "/models"' in (tmp_path / "serving" / "models.config").read_text()
    with pytest.raises(versions.VersionError, match="no version 7; there are"):
        store.rollback(7)


def test_pruning_keeps_the_live_version_and_the_highest_ones(tmp_path: Path, model: Path) -> None:
    store = versions.Versions(str(tmp_path / "serving"))
    numbers = [store.publish(str(model), nothing, "digits") for _ in range(5)]
    store.rollback(numbers[0])
    assert store.prune(3) == numbers[1:3]
    assert store.numbers() == [numbers[0], *numbers[3:]]
    assert store.live == numbers[0]


def test_a_full_disk_leaves_nothing_visible_and_the_next_publisher_cleans_up(tmp_path: Path, model: Path) -> None:
    store = versions.Versions(str(tmp_path / "serving"))

    def full(folder: str, number: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        store.publish(str(model), full, "digits")
    assert store.numbers() == []
    assert store.live is None
    store.publish(str(model), nothing, "digits")
    assert not (tmp_path / "serving" / ".staging").exists()


def test_on_an_object_store_the_graph_comes_last(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, order = versions.Versions("ram://serving-test"), []
    copy = files.tf.io.gfile.copy
    monkeypatch.setattr(files.tf.io.gfile, "copy", lambda *paths: (order.append(paths[1]), copy(*paths)))
    number = store.publish(str(model), nothing, "digits")
    assert store.numbers() == [number]
    assert store.live == number
    assert order[-1] == f"ram://serving-test/{number}/saved_model.pb"
