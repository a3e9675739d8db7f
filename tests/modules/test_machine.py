import io
import os
import subprocess
import sys

import pytest
from joblib.externals.loky.backend import context

from modules import machine

_OPEN = open


def fake_cgroup(monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> None:
    """Have the files of cgroups hold what a container's would."""
    exists = os.path.exists

    def opened(path: str, *args: object, **kwargs: object) -> object:
        if str(path).startswith("/sys/fs/cgroup/"):
            if path not in files:
                raise FileNotFoundError(2, "No such file or directory", path)
            return io.StringIO(files[path])
        return _OPEN(path, *args, **kwargs)

    monkeypatch.setattr(os.path, "exists", lambda path: path in files if "cgroup" in str(path) else exists(path))
    for module in (context, machine):
        monkeypatch.setattr(module, "open", opened, raising=False)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 64),
        ({"/sys/fs/cgroup/cpu.max": "max 100000\n"}, 64),
        ({"/sys/fs/cgroup/cpu.max": "350000 100000\n"}, 4),
        ({"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000\n", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 64),
    ],
)
def test_cores_are_those_of_the_container(monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    fake_cgroup(monkeypatch, files)
    assert machine.cores() == expected


def test_cores_are_those_that_the_process_may_run_on() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    code += "; from modules import machine; print(machine.cores())"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "1\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"/sys/fs/cgroup/memory.max": "max\n"}, None),
        ({"/sys/fs/cgroup/memory.max": "1000000\n"}, 1_000_000),
        ({"/sys/fs/cgroup/memory/memory.limit_in_bytes": "2000000\n"}, 2_000_000),
        ({"/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
    ],
)
def test_memory_is_that_of_the_container(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int | None
) -> None:
    fake_cgroup(monkeypatch, files)
    assert machine.memory() == (expected or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
