"""Publisher's executor: what goes along with a model, and when there is something to publish at all."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import json
import logging
import os
from typing import Any

import tensorflow as tf
from tfx import types
from tfx.components.pusher import executor as pusher
from tfx.components.util import model_utils
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import path_utils

from components.model_evaluator import gate, samples
from configs import revision
from modules import signatures
from serving import arrival, files, model_info, versions, warmup

BASELINE_KEY = standard_component_specs.BASELINE_MODEL_KEY
EVALUATION_KEY = standard_component_specs.EVALUATION_KEY
CONTAINER_BLESSING_KEY = "container_blessing"
DESTINATION_KEY = "destination"
RUN_ID_KEY = "run_id"

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
          input_dict: `model`, `examples`, `evaluation`, `model_blessing`, `infra_blessing`; `baseline_model`, if the model
            was judged against one; `container_blessing`, if TFX's InfraValidator ran.
          output_dict: `pushed_model`.
          exec_properties: `destination`, JSON of what `component.Publisher` takes; `run_id`.

        Raises:
          versions.SupersededError: another model is served by now than this one was judged against.
          arrival.NotServedError: no server is known to serve it; the version before is live again.
          versions.TornError: somebody changed the version while it was written.
        """
        pushed = artifact_utils.get_single_instance(output_dict[standard_component_specs.PUSHED_MODEL_KEY])
        destination = json.loads(exec_properties[DESTINATION_KEY])
        store = versions.Versions(destination["folder"])
        store.describe(destination["name"], destination["base_path"])
        container = input_dict.get(CONTAINER_BLESSING_KEY)
        if not self.CheckBlessing(input_dict) or (container and not model_utils.is_infra_validated(container[0])):
            self._MarkNotPushed(pushed)
            return
        baseline = input_dict.get(BASELINE_KEY)
        try:
            number = store.publish(
                self.GetModelPath(input_dict),
                functools.partial(_complete, input_dict, destination, exec_properties[RUN_ID_KEY]),
                destination["name"],
                destination["base_path"],
                model_info.digest(path_utils.serving_model_path(baseline[0].uri)) if baseline else None,
                awaited=destination["endpoint"] is not None,
            )
        except versions.WithdrawnError as error:
            what = f"version {error.number} was rolled back and stays so"
            _log.warning("%s; models rollback --to %d undoes that, while it is there", what, error.number)
            self._MarkNotPushed(pushed)
            return
        if destination["endpoint"] is not None:
            _wait(store, number, destination, artifact_utils.get_single_uri(input_dict[EVALUATION_KEY]))
        _prune(store, destination)
        self._MarkPushed(pushed, store.path(number), str(number))


def _wait(store: versions.Versions, number: int, destination: dict[str, Any], evaluation: str) -> None:
    """Have a server serve a version, or go back to the one before."""
    try:
        sample = samples.read(evaluation)[0]
        arrival.wait(destination["endpoint"], number, destination["wait_seconds"], sample.image, sample.labels)
    except Exception as error:
        # Whatever went wrong, nobody knows that it is served.
        before = store.retreat(number)
        _prune(store, destination)
        found = error if isinstance(error, arrival.NotServedError) else f"{type(error).__name__}: {error}"
        back = f"version {before} is live again" if before else "there is no version to go back to"
        raise arrival.NotServedError(f"{found}; {back}") from error
    store.confirm(number)


def _prune(store: versions.Versions, destination: dict[str, Any]) -> None:
    """Delete what the configuration has no room for."""
    if destination["keep"] is not None and (gone := store.prune(destination["keep"], destination["grace_seconds"])):
        _log.info("deleted by serving.keep = %d: %s", destination["keep"], ", ".join(map(str, gone)))


def _complete(
    input_dict: dict[str, list[types.Artifact]],
    destination: dict[str, Any],
    run_id: str,
    folder: str,
    number: int,
) -> None:
    """Add warm-up requests and `model_info.json` to a version that is being written."""
    digest = model_info.digest(folder)
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
        git_revision=revision.revision(),
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
