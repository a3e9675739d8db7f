"""What a worker pool under test starts as `python`: an SDK harness, on its task manager's cores, that can be held.

While the folder that `FINETUNE_FLINK_HOLD` names has a file `wanted`, the first harness that comes to the fifth record of a
file writes its pid into `held`, and goes on when `wanted` is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path

import psutil

from tests.flink.cluster import FOLDER, HARNESS, HELD, HOLD, PIDS, WANTED

_RECORD = 5


def _replace_writer() -> None:
    """Have TFRecords be written by what stops where it is told to."""
    import tensorflow as tf  # only now: its threads get the cores that this process has

    class Writer(tf.io.TFRecordWriter):
        def __init__(self, *arguments: object, **options: object):
            super().__init__(*arguments, **options)
            self._records = 0

        def write(self, record: bytes) -> None:
            super().write(record)
            self._records += 1
            if self._records == _RECORD:
                _hold(Path(os.environ[HOLD]))

    tf.io.TFRecordWriter = Writer


def _hold(folder: Path) -> None:
    if not (folder / WANTED).exists():
        return
    own = folder / f"{os.getpid()}"
    own.write_text(str(os.getpid()))
    try:
        os.link(own, folder / HELD)  # whole, and only one succeeds
    except FileExistsError:
        return
    while (folder / WANTED).exists():
        time.sleep(0.02)


def _keep_to_cores_of_task_manager(folder: Path, code: str) -> None:
    """Take only the cores that whoever listens where this harness will call has."""
    found = HARNESS.search(code)
    for pid in json.loads((folder / PIDS).read_text()).values():
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            ports = {one.laddr.port for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN}
            if found and int(found[1]) in ports:
                os.sched_setaffinity(0, process.cpu_affinity())


if __name__ == "__main__":
    (_, code) = sys.argv[1:]  # -c CODE
    _keep_to_cores_of_task_manager(Path(os.environ[FOLDER]), code)
    if HOLD in os.environ:
        _replace_writer()
    exec(code, {"__name__": "__main__"})
