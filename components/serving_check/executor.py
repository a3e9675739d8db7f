"""ServingCheck's executor: asks in a fresh process, and blesses what answers."""

from __future__ import annotations

import json
import logging
import os
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.dsl.io import fileio
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import io_utils, path_utils

from components.serving_check import probe
from serving import fresh

EVALUATION_KEY = standard_component_specs.EVALUATION_KEY
FAILURES_FILE = "failures.json"
BLESSED_PROPERTY = "blessed"
"""Of an InfraBlessing, 1 or 0, as TFX's InfraValidator has it."""

_SECONDS = 900.0
_log = logging.getLogger("finetune.components.serving_check")


class Executor(base_executor.BaseExecutor):
    """Loads the exported model as a server would, in a process that has seen nothing else."""

    def Do(  # noqa: N802 TFX's name
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Check the model.

        Args:
          input_dict: `model`, and `evaluation` with the samples.
          output_dict: `blessing`.
          exec_properties: nothing that matters here.

        Raises:
          fresh.NotJudgedError: it took too long, or something but the model failed.
        """
        model = path_utils.serving_model_path(artifact_utils.get_single_uri(input_dict[standard_component_specs.MODEL_KEY]))
        found = _judge(model, artifact_utils.get_single_uri(input_dict[EVALUATION_KEY]))
        for failure in found:
            _log.warning("the exported model can't be served: %s", failure)
        blessing = artifact_utils.get_single_instance(output_dict[standard_component_specs.BLESSING_KEY])
        io_utils.write_string_file(os.path.join(blessing.uri, FAILURES_FILE), json.dumps(found))
        blessing.set_int_custom_property(BLESSED_PROPERTY, int(not found))


def read_failures(folder: str) -> list[str]:
    """Read what was wrong with a model, a line each.

    Args:
      folder: URI of a `blessing` artifact.
    """
    with fileio.open(os.path.join(folder, FAILURES_FILE), "r") as opened:
        return json.loads(opened.read())


def _judge(model: str, evaluation: str) -> list[str]:
    """What is wrong with a model, a line each.

    That it does not load, or fails, is only believed where it does so again, in a process that could load another model.
    """
    first = fresh.ask(probe.__name__, model, evaluation, seconds=_SECONDS)
    if probe.WRONG in first.said:
        return first.said[probe.WRONG]
    _check_judged(first)
    _log.warning("the exported model does not load, or fails: %s; asked again beside a model of ours", _fault(first))
    second = fresh.ask(probe.__name__, model, evaluation, probe.WITH_REFERENCE, seconds=_SECONDS)
    if probe.REFERENCE not in second.said:
        raise fresh.NotJudgedError(f"a model of ours that is known to be good does not load here either: {_fault(second)}")
    if probe.WRONG in second.said:
        return second.said[probe.WRONG]
    _check_judged(second)
    return [_fault(second)]


def _check_judged(ended: fresh.Ended) -> None:
    if probe.NOT_JUDGED in ended.said:
        raise fresh.NotJudgedError(ended.said[probe.NOT_JUDGED])


def _fault(ended: fresh.Ended) -> str:
    """Why a process has no answer."""
    return ended.said.get(probe.BROKEN) or f"the process that loads it ended with {ended.fault or 'no answer'}"
