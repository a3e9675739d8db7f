"""Writes all rows of a collection that are not there yet; a program, so that a test can kill it.

python -m tests.modules.segment_writer FOLDER
"""

import hashlib
import random
import sys
from pathlib import Path

import numpy as np

from modules import segments

COLLECTION, SHAPE = "key/plain", (4, 4, 64)
KEY = {"layer": "block4_pool", "dtype": "float32"}
IDS = np.array([hashlib.sha256(bytes([i // 256, i % 256])).hexdigest()[:32].encode() for i in range(2000)], "S32")


def rows_of(ids: np.ndarray) -> np.ndarray:
    """The rows of some ids, float16, each with random numbers of its own."""
    return np.stack([np.random.default_rng(int(one, 16)).random(SHAPE).astype(np.float16) for one in ids])


def main() -> None:
    """Write segments of a few rows each, until all are there."""
    store, choose = segments.Store(Path(sys.argv[1]), [COLLECTION]), random.Random()
    print("started", flush=True)
    while True:
        there = {one for segment in store.segments(COLLECTION, KEY) for one in segment.ids}
        missing = [one for one in IDS if one not in there]
        if not missing:
            break
        ids = np.array(missing[: choose.randrange(10, 200)], "S32")
        with store.writing(COLLECTION, KEY, SHAPE) as writer:
            for start in range(0, len(ids), 10):
                chunk = ids[start : start + 10]
                writer.add(chunk, np.ones(len(chunk), np.float32), rows_of(chunk))


if __name__ == "__main__":
    main()
