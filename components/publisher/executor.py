"""Publisher's executor: what goes along with a model, and when there is something to publish at all."""

from __future__ import annotations

import datetime
import functools
import hashlib
import importlib.metadata
import json
import logging
import os
import subprocess
from pathlib import Path
from typing import Any

import tensorflow as tf
from tfx import types
from tfx.components.pusher import executor as pusher
from tfx.components.util import model_utils
from tfx.types import artifact_utils, standard_component_specs

from components.model_evaluator import gate, samples
from modules import signatures
from serving import files, model_info, versions, warmup

EVALUATION_KEY = standard_component_specs.EVALUATION_KEY
CONTAINER_BLESSING_KEY = "container_blessing"
DESTINATION_KEY = "destination"
RUN_ID_KEY = "run_id"

REVISION_VARIABLE = "FINETUNE_REVISION"
_DATA_FINGERPRINT = "input_fingerprint"
_log = logging.getLogger("finetune.components.publisher")


class Executor(pusher.Executor):
    """Publishes what every gate has blessed; what is published or rolled back already stays so."""

    def Do(  # noqa: N802 TFX's name
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Publish the model, if it is blessed.

        Args:
          input_dict: `model`, `examples`, `evaluation`, `model_blessing`, `infra_blessing` and, if TFX's InfraValidator ran,
            `container_blessing`.
          output_dict: `pushed_model`.
          exec_properties: `destination`, JSON of what `component.Publisher` takes; `run_id`.
        """
        pushed = artifact_utils.get_single_instance(output_dict[standard_component_specs.PUSHED_MODEL_KEY])
        container = input_dict.get(CONTAINER_BLESSING_KEY)
        blessed = self.CheckBlessing(input_dict)
        if not blessed or (container and not model_utils.is_infra_validated(container[0])):
            self._MarkNotPushed(pushed)
            return
        destination = json.loads(exec_properties[DESTINATION_KEY])
        store = versions.Versions(destination["folder"])
        model = self.GetModelPath(input_dict)
        digest = hashlib.sha256(json.dumps(files.digests(model)).encode()).hexdigest()
        name, base_path = destination["name"], destination["base_path"]
        number = _published(store, digest, name, base_path)
        if number is None:
            describe = functools.partial(_complete, input_dict, destination, exec_properties[RUN_ID_KEY], digest)
            number = store.publish(model, describe, name, base_path)
            if destination["keep"] is not None:
                gone = store.prune(destination["keep"])
                if gone:
                    _log.info("deleted by serving.keep = %d: %s", destination["keep"], ", ".join(map(str, gone)))
        elif number in store.withdrawn:
            _log.warning("version %d was rolled back and stays so; models rollback --to %d undoes that", number, number)
            self._MarkNotPushed(pushed)
            return
        else:
            store.keep_pointing(name, base_path)
        self._MarkPushed(pushed, store.path(number), str(number))


def _published(store: versions.Versions, digest: str, name: str, base_path: str | None) -> int | None:
    """The version that this very model has already, live or withdrawn by a rollback; None to publish it."""
    numbers, live = store.numbers(), store.live
    for number in reversed(numbers):
        info = model_info.read(store.path(number))
        if info is None or info.model_digest != digest:
            continue
        if number == live or number in store.withdrawn:
            return number
        if number != numbers[-1]:
            return None  # an older configuration is back: its model becomes the newest version
        # A publisher was killed between its last two steps.
        store.make_live(number, name, base_path)
        return number
    return None


def _complete(
    input_dict: dict[str, list[types.Artifact]],
    destination: dict[str, Any],
    run_id: str,
    digest: str,
    folder: str,
    number: int,
) -> None:
    """Add warm-up requests and `model_info.json` to a version that is being written."""
    evaluation = artifact_utils.get_single_instance(input_dict[EVALUATION_KEY])
    (model,), (examples,) = input_dict[standard_component_specs.MODEL_KEY], input_dict[standard_component_specs.EXAMPLES_KEY]
    kept = samples.read(evaluation.uri)
    pictures, records = [sample.image for sample in kept], [sample.example for sample in kept]
    warmup.write(folder, warmup.requests(destination["name"], pictures, records))
    preparation = signatures.read_preparation(folder)
    info = model_info.ModelInfo(
        version=number,
        published=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        name=destination["name"],
        labels=kept[0].labels,
        image=destination["image"] | {"preparation": preparation},
        metrics={check.metric: check.value for check in gate.read(evaluation.uri) if check.value is not None},
        git_revision=_revision(),
        config_fingerprint=destination["config_fingerprint"],
        data_fingerprint=examples.get_string_custom_property(_DATA_FINGERPRINT),
        lineage={"run": run_id, "model": str(model.id), "examples": str(examples.id), "evaluation": str(evaluation.id)},
        versions={"tensorflow": tf.__version__, "finetune": importlib.metadata.version("finetune")},
        warmup=[sample.probabilities.tolist() for sample in kept[: max(warmup.BATCH_SIZES)]],
        computed_in=kept[0].computed_in,
        model_digest=digest,
        files=files.digests(folder),
    )
    files.write(os.path.join(folder, model_info.FILE), info.model_dump_json(indent=1))


def _revision() -> str | None:
    """The revision of this project: what its image says, or what git does."""
    if revision := os.environ.get(REVISION_VARIABLE):
        return revision
    try:
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 a fixed command
    except (OSError, subprocess.CalledProcessError):
        return None
