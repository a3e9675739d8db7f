"""What a worker pool under test starts as `python`: an SDK harness that can be held in the middle of a shard.

While the folder that `FINETUNE_FLINK_HOLD` names has a file `wanted`, the first harness that comes to the fifth record of a
file writes its pid into `held`, and goes on when `wanted` is gone.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import tensorflow as tf

from tests.flink.cluster import HELD, HOLD, WANTED

_RECORD = 5


class _Writer(tf.io.TFRecordWriter):
    """Writes TFRecords, and stops where it is told to."""

    def __init__(self, *arguments: object, **options: object):
        super().__init__(*arguments, **options)
        self._records = 0

    def write(self, record: bytes) -> None:
        super().write(record)
        self._records += 1
        if self._records == _RECORD:
            _hold(Path(os.environ[HOLD]))


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


if __name__ == "__main__":
    tf.io.TFRecordWriter = _Writer
    (_, code) = sys.argv[1:]  # -c CODE
    exec(code, {"__name__": "__main__"})
