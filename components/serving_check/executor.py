"""ServingCheck's executor: asks in a fresh process, and blesses what answers."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.dsl.io import fileio
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import io_utils, path_utils

from components.serving_check import probe
from configs import environment

EVALUATION_KEY = standard_component_specs.EVALUATION_KEY
FAILURES_FILE = "failures.json"

_BLESSED_PROPERTY = "blessed"  # 1 or 0, as InfraValidator has it
_SECONDS = 900
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
        """
        model = path_utils.serving_model_path(artifact_utils.get_single_uri(input_dict[standard_component_specs.MODEL_KEY]))
        found = _ask(model, artifact_utils.get_single_uri(input_dict[EVALUATION_KEY]))
        for failure in found:
            _log.warning("the exported model can't be served: %s", failure)
        blessing = artifact_utils.get_single_instance(output_dict[standard_component_specs.BLESSING_KEY])
        io_utils.write_string_file(os.path.join(blessing.uri, FAILURES_FILE), json.dumps(found))
        blessing.set_int_custom_property(_BLESSED_PROPERTY, int(not found))


def read_failures(folder: str) -> list[str]:
    """Read what was wrong with a model, a line each.

    Args:
      folder: URI of a `blessing` artifact.
    """
    with fileio.open(os.path.join(folder, FAILURES_FILE), "r") as opened:
        return json.loads(opened.read())


def _ask(model: str, evaluation: str) -> list[str]:
    command = [sys.executable, "-m", probe.__name__, model, evaluation]
    variables = dict(os.environ)
    environment.hide_gpus(variables)
    try:
        done = subprocess.run(  # noqa: S603 a fixed command
            command,
            env=variables,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [f"no answer within {_SECONDS} s"]
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        return [f"the process that loads it ended with {done.returncode}: {last}"]
    return json.loads(done.stdout.splitlines()[-1])
