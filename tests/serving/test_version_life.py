"""Random lives of a folder of versions, against a small model of what must hold, with one who loads what appears.

Some operations are killed in the middle: they run in a process that ends itself, by SIGKILL, at some system call.
"""

import collections
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import hypothesis
import pytest
from hypothesis import stateful
from hypothesis import strategies as st

from serving import files, model_info, server_config, versions

GRAPHS = "abcdef"
GRACE = versions.GRACE_SECONDS
_STEPS = {"os.rename", "os.mkdir", "os.remove", "os.rmdir"}

graphs, picks, keeps = st.sampled_from(GRAPHS), st.integers(0, 20), st.integers(1, 3)


class Clock:
    """Takes the place of `time`."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def of_the_file_system(self, folder: Path) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        raise AssertionError("nobody else is here")


def complete(folder: str, number: int) -> None:
    path = Path(folder, model_info.WARMUP_FILE)
    path.parent.mkdir()
    path.write_text(str(number))


def load(version: Path) -> str:
    """Load a version as a server does: all or nothing; return its graph."""
    graph = (version / "saved_model.pb").read_text()
    assert (version / "variables" / "variables.index").read_text() == graph * 1000
    assert (version / model_info.WARMUP_FILE).read_text() == version.name
    return graph


class Life(stateful.RuleBasedStateMachine):
    """A folder of versions, and what it must be."""

    operations: ClassVar = collections.Counter[str]()

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.patch, self.clock = pytest.MonkeyPatch(), Clock()
        self.clock.now = time.time()
        self.patch.setattr(versions, "time", self.clock)
        self.patch.setattr(files, "now", self.clock.of_the_file_system)
        # Who is killed loses nothing that the kernel has.
        self.patch.setattr(os, "fsync", lambda descriptor: None)
        self.digests = {}
        for graph in GRAPHS:
            folder = self.root / "models" / graph
            (folder / "variables").mkdir(parents=True)
            (folder / "saved_model.pb").write_text(graph)
            (folder / "variables" / "variables.index").write_text(graph * 1000)
            self.digests[graph] = model_info.digest(str(folder))
        self.store = versions.Versions(str(self.root / "serving"))
        self.name, self.base_path = "digits", None
        self.versions: dict[int, str] = {}
        self.live: int | None = None
        self.before: int | None = None
        self.confirmed = True
        self.been_live: set[int] = set()
        self.withdrawn: set[str] = set()
        self.retired: dict[int, float] = {}
        self.unserved: set[int] = set()
        self.highest = 0
        self.seen: tuple[int, float] | None = None

    def teardown(self) -> None:
        self.patch.undo()
        shutil.rmtree(self.root)

    # What is done.

    @stateful.rule(graph=graphs, stale=st.booleans(), awaited=st.booleans())
    def publish(self, graph: str, stale: bool, awaited: bool) -> None:
        self.operations["publish"] += 1
        publish = self._publishing(graph, "" if stale else self._served(), awaited)
        if self.live is not None and self.versions[self.live] == graph:
            assert publish() == self.live
            self._was_published_again(awaited)
        elif graph in self.withdrawn:
            with pytest.raises(versions.WithdrawnError):
                publish()
        elif stale:
            with pytest.raises(versions.SupersededError):
                publish()
        else:
            number = publish()
            assert number > max([self.live or 0, *(one for one in self.versions if one != number)])
            self.versions[number] = graph
            self._went_live(number, awaited)

    @stateful.precondition(lambda self: not self.confirmed)
    @stateful.rule(served=st.booleans())
    def settle(self, served: bool) -> None:
        self.operations["settle"] += 1
        if served:
            self.store.confirm(self.live)
            self.confirmed, self.before = True, None
            self.been_live.add(self.live)
        elif self.before is None:
            assert self.store.retreat(self.live) is None
        else:
            before, taken_back = self.before, self.live
            assert self.store.retreat(self.live) == before
            self._went_live(before, awaited=False)
            self.unserved.add(taken_back)

    @stateful.precondition(lambda self: self.live is not None)
    @stateful.rule()
    def roll_back(self) -> None:
        self.operations["roll back"] += 1
        out = {*self.withdrawn, self.versions[self.live]}
        earlier = [one for one in self.been_live & {*self.versions} if one < self.live and self.versions[one] not in out]
        if not earlier:
            with pytest.raises(versions.VersionError, match="no version before"):
                self.store.rollback()
        else:
            assert self.store.rollback() == max(earlier)
            self._went_back(max(earlier))

    @stateful.precondition(lambda self: self.live is not None)
    @stateful.rule(pick=picks)
    def roll_back_to(self, pick: int) -> None:
        self.operations["roll back"] += 1
        to = sorted(self.versions)[pick % len(self.versions)]
        assert self.store.rollback(to) == to
        self._went_back(to)

    @stateful.precondition(lambda self: self.live is not None)
    @stateful.rule(keep=keeps, later=st.booleans())
    def prune(self, keep: int, later: bool) -> None:
        self.operations["prune"] += 1
        self.clock.now += 2 * GRACE * later
        before = dict(self.versions)
        gone = self.store.prune(keep)
        for number in gone:
            del self.versions[number]
        self._was_pruned(before, keep)
        # No more stay than have to.
        due = [one for one in self.versions if self._may_go(one)]
        assert len([one for one in due if not self._has_to_stay(one)]) < max(1, keep)

    @stateful.rule(name=st.sampled_from(["digits", "numbers"]), base_path=st.sampled_from([None, "/models"]))
    def change_names(self, name: str, base_path: str | None) -> None:
        self.operations["change of name"] += 1
        self.name, self.base_path = name, base_path
        self.store.describe(name, base_path)

    @stateful.rule(seconds=st.sampled_from([1.0, GRACE / 2, 2 * GRACE, -GRACE / 4]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @stateful.precondition(lambda self: self.live is not None)
    @stateful.rule()
    def move(self) -> None:
        self.operations["move"] += 1
        place = self.root / f"serving{len(list(self.root.iterdir()))}-{self.clock.now:.0f}"
        Path(self.store.folder).rename(place)
        self.store = versions.Versions(str(place))
        self.store.describe(self.name, self.base_path)

    @stateful.precondition(lambda self: self.live is not None)
    @stateful.rule(graph=graphs, awaited=st.booleans(), step=st.integers(0, 26))
    def publish_until_killed(self, graph: str, awaited: bool, step: int) -> None:
        live, again = self.live, self.versions[self.live] == graph
        changed = self._kill(self._publishing(graph, self._served(), awaited), step)
        if self.live != live:
            assert self.versions[self.live] == graph
            self._went_live(self.live, awaited, live)
        elif changed and again:
            self._was_published_again(awaited)

    @stateful.precondition(lambda self: self.live is not None)
    @stateful.rule(pick=picks, step=st.integers(0, 12))
    def roll_back_until_killed(self, pick: int, step: int) -> None:
        to, live, withdrawn = sorted(self.versions)[pick % len(self.versions)], self.live, set(self.withdrawn)
        if self._kill(lambda: self.store.rollback(to), step):
            found, self.live, self.withdrawn = (self.live, self.withdrawn), live, withdrawn
            self._went_back(to)
            assert found == (self.live, self.withdrawn)
        assert self.live in {live, to}

    @stateful.precondition(lambda self: self.live is not None)
    @stateful.rule(keep=keeps, step=st.integers(0, 17), later=st.booleans())
    def prune_until_killed(self, keep: int, step: int, later: bool) -> None:
        self.clock.now += 2 * GRACE * later
        before, live = dict(self.versions), self.live
        self._kill(lambda: self.store.prune(keep), step)
        assert self.live == live
        self._was_pruned(before, keep)

    @stateful.precondition(lambda self: self.live is not None)
    @stateful.rule()
    def look(self) -> None:
        """The server reads what to load, and may be slow to load it."""
        self.seen = (self._told().version, self.clock.now)

    # What must hold.

    @stateful.invariant()
    def what_appears_is_whole(self) -> None:
        assert {number: load(Path(self.store.path(number))) for number in self.store.numbers()} == self.versions
        if self.seen is not None and self.clock.now <= self.seen[1] + GRACE:
            load(Path(self.store.path(self.seen[0])))
        self.highest = max([self.highest, *self.versions])

    @stateful.invariant()
    def what_is_live_is_told_and_not_withdrawn(self) -> None:
        assert self.store.live == self.live
        if self.live is None:
            return
        assert self._told() == (self.name, self.base_path or self.store.folder, self.live)
        assert self.versions[self.live] not in self.withdrawn
        assert {*self._latest().withdrawn} == {self.digests[graph] for graph in self.withdrawn}
        assert self.store.served == (self.live if self.confirmed else self.before)
        assert not list(Path(self.store.folder, ".staging").iterdir())

    # How the model of it changes.

    def _publishing(self, graph: str, against: str | None, awaited: bool) -> Callable[[], int]:
        folder = str(self.root / "models" / graph)
        return lambda: self.store.publish(folder, complete, self.name, self.base_path, against, awaited)

    def _served(self) -> str | None:
        served = self.live if self.confirmed else self.before
        return self.digests[self.versions[served]] if served is not None else None

    def _told(self) -> server_config.ServerConfig:
        return server_config.parse(Path(self.store.folder, versions.CONFIG_FILE).read_text())

    def _latest(self) -> Any:
        return versions.states.read(Path(self.store.folder))[1]

    def _went_live(self, number: int, awaited: bool, live: int | None = None) -> None:
        live = live or self.live
        served = live if self.confirmed else self.before
        if live is not None and live != number:
            self.retired[live] = self.clock.now
        self.retired.pop(number, None)
        self.unserved.discard(number)
        self.live, self.confirmed, self.before = number, not awaited, served if awaited else None
        if not awaited:
            self.been_live.add(number)

    def _was_published_again(self, awaited: bool) -> None:
        if not awaited:
            self.confirmed, self.before = True, None
            self.been_live.add(self.live)

    def _went_back(self, to: int) -> None:
        self.withdrawn |= {graph for number, graph in self.versions.items() if to < number <= self.live}
        self.withdrawn -= {self.versions[to]}
        self._went_live(to, awaited=False)

    def _has_to_stay(self, number: int) -> bool:
        young = number in self.retired and self.retired[number] > self.clock.now - GRACE
        return young or number in {self.live, self.before}

    def _may_go(self, number: int) -> bool:
        unserved = sorted(self.unserved & self.versions.keys())[:-1]
        return number < self.live or number in unserved or self.versions[number] in self.withdrawn

    def _was_pruned(self, before: dict[int, str], keep: int) -> None:
        gone = before.keys() - self.versions.keys()
        good = {one for one, graph in before.items() if one in self.been_live and graph not in self.withdrawn}
        assert not any(self._has_to_stay(number) for number in gone)
        assert len(good - gone) >= min(keep, len(good))
        if gone & good:
            bad = [one for one, graph in self.versions.items() if graph in self.withdrawn]
            assert all(self._has_to_stay(one) for one in bad), "withdrawn ones go first"
            assert max(gone & good) < max(good - gone)
        self.been_live -= gone

    def _kill(self, operation: Callable[[], Any], step: int) -> bool:
        """Do something in a process that kills itself at some step, and take over what became of it, if anything."""
        self.operations["kill"] += 1
        before = self._latest()
        if (child := os.fork()) == 0:
            _until(operation, step)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        # Whatever a server is told at this moment can be loaded.
        load(Path(self.store.path(self._told().version)))
        changed = self._latest() != before
        # And the next run makes it so.
        self.store.describe(self.name, self.base_path)
        self.live = self.store.live
        found = {*self._latest().withdrawn}
        self.withdrawn = {graph for graph in GRAPHS if self.digests[graph] in found}
        self.versions = {number: load(Path(self.store.path(number))) for number in self.store.numbers()}
        return changed


def _until(operation: Callable[[], Any], step: int) -> None:
    """Do something, and be killed before one of the steps in which files change; never returns."""
    left = step

    def count(event: str, arguments: tuple) -> None:
        nonlocal left
        if event in _STEPS or (event == "open" and arguments[2] & os.O_ACCMODE):
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

    try:
        sys.addaudithook(count)
        with contextlib.suppress(versions.VersionError, versions.SupersededError):
            operation()
    except BaseException:
        os._exit(1)
    os._exit(0)


def test_whatever_happens_a_server_is_told_of_a_version_that_is_there_and_meant() -> None:
    Life.operations.clear()
    settings = hypothesis.settings(
        max_examples=60, stateful_step_count=30, suppress_health_check=list(hypothesis.HealthCheck)
    )
    stateful.run_state_machine_as_test(Life, settings=settings)
    assert Life.operations.total() >= 500
    assert len(Life.operations) == 7, Life.operations
