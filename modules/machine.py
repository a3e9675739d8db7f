"""What of this machine a process may use; in a container, what that may."""

from __future__ import annotations

import contextlib
import os

_CGROUP_MEMORY = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Of the second version of cgroups, and of the first."""


def cores() -> int:
    """Return the number of cores, by the affinity of the process and the quota of its cgroup, which rounds up."""
    import joblib  # half a second

    return joblib.cpu_count()


def memory() -> int:
    """Return the bytes of memory, by the limit of the cgroup and what the machine has."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _CGROUP_MEMORY:
        with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:
            limits.append(int(file.read()))  # or "max"
    return min(limits)
