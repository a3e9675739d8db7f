"""Small trainings of the real model for tests; also a program, so that a test can kill one.

python -m tests.modules.trainings FOLDER OVERRIDES_JSON [FOLDS]
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np

from configs import schema
from modules import batches, callbacks, dataset, folds, trainer
from tests.modules.test_dataset import write_split

BASE = {
    "model": {"weights": "imagenet", "dense_units": 16},
    "augmentation": {"rotation": 10.0},
    "training": {
        "batch_size": 8,
        "xla": False,
        "early_stopping": {"patience": None},
        "cache": {"views": 2},
        "phases": [
            {"name": "head", "epochs": 2, "learning_rates": [["head/.*", 1e-3], [".*", None]]},
            {"name": "finetune", "epochs": 2, "learning_rates": [["head/.*", 1e-3], ["block5_.*", 1e-4], [".*", None]]},
        ],
    },
}

# So that a view of a few pictures can be interrupted.
batches._PIXELS_AT_ONCE = 0


def merged(base: Any, changes: dict[str, Any]) -> Any:
    """Change nested dictionaries."""
    return base | {key: merged(base[key], new) if isinstance(base.get(key), dict) else new for key, new in changes.items()}


def config(folder: Path, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """What Trainer gets, with changes."""
    checked = schema.Config.model_validate(merged(BASE, changes or {}))
    own = checked.model_dump(mode="json", include={"model", "training", "augmentation"})
    return own | {"views_fingerprint": "1", "work_dir": str(folder / "work")}


def inputs(folder: Path) -> trainer.Inputs:
    """Pictures of three classes that can be told apart: 20 to train on, 7 to watch."""
    folder.mkdir(parents=True, exist_ok=True)

    def split(name: str, count: int) -> dataset.Split:
        random = np.random.default_rng(count)
        labels = [i % 3 for i in range(count)]
        pictures = [random.integers(80 * label, 80 * label + 90, (32, 32, 3), dtype=np.uint8) for label in labels]
        return write_split(folder / name, pictures, labels, 3)

    return trainer.Inputs(split("train", 20), split("eval", 7), None)


def train(folder: Path, changes: dict[str, Any] | None = None) -> trainer.Trained:
    """Train with the recipe above, changed."""
    return trainer.train(inputs(folder), config(folder, changes), None)


def cross_validate(
    folder: Path, changes: dict[str, Any] | None = None, count: int = 3, exchanged: bool = False
) -> folds.OutOfFold:
    """Cross-validate the recipe above, changed, on both splits, with pictures in pairs; exchanged, eval comes first."""
    given = inputs(folder)
    files = [*given.train.files, *given.evaluation.files]
    groups = [str(place // 6 * 3 + place % 3) for place in range(27)]
    if exchanged:
        files, groups = files[::-1], groups[20:] + groups[:20]
    pictures = dataset.read(files, 32, 32, ["0", "1", "2"])
    return folds.predict(given, pictures, groups, count, config(folder, changes))


def main() -> None:
    """Train, or cross-validate, say where that is, and write the weights, or the probabilities, down."""
    folder, changes = Path(sys.argv[1]), json.loads(sys.argv[2])
    callbacks._SECONDS_BETWEEN_LOOKS = 0.0
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s", force=True)
    if len(sys.argv) > 3:
        np.save(folder / "probabilities.npy", cross_validate(folder, changes, int(sys.argv[3])).probabilities)
    else:
        np.savez(folder / "weights.npz", *train(folder, changes).classifier.get_weights())


if __name__ == "__main__":
    main()
