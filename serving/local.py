"""Answers for pictures from an exported model on disk, the way TensorFlow Serving would."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from modules import signatures


class ModelError(ValueError):
    """A folder that holds no exported model."""


def find_version(folder: Path) -> Path:
    """Return the folder of a SavedModel: the given one, or the highest version below it.

    Args:
      folder: a SavedModel, or what TensorFlow Serving watches: a folder with one numbered subfolder a version.

    Raises:
      ModelError: there is none.
    """
    if (folder / "saved_model.pb").is_file():
        return folder
    versions = [path for path in folder.glob("*/saved_model.pb") if path.parent.name.isdigit()]
    if not versions:
        what = "no such folder" if not folder.is_dir() else "no SavedModel here and no numbered version below"
        raise ModelError(f"{folder}: {what}; expected what a run pushed, e.g. OUTPUT_DIR/serving")
    return max(versions, key=lambda path: int(path.parent.name)).parent


class LocalModel:
    """An exported model, loaded.

    Args:
      folder: as for `find_version`.
    """

    def __init__(self, folder: Path):
        version = find_version(folder)
        # The signatures live as long as the loaded object does.
        self._loaded: Any = tf.saved_model.load(str(version))
        self.preparation: dict[str, Any] = signatures.read_preparation(str(version))
        """Keyword arguments of `modules.images.prepare` that make of a file what the model was trained on."""

    def predict(self, encoded: Sequence[bytes]) -> list[dict[str, float]]:
        """Return the probability of every label for each picture.

        Args:
          encoded: pictures as `modules.images.prepare` makes them.

        Returns:
          For each picture its labels with their probabilities, most probable first.
        """
        answer = self._loaded.signatures["serving_default"](image=tf.constant(list(encoded)))
        names = [name.decode() for name in answer["all_classes"][0].numpy()]
        return [
            {names[index]: float(row[index]) for index in np.argsort(-row, kind="stable")}
            for row in answer["probabilities"].numpy()
        ]
