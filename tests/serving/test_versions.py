import contextlib
import itertools
import multiprocessing
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from modules import durable
from serving import files, model_info, versions
from tests.serving.infos import write_info

PARTS = 20
GRACE = 60.0
Model = Callable[[str], str]


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
def model(tmp_path: Path) -> Model:
    """Write a folder that counts as an exported model, with a graph of its own."""

    def write(graph: str) -> str:
        folder = tmp_path / "models" / graph
        (folder / "variables").mkdir(parents=True, exist_ok=True)
        (folder / "saved_model.pb").write_text(graph)
        (folder / "variables" / "variables.index").write_text("weights")
        return str(folder)

    return write


def nothing(folder: str, number: int) -> None:
    """Add nothing to a version."""


def number_it(folder: str, number: int) -> None:
    Path(folder, "assets", "number").write_text(str(number))


def publish_on_and_on(serving: str, exported: str) -> None:
    """Publish a model that differs from all others, and another one."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(exported, folder, dirs_exist_ok=True)
        while True:
            Path(folder, "assets", "part0").write_bytes(os.urandom(5000))
            versions.Versions(serving).publish(folder, number_it, "digits")


def roll_back_and_prune_on_and_on(serving: str) -> None:
    store = versions.Versions(serving)
    while True:
        time.sleep(0.05)
        with contextlib.suppress(versions.VersionError):
            store.rollback()
        with contextlib.suppress(versions.VersionError):
            store.prune(3, grace=GRACE)


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


def assert_no_leftovers(store: versions.Versions) -> None:
    others = {path.name for path in Path(store.folder).iterdir()} - {str(number) for number in store.numbers()}
    assert others == {".lock", ".staging", ".state", "models.config"}
    assert not list(Path(store.folder, ".staging").iterdir())


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
    (exported / "assets" / "part0").write_bytes(os.urandom(5000))
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
                # Whatever happens meanwhile, it stays for longer than this takes.
                load(serving / str(live))
                served.append(live)
    finally:
        jobs.end()
    assert jobs.kills > 5
    (exported / "assets" / "part0").write_bytes(os.urandom(5000))
    last = store.publish(str(exported), number_it, "digits")
    store.prune(1, grace=0)
    assert store.numbers() == [last] == [store.live]
    assert_no_leftovers(store)


def test_numbers_grow_when_the_clock_goes_back_and_after_pruning(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = versions.Versions(str(tmp_path / "serving"))
    first = store.publish(model("a"), nothing, "digits")
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    second = store.publish(model("b"), nothing, "digits")
    store.rollback()
    assert store.prune(1, grace=0) == [second]
    assert store.publish(model("c"), nothing, "digits") > second > first


def test_a_rollback_points_the_server_back_and_withdraws_the_models_above(tmp_path: Path, model: Model) -> None:
    store = versions.Versions(str(tmp_path / "serving"))
    one, two, three = (store.publish(model(graph), nothing, "digits", "/models") for graph in "abc")
    assert store.rollback() == two == store.live
    assert store.rollback() == one == store.live
    assert store.withdrawn == [two, three]
    with pytest.raises(versions.VersionError, match="no version before"):
        store.rollback()
    assert store.rollback(three) == three == store.live
    assert store.withdrawn == [two]
    assert 'base_path: "/models"' in config_of(store)
    with pytest.raises(versions.VersionError, match="no version 7; there are"):
        store.rollback(7)


def test_what_was_rolled_back_is_not_published_again_not_even_when_its_version_is_pruned(
    tmp_path: Path, model: Model
) -> None:
    store = versions.Versions(str(tmp_path / "serving"))
    good, bad = (store.publish(model(graph), nothing, "digits") for graph in ("good", "bad"))
    store.rollback()
    for there in (True, False):
        with pytest.raises(versions.WithdrawnError) as error:
            store.publish(model("bad"), nothing, "digits")
        assert error.value.number == bad
        assert (bad in store.numbers()) == there
        store.prune(1, grace=0)
    assert store.live == good
    # Whoever is sure makes it live, while it is there.
    better = store.publish(model("better"), nothing, "digits")
    store.rollback()
    assert store.rollback(better) == better
    assert store.publish(model("better"), nothing, "digits") == better


def test_pruning_keeps_good_versions_and_deletes_withdrawn_ones_first(tmp_path: Path, model: Model) -> None:
    store = versions.Versions(str(tmp_path / "serving"))
    one, two, three = (store.publish(model(graph), nothing, "digits") for graph in "abc")
    store.rollback()
    assert store.prune(3, grace=0) == []
    assert store.prune(2, grace=0) == [three]
    four, five = (store.publish(model(graph), nothing, "digits") for graph in "de")
    assert store.prune(3, grace=0) == [one]
    store.rollback(two)
    assert store.prune(1, grace=0) == [four, five]
    assert store.numbers() == [two]


def test_what_was_live_a_moment_ago_stays_for_a_while(tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    store = versions.Versions(str(tmp_path / "serving"))
    one, two, three = (store.publish(model(graph), nothing, "digits") for graph in "abc")
    assert store.prune(1) == []
    store.rollback()
    now = time.time()
    monkeypatch.setattr(files, "now", lambda folder: now + versions.GRACE_SECONDS - 5)
    assert store.prune(1) == []
    monkeypatch.setattr(files, "now", lambda folder: now + versions.GRACE_SECONDS + 5)
    assert store.prune(1) == [one, three]
    assert store.numbers() == [two]


@pytest.mark.parametrize("ahead", [3600.0, -2 * 86_400.0])
def test_a_machine_whose_clock_is_wrong_deletes_nothing_sooner(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    store, clock = versions.Versions(str(tmp_path / "serving")), time.time
    there = [store.publish(model(graph), nothing, "digits") for graph in "ab"]
    # One of two machines that share the folder.
    monkeypatch.setattr(time, "time", lambda: clock() + ahead)
    assert store.prune(1) == []
    there.append(store.publish(model("c"), nothing, "digits"))
    monkeypatch.undo()
    assert store.prune(1) == []
    assert store.numbers() == there


def test_only_the_newest_of_what_no_server_served_is_kept_for_another_try(tmp_path: Path, model: Model) -> None:
    store = versions.Versions(str(tmp_path / "serving"))
    first = store.publish(model("a"), nothing, "digits")
    nights = []
    for graph in "bcde":
        nights.append(store.publish(model(graph), nothing, "digits", awaited=True))
        assert store.retreat(nights[-1]) == first
    assert store.prune(2, grace=GRACE) == []
    assert store.prune(2, grace=0) == nights[:2]
    assert store.prune(1, grace=0) == [nights[2]]
    assert store.publish(model("e"), nothing, "digits", awaited=True) == nights[-1]
    store.confirm(nights[-1])
    assert store.prune(2, grace=0) == []
    assert store.rollback() == first


def test_a_version_that_is_not_awaited_any_more_is_served_as_far_as_anybody_knows(tmp_path: Path, model: Model) -> None:
    store = versions.Versions(str(tmp_path / "serving"))
    first = store.publish(model("a"), nothing, "digits")
    second = store.publish(model("b"), nothing, "digits", awaited=True)
    # The publisher was killed while it waited.
    assert store.publish(model("b"), nothing, "digits", awaited=True) == second
    assert store.served == first
    assert store.publish(model("b"), nothing, "digits") == second
    assert store.served == second
    assert store.retreat(second) is None


def test_another_name_or_base_path_is_told_though_the_model_is_the_same(tmp_path: Path, model: Model) -> None:
    store = versions.Versions(str(tmp_path / "serving"))
    number = store.publish(model("a"), nothing, "digits")
    store.describe("numbers", "/models")
    for text in ('name: "numbers"', 'base_path: "/models"', f"versions: {number}"):
        assert text in config_of(store)
    assert store.publish(model("a"), nothing, "figures") == number
    assert store.name == "figures"
    assert f'base_path: "{store.folder}"' in config_of(store)


def test_what_somebody_wrote_over_is_written_again(tmp_path: Path, model: Model) -> None:
    store = versions.Versions(str(tmp_path / "serving"))
    store.publish(model("a"), nothing, "digits")
    before = config_of(store)
    Path(store.folder, versions.CONFIG_FILE).write_text("model_config_list {}")
    store.describe("digits")
    assert config_of(store) == before


def test_a_rollback_in_a_moved_folder_tells_the_server_where_it_is_now(tmp_path: Path, model: Model) -> None:
    store = versions.Versions(str(tmp_path / "serving"))
    one, _ = (store.publish(model(graph), nothing, "digits") for graph in "ab")
    Path(store.folder).rename(tmp_path / "moved")
    moved = versions.Versions(str(tmp_path / "moved"))
    assert moved.rollback() == one
    assert f'base_path: "{tmp_path}/moved"' in config_of(moved)


def test_going_back_leads_to_a_version_of_another_model_that_was_served(tmp_path: Path, model: Model) -> None:
    store = versions.Versions(str(tmp_path / "serving"))
    first = store.publish(model("a"), nothing, "digits")
    unserved = store.publish(model("b"), nothing, "digits", awaited=True)
    assert store.retreat(unserved) == first
    store.publish(model("c"), nothing, "digits")
    assert store.rollback() == first
    # An old configuration is back, and its model the newest version.
    store.publish(model("d"), nothing, "digits")
    again = store.publish(model("a"), nothing, "digits")
    store.publish(model("e"), nothing, "digits")
    assert store.rollback() == again
    store.rollback(first)
    with pytest.raises(versions.VersionError, match="no version before"):
        store.rollback()


def test_a_version_is_live_for_the_next_model_only_once_a_server_serves_it(tmp_path: Path, model: Model) -> None:
    store = versions.Versions(str(tmp_path / "serving"))
    first = store.publish(model("a"), nothing, "digits", awaited=True)
    assert (store.live, store.served) == (first, None)
    assert store.retreat(first) is None
    assert (store.live, store.served) == (first, None)
    store.confirm(first)
    assert store.served == first
    second = store.publish(model("b"), nothing, "digits", awaited=True)
    assert (store.live, store.served) == (second, first)
    assert store.retreat(second) == first == store.live
    assert f"versions: {first}" in config_of(store)
    # No verdict: it may be published again, as the version that it is.
    assert store.publish(model("b"), nothing, "digits", awaited=True) == second
    store.confirm(second)
    assert store.retreat(second) is None
    assert store.served == second
    store.rollback()
    with pytest.raises(versions.SupersededError, match="run again"):
        store.confirm(second)


def test_a_model_goes_live_only_over_the_one_that_it_was_judged_against(tmp_path: Path, model: Model) -> None:
    store, digest = versions.Versions(str(tmp_path / "serving")), {one: model_info.digest(model(one)) for one in "abc"}
    with pytest.raises(versions.SupersededError, match="nothing is live since this model was judged: run again"):
        store.publish(model("b"), nothing, "digits", judged_against=digest["a"])
    first = store.publish(model("a"), nothing, "digits", judged_against=None)
    store.publish(model("b"), nothing, "digits", judged_against=digest["a"])

    def overtake(folder: str, number: int) -> None:
        # In the middle of the slower one's publishing, from a machine that knows nothing of its lock.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files, "locked", lambda folder: contextlib.nullcontext(False))
            versions.Versions(store.folder).rollback()

    before = store.numbers()
    with pytest.raises(versions.SupersededError, match=f"version {first} is live since this model was judged"):
        store.publish(model("c"), overtake, "digits", judged_against=digest["b"])
    assert store.numbers() == before
    assert store.live == first
    assert_no_leftovers(store)


def test_two_publishers_of_one_model_do_not_delete_what_the_other_made_live(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "locked", unlocked)
    store, write = versions.Versions(str(tmp_path / "serving")), versions.Versions._write
    store.publish(model("a"), nothing, "digits")
    against, faster = model_info.digest(model("a")), []

    def overtaken(self: versions.Versions, *arguments: Any) -> None:
        write(self, *arguments)
        monkeypatch.setattr(versions.Versions, "_write", write)
        faster.append(versions.Versions(store.folder).publish(model("b"), nothing, "digits", judged_against=against))

    monkeypatch.setattr(versions.Versions, "_write", overtaken)
    with pytest.raises(versions.SupersededError):
        store.publish(model("b"), nothing, "digits", judged_against=against)
    assert [store.live] == faster
    assert store.live in store.numbers()


def test_publishers_on_machines_without_common_locks_lose_no_step(tmp_path: Path) -> None:
    serving, context = str(tmp_path / "serving"), multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with context.Pool(4) as pool:
        found = pool.starmap(publish_without_locks, [(serving, str(tmp_path), worker, 12) for worker in range(4)])
    steps = [step for one in found for step in one]
    assert len(steps) > 12
    # Each model went live over another one: they form a line, and nobody's is missing.
    against = dict(steps)
    assert len(against) == len(steps)
    line, current = [], None
    while current in against:
        current = against[current]
        line.append(current)
    assert sorted(line) == sorted(model for _, model in steps)
    store = versions.Versions(serving)
    assert model_info.digest(store.path(store.live or 0)) == line[-1]
    assert f"versions: {store.live}" in config_of(store)


def publish_without_locks(serving: str, models: str, worker: int, count: int) -> list[tuple[str | None, str]]:
    """Publish over whatever is live, as on a machine of its own; return what went live over what."""
    durable.machine = lambda: f"machine{worker}"
    files.locked = unlocked
    store, done = versions.Versions(serving), []
    for number in range(count):
        folder = Path(models, f"{worker}-{number}")
        folder.mkdir()
        (folder / "saved_model.pb").write_text(folder.name)
        served = store.served
        against = None if served is None else model_info.digest(store.path(served))
        with contextlib.suppress(versions.SupersededError):
            store.publish(str(folder), nothing, "digits", judged_against=against)
            done.append((against, model_info.digest(str(folder))))
    return done


@contextlib.contextmanager
def unlocked(folder: Path) -> Iterator[bool]:
    folder.mkdir(parents=True, exist_ok=True)
    yield False


def test_leftovers_of_other_machines_stay_until_they_are_old(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = versions.Versions(str(tmp_path / "serving"))
    store.publish(model("a"), nothing, "digits")
    staging = Path(store.folder, ".staging")
    # The name of one begins with that of another.
    monkeypatch.setattr(durable, "machine", lambda: "gpu1")
    names = {"gpu1-1", "gpu10-1", "gpu1-0-1", "elsewhere-1", "elsewhere-2"}
    for name in names:
        (staging / name).mkdir()
    os.utime(staging / "elsewhere-2", (0, 0))
    store.describe("digits")
    assert {path.name for path in staging.iterdir()} == names - {"gpu1-1", "elsewhere-2"}


def test_machines_of_one_host_name_are_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with files.aside(tmp_path) as unfinished:
        assert files.is_own(unfinished)
    other = tmp_path / "boot_id"
    other.write_text("another kernel")
    monkeypatch.setattr(durable, "_BOOT", other)
    assert not files.is_own(unfinished)


@pytest.mark.parametrize("victim", ["saved_model.pb", "variables/variables.index"])
@pytest.mark.parametrize("told", [True, False], ids=["with its digests", "without"])
def test_what_others_changed_while_it_was_written_does_not_go_live(
    tmp_path: Path, model: Model, victim: str, told: bool
) -> None:
    store = versions.Versions(str(tmp_path / "serving"))
    before = store.publish(model("a"), nothing, "digits")

    def disturbed(folder: str, number: int) -> None:
        Path(folder, victim).unlink()
        if told:
            # Of what is left.
            write_info(folder, number)

    with pytest.raises(versions.TornError, match=r"while it was written: .* is another"):
        store.publish(model("b"), disturbed, "digits")
    assert (store.live, store.numbers()) == (before, [before])
    assert_no_leftovers(store)


def test_what_others_changed_of_what_goes_along_does_not_go_live(tmp_path: Path, model: Model) -> None:
    store = versions.Versions(str(tmp_path / "serving"))

    def disturbed(folder: str, number: int) -> None:
        Path(folder, model_info.WARMUP_FILE).parent.mkdir()
        Path(folder, model_info.WARMUP_FILE).write_text("requests")
        write_info(folder, number)
        Path(folder, model_info.WARMUP_FILE).unlink()

    with pytest.raises(versions.TornError, match="tf_serving_warmup_requests is missing"):
        store.publish(model("a"), disturbed, "digits")
    assert store.numbers() == []


def test_a_folder_of_the_layout_before_is_read_and_goes_on(tmp_path: Path, model: Model) -> None:
    serving = tmp_path / "serving"
    for number, graph in enumerate("abc", start=7):
        shutil.copytree(model(graph), serving / str(number))
    policy = "model_version_policy { specific { versions: 8 } }"
    config = f'name: "digits" base_path: "/models" model_platform: "tensorflow" {policy}'
    (serving / "models.config").write_text(f"model_config_list {{ config {{ {config} }} }}")
    (serving / ".withdrawn").write_text("[9]")
    (serving / ".last_version").write_text("3000000000")
    store = versions.Versions(str(serving))
    assert (store.numbers(), store.live, store.served, store.withdrawn, store.name) == ([7, 8, 9], 8, 8, [9], "digits")
    with pytest.raises(versions.WithdrawnError):
        store.publish(model("c"), nothing, "digits")
    assert store.publish(model("d"), nothing, "digits", "/models", model_info.digest(model("b"))) == 3_000_000_001
    assert store.rollback() == 8
    assert store.rollback() == 7
    assert store.withdrawn == [8, 9, 3_000_000_001]
    assert 'base_path: "/models"' in config_of(store)
    assert_no_leftovers(store)


def test_a_state_that_is_damaged_is_named_with_what_to_do(tmp_path: Path, model: Model) -> None:
    store = versions.Versions(str(tmp_path / "serving"))
    store.publish(model("a"), nothing, "digits")
    states = Path(store.folder, ".state")
    latest = states / max((path.name for path in states.iterdir()), key=int)
    (latest / "state.json").write_text("{")
    with pytest.raises(versions.VersionError, match=rf"{latest}/state.json can't be read \(damaged\); delete the folder"):
        store.rollback()


def test_a_full_disk_leaves_nothing_visible_and_the_next_publisher_cleans_up(tmp_path: Path, model: Model) -> None:
    store = versions.Versions(str(tmp_path / "serving"))

    def full(folder: str, number: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        store.publish(model("a"), full, "digits")
    assert store.numbers() == []
    assert store.live is None
    store.publish(model("a"), nothing, "digits")
    assert_no_leftovers(store)


@pytest.mark.parametrize("locks", [True, False], ids=["with locks", "without"])
def test_a_disk_that_is_full_at_any_moment_leaves_nothing_aside(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch, locks: bool
) -> None:
    if not locks:
        monkeypatch.setattr(files, "locked", unlocked)
    store, flush = versions.Versions(str(tmp_path / "serving")), os.fsync
    numbers = [store.publish(model("a"), nothing, "digits")]
    staging = Path(store.folder, ".staging")
    for moment in itertools.count():
        left = moment

        def full(handle: int) -> None:
            nonlocal left
            if left == 0:
                raise OSError(28, "No space left on device")
            left -= 1
            flush(handle)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            try:
                store.publish(model(f"b{moment}"), write_info, "digits")
                store.prune(1, grace=0)
                break
            except OSError:
                assert list(staging.iterdir()) == []
        assert store.live in store.numbers()
    assert moment > 10
    assert store.numbers() == [store.live] != numbers


def test_object_stores_are_no_place_for_versions() -> None:
    with pytest.raises(versions.VersionError, match="gs://bucket/serving: versions are published on file systems alone"):
        versions.Versions("gs://bucket/serving")


def config_of(store: versions.Versions) -> str:
    return Path(store.folder, versions.CONFIG_FILE).read_text()
