"""Answers for pictures from an exported model on disk, the way TensorFlow Serving would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modules import signatures
from serving import contract, versions


class ModelError(ValueError):
    """A folder that holds no exported model."""


def find_version(folder: Path) -> Path:
    """Return the folder of a SavedModel: the given one, or that of the live, else the highest version below it.

    Args:
      folder: a SavedModel, or what TensorFlow Serving watches: a folder with one numbered subfolder a version.

    Raises:
      ModelError: there is none.
    """
    if (folder / "saved_model.pb").is_file():
        return folder
    store = versions.Versions(str(folder))
    numbers = store.numbers()
    if not numbers:
        what = "no such folder" if not folder.is_dir() else "no SavedModel here and no numbered version below"
        raise ModelError(f"{folder}: {what}; expected what a run published, e.g. OUTPUT_DIR/serving")
    live = store.live
    return folder / str(live if live in numbers else numbers[-1])


class LocalModel:
    """An exported model, loaded.

    Args:
      folder: as for `find_version`.
    """

    def __init__(self, folder: Path):
        import tensorflow as tf

        # The signatures live as long as the loaded object does.
        self._loaded: Any = tf.saved_model.load(str(find_version(folder)))

    def signature_names(self) -> set[str]:
        """Return the signatures of the model."""
        return set(self._loaded.signatures)

    def outputs(self, values: Sequence[bytes], signature: str = signatures.SERVING_DEFAULT) -> dict[str, np.ndarray]:
        """Return all outputs for a batch, by name.

        Args:
          values: encoded pictures, or serialised tf.Examples for the signature `examples`.
          signature: of the model.
        """
        import tensorflow as tf

        answer = self._loaded.signatures[signature](**{contract.INPUTS[signature]: tf.constant(list(values))})
        return {key: value.numpy() for key, value in answer.items()}

    def ask(self, values: Sequence[bytes], signature: str = signatures.SERVING_DEFAULT) -> contract.Answer:
        """Return the answer to a batch, as a server would.

        Args:
          values: as for `outputs`.
          signature: of the model.

        Raises:
          contract.ServingError: the model can't answer this batch.
        """
        import tensorflow as tf

        try:
            return answer_of(self.outputs(values, signature))
        except tf.errors.OpError as error:
            raise contract.ServingError(" ".join(error.message.split()), fatal=False) from None


def answer_of(outputs: Mapping[str, np.ndarray]) -> contract.Answer:
    """Return the answer that a model's outputs hold."""
    names = [name.decode() for name in outputs[signatures.ALL_CLASSES][0]]
    return contract.Answer(outputs[signatures.PROBABILITIES], names)
