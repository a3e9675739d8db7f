"""A Flink session cluster on this machine, with Beam's worker pool: a folder, free ports, processes, and all of it gone.

  python -m tests.flink.cluster --task-managers 2

brings it up, prints where it is as a line of JSON, and stays until it is interrupted.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import psutil

from tests.flink import binaries

_HOST = "127.0.0.1"
_PORTS = range(20_000, 32_000)
"""Below those that the system gives to whoever calls out."""
_SECONDS = 300
"""For all to come up, on a machine that is busy."""
_OPENED = (
    *("java.lang", "java.lang.reflect", "java.net", "java.io", "java.nio", "sun.nio.ch", "java.text", "java.time"),
    *("java.util", "java.util.concurrent", "java.util.concurrent.atomic", "java.util.concurrent.locks"),
)
_EXPORTED = ("java.base/sun.net.util", "java.rmi/sun.rmi.registry", "java.security.jgss/sun.security.krb5")
_JAVA = [
    *(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPENED),
    *(f"--add-exports={package}=ALL-UNNAMED" for package in _EXPORTED),
    "-XX:-UsePerfData",  # a folder in /tmp
    f"-Dlog4j.configurationFile={binaries.HERE / 'log4j.properties'}",
]
_JOB_MANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
_TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
_ENDED = {"FINISHED", "FAILED", "CANCELED"}
HARNESS = re.compile(r'SdkHarness\("localhost:(\d+)"')
"""In the code of one; the port is its task manager's."""
FOLDER, PIDS = "FINETUNE_FLINK_FOLDER", "pids"
HOLD = "FINETUNE_FLINK_HOLD"
WANTED, HELD = "wanted", "held"
"""How harnesses are held; `tests.flink.harness` says what they do."""
_OF_ALL = """
jobmanager.rpc.address: {host}
jobmanager.rpc.port: {rpc}
restart-strategy: fixed-delay
restart-strategy.fixed-delay.attempts: 3
restart-strategy.fixed-delay.delay: 2 s
heartbeat.interval: 2000
heartbeat.timeout: 10000
heartbeat.rpc-failure-threshold: 2
cluster.evenly-spread-out-slots: true
classloader.resolve-order: parent-first
io.tmp.dirs: {folder}
"""
_OF_JOB_MANAGER = """
jobmanager.bind-host: {host}
rest.address: {host}
rest.bind-address: {host}
rest.port: {rest}
jobmanager.memory.heap.size: 1024m
jobmanager.memory.process.size: 1600m
web.upload.dir: {folder}
"""
# Without Flink's scripts, which work it out, none of the memory's keys may be left out.
_OF_TASK_MANAGER = """
taskmanager.host: {host}
taskmanager.bind-host: {host}
taskmanager.resource-id: {name}
taskmanager.numberOfTaskSlots: 1
taskmanager.cpu.cores: 1.0
taskmanager.memory.framework.heap.size: 128m
taskmanager.memory.task.heap.size: 768m
taskmanager.memory.framework.off-heap.size: 128m
taskmanager.memory.task.off-heap.size: 128m
taskmanager.memory.network.min: 256m
taskmanager.memory.network.max: 256m
taskmanager.memory.managed.size: 512m
taskmanager.memory.jvm-metaspace.size: 256m
taskmanager.memory.jvm-overhead.min: 192m
taskmanager.memory.jvm-overhead.max: 192m
taskmanager.network.sort-shuffle.min-buffers: 64
"""


class Cluster:
    """A job manager, task managers of one slot each, and a worker pool for all of them.

    Args:
      found: what it is made of.
      folder: for configurations, logs and all that the processes put aside; `pids` in it names them.
      pinned: whether each task manager and its harnesses keep to one core, in turn; no harness can be held then.
    """

    def __init__(self, found: binaries.Binaries, folder: Path, pinned: bool = False):
        self._found, self._folder, self._pinned = found, folder, pinned
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        rest, self._rpc, pool = _free_ports(3)
        self.master, self.worker_pool = f"{_HOST}:{rest}", f"{_HOST}:{pool}"
        self.job_server = found.job_server
        self._tmp, self._hold, self._bin = folder / "tmp", folder / "hold", folder / "bin"
        for made in (self._tmp, self._hold, self._bin):
            made.mkdir()

    def start(self, task_managers: int) -> None:
        """Bring it up.

        Raises:
          AssertionError: it doesn't come up.
        """
        jars = f"{self._found.flink}/*"
        settings = {"rest": self.master.rsplit(":", 1)[1]}
        self._start("job-manager", list(self._java("job-manager", _OF_JOB_MANAGER, jars, 1024, **settings)))
        port = self.worker_pool.rsplit(":", 1)[1]
        self._start_worker_pool(port)
        for number in range(task_managers):
            self.start_task_manager(f"tm{number + 1}")
        self.wait_for(task_managers)
        for _ in every(0.2, _SECONDS):
            with contextlib.suppress(OSError), socket.create_connection((_HOST, int(port)), timeout=1):
                return
            self._check()
        raise AssertionError(f"the worker pool doesn't answer after {_SECONDS} s")

    def _start_worker_pool(self, port: str) -> None:
        """Start what starts harnesses, as `python`; this project's code is theirs."""
        python = self._bin / "python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tests.flink.harness "$@"\n')
        python.chmod(0o755)
        pool = [sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main", f"--service_port={port}"]
        path = os.pathsep.join([str(self._bin), os.environ["PATH"]])
        environment = {FOLDER: str(self._folder)} | ({} if self._pinned else {HOLD: str(self._hold)})
        self._start("worker-pool", pool, PATH=path, PYTHONPATH=str(binaries.ROOT), **environment)

    def start_task_manager(self, name: str) -> None:
        """Start a task manager, also one that was killed."""
        # The jar is here, as a worker that is kept between stages is kept by a class of it.
        jars = f"{self._found.flink}/*:{self.job_server}"
        memory = ["-XX:MaxDirectMemorySize=512m", "-XX:MaxMetaspaceSize=256m"]
        cores = sorted(os.sched_getaffinity(0))
        pin = ["taskset", "--cpu-list", str(cores[len(self.task_managers()) % len(cores)])] if self._pinned else []
        self._start(name, [*pin, *self._java(name, _OF_TASK_MANAGER, jars, 896, *memory)])

    def wait_for(self, task_managers: int) -> None:
        """Wait until so many task managers are registered."""
        for _ in every(0.2, _SECONDS):
            with contextlib.suppress(OSError):
                if len(self.rest("taskmanagers")["taskmanagers"]) == task_managers:
                    return
            self._check()
        raise AssertionError(f"{task_managers} task managers aren't registered after {_SECONDS} s")

    def kill_task_manager(self, name: str) -> None:
        """End a task manager as a machine that fails does, with no word to anybody."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def task_managers(self) -> set[str]:
        """Return the names of the task managers that were started and not killed."""
        return {name for name in self._processes if name.startswith("tm")}

    def harnesses(self) -> dict[int, str]:
        """Return the SDK harnesses that run, by pid, each with the name of the task manager that it works for."""
        owners = {
            connection.laddr.port: name
            for name in self.task_managers()
            for connection in psutil.Process(self._processes[name].pid).net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        found = {}
        for child in psutil.Process(self._processes["worker-pool"].pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if port := HARNESS.search(" ".join(child.cmdline())):
                    found[child.pid] = owners.get(int(port[1]), "")
        return found

    def hold(self) -> None:
        """Have the next harness that is in the middle of a shard wait there."""
        (self._hold / WANTED).touch()

    def held(self) -> int | None:
        """Return the pid of the harness that waits in the middle of a shard; None if there is none."""
        with contextlib.suppress(FileNotFoundError):
            return int((self._hold / HELD).read_text())
        return None

    def release(self) -> None:
        """Let the harness that waits go on, and hold none."""
        for name in (WANTED, HELD):
            (self._hold / name).unlink(missing_ok=True)

    def rest(self, path: str, method: str = "GET") -> Any:
        """Ask Flink's REST API."""
        request = urllib.request.Request(f"http://{self.master}/{path}", method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def jobs(self) -> dict[str, str]:
        """Return the states of all jobs, by id."""
        return {job["id"]: job["status"] for job in self.rest("jobs")["jobs"]}

    def names(self) -> dict[str, str]:
        """Return the names of all jobs, by id."""
        return {job["jid"]: job["name"] for job in self.rest("jobs/overview")["jobs"]}

    def end_jobs(self) -> None:
        """Cancel all jobs that run."""
        for _ in every(0.5, _SECONDS):
            left = [job for job, state in self.jobs().items() if state not in _ENDED]
            if not left:
                return
            for job in left:
                self.rest(f"jobs/{job}?mode=cancel", "PATCH")
        raise AssertionError(f"jobs don't end: {left}")

    def log(self, name: str) -> str:
        """Return what a process wrote."""
        return (self._folder / f"{name}.log").read_text(errors="replace")

    def describe(self) -> dict[str, Any]:
        """Return where everything is."""
        return {
            "master": self.master,
            "job_server_jar": str(self.job_server),
            "worker_pool": self.worker_pool,
            "folder": str(self._folder),
            "pids": {name: process.pid for name, process in self._processes.items()},
        }

    def stop(self) -> None:
        """End every process, harnesses too, stopped ones as well."""
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _check(self) -> None:
        """Raise where a process has ended that was to run, with the end of what it wrote."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise AssertionError(f"{name} ended with {process.returncode}: {self.log(name)[-2000:]}")

    def _java(self, name: str, settings: str, jars: str, heap: int, *options: str, **values: str) -> Iterator[str]:
        configuration = self._folder / name
        configuration.mkdir(exist_ok=True)
        values |= {"host": _HOST, "rpc": str(self._rpc), "folder": str(configuration), "name": name}
        (configuration / "flink-conf.yaml").write_text((_OF_ALL + settings).format(**values))
        yield from (self._found.java, f"-Xms{heap}m", f"-Xmx{heap}m", *options, *_JAVA, f"-Djava.io.tmpdir={self._tmp}")
        yield from ("-cp", jars, _TASK_MANAGER if name.startswith("tm") else _JOB_MANAGER)
        yield from ("--configDir", str(configuration), *([] if name.startswith("tm") else ["--executionMode", "cluster"]))

    def _start(self, name: str, command: list[str], **environment: str) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [*_dying_with_parent(), *command],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "TMPDIR": str(self._tmp), **environment},
                start_new_session=True,  # Ctrl-C is for whoever runs the cluster, and children go with their group
            )
        pids = {name: process.pid for name, process in self._processes.items()}
        (self._folder / PIDS).write_text(json.dumps(pids))


@contextlib.contextmanager
def running(task_managers: int, pinned: bool = False) -> Iterator[Cluster]:
    """Bring a cluster up, and end it whatever happens; SIGTERM is as Ctrl-C.

    Args:
      task_managers: how many.
      pinned: whether each keeps to one core.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    found = binaries.fetch()
    with TemporaryDirectory(prefix="finetune-flink-", ignore_cleanup_errors=True) as folder:
        cluster = Cluster(found, Path(folder), pinned)
        try:
            cluster.start(task_managers)
            yield cluster
        finally:
            cluster.stop()


def every(pause: float, seconds: float) -> Iterator[None]:
    """Yield at once and then after each pause, until the time is over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield
        time.sleep(pause)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < count:
            port = random.choice(_PORTS)
            with contextlib.suppress(OSError):
                stack.enter_context(socket.socket()).bind((_HOST, port))
                ports.append(port)
        return ports


def _dying_with_parent() -> list[str]:
    """What to put before a command so that Linux kills it when this process is gone, be it by SIGKILL."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


@click.command()
@click.option("--task-managers", default=2, show_default=True, help="Of one slot each.")
@click.option("--pinned", is_flag=True, help="Each task manager and its Python keep to one core, in turn.")
def main(task_managers: int, pinned: bool) -> None:
    """Bring up a Flink on this machine, print where it is, and stay until interrupted."""
    try:
        with running(task_managers, pinned) as cluster:
            print(json.dumps(cluster.describe()), flush=True)
            signal.pause()
    except KeyboardInterrupt:
        pass
    except binaries.MissingError as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
