"""The steps of the acceptance, in their order; each says what it saw, and raises where that is wrong."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import psutil

from tests.acceptance import Step
from tests.flink import artifacts, pictures, project
from tests.flink.cluster import Cluster, every

LOCAL, FLINK = "local", "flink"
_RUN_SECONDS, _HELD_SECONDS, _GIVEN_UP_SECONDS = 1800, 900, 30
_CANCELLED_SECONDS = 30
_AWAY_SECONDS = 4
"""How long a task manager is away."""
_ROUNDING, _FLOAT32 = 1e-12, 1e-6
"""Of sums in another order in statistics, and of what the model says of batches that are divided in another way."""
_BEAM_NODES = ("ImageExampleGen", "StatisticsGen", "Transform", "Evaluator")
_LOOK = "-probe"
"""At the end of the names of jobs that look at the workers, and may find one enough."""
_INTERRUPTED = (1, 130)
_NODES = re.compile(r"^(\w+) +done +([\d.]+) s", re.MULTILINE)


def all_of(cluster: Cluster, work: project.Project, quick: bool) -> Iterator[Step]:
    """Yield the steps.

    Args:
      cluster: of two task managers.
      work: whose pictures are not written yet.
      quick: without those that kill something.
    """
    acceptance = Acceptance(cluster, work)
    steps: list[tuple[Callable[[], None], bool]] = [
        (acceptance.it_runs_locally, True),
        (acceptance.it_runs_on_flink, False),
        (acceptance.examples_are_equal, False),
        (acceptance.examples_are_equal_to_the_byte, False),
        (acceptance.rejects_are_equal, False),
        (acceptance.statistics_are_equal, False),
        (acceptance.transformed_examples_are_equal, False),
        (acceptance.metrics_are_equal, False),
        (acceptance.answers_are_equal, False),
        (acceptance.both_task_managers_wrote_records, False),
    ]
    if not quick:
        steps += [
            (acceptance.a_machine_is_lost_while_shards_are_written, False),
            (acceptance.a_harness_that_wakes_late_changes_nothing, False),
            (acceptance.a_harness_is_lost, False),
            (acceptance.ctrl_c_cancels_the_job, False),
        ]
    for step, needed in steps:
        yield step.__name__.replace("_", "-"), step, needed


class Acceptance:
    """What is done to a cluster.

    Args:
      cluster: of two task managers.
      work: whose pictures are not written yet.
    """

    def __init__(self, cluster: Cluster, work: project.Project):
        self.cluster, self.work = cluster, work
        self.all_managers = cluster.task_managers()

    def it_runs_locally(self) -> None:
        if not self.work.pictures.exists():
            pictures.write(self.work.pictures)
        self._ends_well(self.work.start(LOCAL, "run"), LOCAL)

    def it_runs_on_flink(self) -> None:
        self._ends_well(self.work.start(FLINK, "run", settings=project.on(self.cluster)), FLINK)
        self._leaves_nothing(FLINK)

    def examples_are_equal(self) -> None:
        self._equal(artifacts.examples, FLINK)

    def examples_are_equal_to_the_byte(self) -> None:
        self._equal(artifacts.example_bytes, FLINK)

    def rejects_are_equal(self) -> None:
        self._equal(artifacts.rejects, FLINK)

    def statistics_are_equal(self) -> None:
        self._equal(artifacts.statistics, FLINK, _ROUNDING)

    def transformed_examples_are_equal(self) -> None:
        self._equal(artifacts.transformed, FLINK)

    def metrics_are_equal(self) -> None:
        self._equal(artifacts.metrics, FLINK, _FLOAT32)

    def answers_are_equal(self) -> None:
        self._equal(artifacts.answers, FLINK, _FLOAT32)

    def both_task_managers_wrote_records(self) -> None:
        names = self.cluster.names()
        of_nodes = {job: names[job] for job in self._jobs_but(())}
        assert len(of_nodes) >= len(_BEAM_NODES), f"{_BEAM_NODES} were to have a job each: {of_nodes}"
        for job, name in of_nodes.items():
            written = self._records_written(job)
            print(f"  {name}: {dict(sorted(written.items()))} records written")
            idle = {manager for manager in self.all_managers if not written[manager]}
            assert not idle, f"{name}: {idle} wrote no record"

    def a_machine_is_lost_while_shards_are_written(self) -> None:
        output = "machine-lost"
        with self._disturbed(output) as driver, self._held(driver, output) as (harness, manager):
            os.kill(harness, signal.SIGKILL)
            print(f"  the harness of {manager} was killed in the middle of a shard")
            self._goes_on_without(manager, driver, output)
        self._equals_the_local_run(output)
        self._leaves_nothing(output)

    def a_harness_that_wakes_late_changes_nothing(self) -> None:
        output = "harness-late"
        with self._disturbed(output) as driver, self._held(driver, output) as (harness, manager):
            os.kill(harness, signal.SIGSTOP)
            print(f"  the harness of {manager} was stopped in the middle of a shard")
            self._goes_on_without(manager, driver, output)
            self._leaves_nothing(output)
            before = artifacts.example_writes(self.work.root(output))
            assert psutil.Process(harness).status() == psutil.STATUS_STOPPED, "the harness is gone, and can't wake"
            os.kill(harness, signal.SIGCONT)
            self._ends(harness)
            after = artifacts.example_writes(self.work.root(output))
            changed = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
            assert not changed, f"the harness woke after the end, and wrote {sorted(changed)}"
            # The next run removes it.
            print(f"  awake again, the harness left {artifacts.leftovers(self.work.root(output)) or 'nothing'}")
        self._equals_the_local_run(output)

    def a_harness_is_lost(self) -> None:
        output = "harness-lost"
        with self._disturbed(output) as driver, self._held(driver, output) as (harness, manager):
            os.kill(harness, signal.SIGKILL)
            print(f"  the harness of {manager} was killed in the middle of a shard")
            self.cluster.release()
            self._ends_well(driver, output)
        self._equals_the_local_run(output)
        self._leaves_nothing(output)

    def ctrl_c_cancels_the_job(self) -> None:
        output = "interrupted"
        before = set(self.cluster.jobs())
        with self._disturbed(output) as driver, self._held(driver, output):
            os.killpg(driver.pid, signal.SIGINT)
            for _ in every(0.1, _CANCELLED_SECONDS):
                if "RUNNING" not in self._jobs_but(before).values():
                    break
            self.cluster.release()  # whatever a worker is at has an end
            code = driver.wait(_CANCELLED_SECONDS)
            print(f"  exit code {code}: {self._last_line(output)}")
            own = self._jobs_but(before)
            print(f"  jobs: {own}")
            assert code in _INTERRUPTED, f"exit code {code}"
            assert "interrupted" in self._last_line(output), "it isn't told as an interrupt"
            assert own, "it had no job"
            assert set(own.values()) == {"CANCELED"}, f"jobs weren't cancelled: {own}"
        self._leaves_nothing(output)

    def _jobs_but(self, others: Collection[str]) -> dict[str, str]:
        """The states of the jobs of nodes, by id, without some."""
        names = self.cluster.names()
        jobs = {job: state for job, state in self.cluster.jobs().items() if job not in others}
        return {job: state for job, state in jobs.items() if not names[job].endswith(_LOOK)}

    @contextlib.contextmanager
    def _disturbed(self, output: str) -> Iterator[subprocess.Popen[str]]:
        """Start a check of the data, the first harness to write a shard held in it; leave the cluster as it was."""
        self.cluster.hold()
        driver = self.work.start(output, "data", "check", settings=project.on(self.cluster))
        try:
            yield driver
        finally:
            self.cluster.release()
            self._end(driver)
            for manager in self.all_managers - self.cluster.task_managers():
                self.cluster.start_task_manager(manager)
            self.cluster.wait_for(len(self.all_managers))

    def _end(self, driver: subprocess.Popen[str]) -> None:
        """End a command, and what it left running."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
        self.cluster.end_jobs()

    @contextlib.contextmanager
    def _held(self, driver: subprocess.Popen[str], output: str) -> Iterator[tuple[int, str]]:
        """Wait for the harness that is held; yield its pid and the task manager that it works for. It isn't left behind."""
        for _ in every(0.1, _HELD_SECONDS):
            if (harness := self.cluster.held()) is not None:
                break
            assert driver.poll() is None, f"{output}: over, and no harness was held: {self._last_line(output)}"
        else:
            raise AssertionError(f"{output}: no harness was in the middle of a shard in {_HELD_SECONDS} s")
        try:
            yield harness, self.cluster.harnesses()[harness]
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(harness, signal.SIGKILL)

    def _goes_on_without(self, manager: str, driver: subprocess.Popen[str], output: str) -> None:
        """Kill a task manager, bring it back after a while, hold no harness any more, and wait for a good end."""
        self.cluster.kill_task_manager(manager)
        self.cluster.release()
        time.sleep(_AWAY_SECONDS)
        self.cluster.start_task_manager(manager)
        print(f"  {manager} was killed, and is back after {_AWAY_SECONDS} s")
        self._ends_well(driver, output)

    def _ends(self, pid: int) -> None:
        """Wait until a harness that was given up has done what it does, and is gone."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            for _ in every(0.2, _GIVEN_UP_SECONDS):
                if process.status() == psutil.STATUS_ZOMBIE:
                    return
            print(f"  the harness that woke still runs after {_GIVEN_UP_SECONDS} s")

    def _equal(self, read: Callable[[Path], Any], output: str, tolerance: float = 0.0) -> None:
        local, other = self.work.root(LOCAL), self.work.root(output)
        found = artifacts.differences(read, local, other, tolerance)
        assert not found, f"{read.__name__}, locally and on Flink: {'; '.join(found)}"

    def _equals_the_local_run(self, output: str) -> None:
        self._equal(artifacts.example_bytes, output)
        self._equal(artifacts.rejects, output)
        self._equal(artifacts.statistics, output, _ROUNDING)

    def _leaves_nothing(self, output: str) -> None:
        left = artifacts.leftovers(self.work.root(output))
        assert not left, f"left behind: {left}"

    def _ends_well(self, process: subprocess.Popen[str], output: str) -> None:
        try:
            code = process.wait(_RUN_SECONDS)
        except subprocess.TimeoutExpired:
            self._end(process)
            raise AssertionError(f"{output}: not over after {_RUN_SECONDS} s: {self._last_line(output)}") from None
        said = self.work.said(output)
        print(f"  {', '.join(f'{node} {seconds} s' for node, seconds in _NODES.findall(said))}")
        assert code == 0, f"{output}: exit code {code}: {self._last_line(output)}"

    def _last_line(self, output: str) -> str:
        return self.work.said(output).strip().rpartition("\n")[2]

    def _records_written(self, job: str) -> Counter[str]:
        written: Counter[str] = Counter()
        for vertex in self.cluster.rest(f"jobs/{job}")["vertices"]:
            for one in self.cluster.rest(f"jobs/{job}/vertices/{vertex['id']}/taskmanagers")["taskmanagers"]:
                written[one["taskmanager-id"]] += one["metrics"]["write-records"]
        return written
