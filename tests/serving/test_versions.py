import contextlib
import itertools
import multiprocessing
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from serving import files, versions

PARTS = 20


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small SavedModel."""
    module, folder = tf.Module(), tmp_path_factory.mktemp("model") / "model"
    module.weights = tf.Variable(tf.random.stateless_normal([200, 200], [0, 0]))
    spec = tf.TensorSpec([None, 200], tf.float32)
    times = tf.function(lambda x: {"y": x @ module.weights}, input_signature=[spec])
    tf.saved_model.save(module, str(folder), {"serving_default": times})
    for part in range(PARTS):
        (folder / "assets" / f"part{part}").write_bytes(bytes(5000))
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder that counts as an exported model."""
    folder = tmp_path / "model"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    return folder


def nothing(folder: str, number: int) -> None:
    """Add nothing to a version."""


def number_it(folder: str, number: int) -> None:
    Path(folder, "assets", "number").write_text(str(number))


def publish_on_and_on(serving: str, model: str) -> None:
    while True:
        versions.Versions(serving).publish(model, number_it, "digits")


def roll_back_and_prune_on_and_on(serving: str) -> None:
    store = versions.Versions(serving)
    while True:
        time.sleep(0.05)
        with contextlib.suppress(versions.VersionError):
            store.rollback()
        store.prune(3)


def load(version: Path) -> None:
    """Load a version as a server does, and ask it."""
    loaded = tf.saved_model.load(str(version))
    assert loaded.signatures["serving_default"](tf.ones([1, 200]))["y"].shape == [1, 200]
    parts = [path.stat().st_size for path in (version / "assets").glob("part*")]
    assert parts == [5000] * PARTS
    assert (version / "assets" / "number").read_text() == version.name


class Killed:
    """Processes that are killed at random and started again."""

    def __init__(self, *jobs: tuple[Callable[..., None], tuple[str, ...]]):
        # Its server has imported what the jobs need, and no threads: a process is there at once, and safe.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__])
        self._jobs, self._chance, self.kills = jobs, random.Random(0), 0
        self._processes = [self._start(job) for job in jobs]
        self._kill_at = 0.0

    def _start(self, job: tuple[Callable[..., None], tuple[str, ...]]) -> Any:
        process = self._context.Process(target=job[0], args=job[1])
        process.start()
        return process

    def kill_one(self) -> None:
        """Kill one of them, if it is time to."""
        if time.monotonic() < self._kill_at:
            return
        self._kill_at = time.monotonic() + self._chance.uniform(0.05, 0.5)
        victim = self._chance.randrange(len(self._jobs))
        self._processes[victim].kill()
        self._processes[victim].join()
        self.kills += 1
        self._processes[victim] = self._start(self._jobs[victim])

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()


def assert_no_leftovers(store: versions.Versions, *more: str) -> None:
    others = {path.name for path in Path(store.folder).iterdir()} - {str(number) for number in store.numbers()}
    assert others == {".lock", ".last_version", "models.config", *more}


def test_killed_publishers_leave_nothing_that_a_server_would_load_half(tmp_path: Path, exported: Path) -> None:
    serving = tmp_path / "serving"
    store, seen = versions.Versions(str(serving)), set[int]()
    publisher = (publish_on_and_on, (str(serving), str(exported)))
    publishers = Killed(publisher, publisher)
    try:
        while len(seen) < 200:
            publishers.kill_one()
            new = sorted(set(store.numbers()) - seen)
            assert not new or new[0] > max(seen, default=0)
            for number in new:
                load(serving / str(number))
                publishers.kill_one()
            seen |= set(new)
            assert store.live is None or store.live in store.numbers()
    finally:
        publishers.end()
    assert publishers.kills > 10
    last = store.publish(str(exported), number_it, "digits")
    assert last == max(store.numbers()) > max(seen)
    assert store.live == last
    load(serving / str(last))
    assert_no_leftovers(store)


def went_back(served: list[int]) -> bool:
    return any(later < earlier for earlier, later in itertools.pairwise(served))


def test_rolling_back_and_pruning_leave_a_server_what_it_is_told_to_serve(tmp_path: Path, exported: Path) -> None:
    serving = tmp_path / "serving"
    store, served = versions.Versions(str(serving)), list[int]()
    store.publish(str(exported), number_it, "digits")
    jobs = Killed((publish_on_and_on, (str(serving), str(exported))), (roll_back_and_prune_on_and_on, (str(serving),)))
    try:
        # It is a matter of luck when the one who looks sees the moment after a rollback.
        deadline = time.monotonic() + 240
        while len(served) < 100 or not went_back(served):
            assert time.monotonic() < deadline, "rolled back"
            jobs.kill_one()
            live = store.live
            assert live is not None
            if not served or live != served[-1]:
                try:
                    load(serving / str(live))
                except (OSError, tf.errors.OpError, AssertionError):
                    # A server keeps what it has, and reads the configuration again: it was rolled back from and pruned,
                    # perhaps between its graph and its assets.
                    assert store.live != live
                else:
                    served.append(live)
    finally:
        jobs.end()
    assert jobs.kills > 5
    store.publish(str(exported), number_it, "digits")
    assert store.prune(1)
    assert_no_leftovers(store, *([".withdrawn"] if (serving / ".withdrawn").exists() else []))


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
