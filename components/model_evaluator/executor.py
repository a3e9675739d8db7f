"""What the Evaluator does: TFX's own evaluation, then every bound of the gate on what it found."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from typing import Any

import tensorflow_model_analysis as tfma
from tfx import types
from tfx.components.evaluator import constants
from tfx.components.evaluator import executor as tfx_executor
from tfx.dsl.io import fileio
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import io_utils, path_utils

from components.cross_validator import scores
from components.model_evaluator import extractors, gate, latency, samples, targets
from components.model_evaluator.measured import Measured, Tally, megabytes_below
from modules import devices, features

LIMITS_KEY, PREDICTIONS_KEY = "limits", "predictions"
ACCURACY = gate.ACCURACY
TOP_K = "top_{}_accuracy"
"""Names of the metrics in TFMA's configuration and results."""

_EXAMPLE_COUNT = "example_count"
_log = logging.getLogger("finetune.components.model_evaluator")


class Executor(tfx_executor.Executor):
    """TFX's Evaluator, whose blessing follows from our gate: TFMA knows no recall of a class, no interval and no size."""

    def Do(  # noqa: N802 TFX's name
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Evaluate the model, judge it, and bless or refuse it.

        Args:
          input_dict: as TFX's Evaluator has it, and `cross_validation` where there was one.
          output_dict: `evaluation`, with TFMA's results, the gate's table and some pictures with predictions; `predictions`,
            a row a test picture; `blessing`.
          exec_properties: as TFX's Evaluator has them, and `limits`, the JSON of `gate.Limits`.

        Raises:
          ValueError: there are no test pictures.
          fresh.NotJudgedError: the latency could not be measured.
        """
        limits = gate.Limits(**json.loads(exec_properties[LIMITS_KEY]))
        evaluation = artifact_utils.get_single_uri(output_dict[standard_component_specs.EVALUATION_KEY])
        into = targets.Targets(evaluation, artifact_utils.get_single_uri(output_dict[PREDICTIONS_KEY]))
        with targets.kept_in(into), devices.full_float32():
            super().Do(
                input_dict, output_dict, exec_properties | {standard_component_specs.MODULE_PATH_KEY: extractors.__name__}
            )
        kept = samples.read(evaluation)
        if not kept:
            raise ValueError("the test split is empty: there is nothing to judge the model on; see data.splits")
        baseline = None
        if before := input_dict.get(standard_component_specs.BASELINE_MODEL_KEY):
            baseline = _measure(evaluation, tfma.BASELINE_KEY, _saved_model(before), limits, kept[0].baseline_labels)
        # TFMA names the candidate only where there is a baseline to tell it from.
        name, model = tfma.CANDIDATE_KEY if baseline else "", _saved_model(input_dict[standard_component_specs.MODEL_KEY])
        validated = input_dict.get(scores.RESULT_KEY)
        over_folds = scores.read(artifact_utils.get_single_uri(validated)) if validated else None
        checks = gate.judge(limits, _measure(evaluation, name, model, limits, kept[0].labels), baseline, over_folds)
        gate.write(evaluation, checks)
        for check in checks:
            if not check.passed:
                _log.warning("refused: %s", check.line)
        _bless(output_dict[standard_component_specs.BLESSING_KEY], all(check.passed for check in checks))


def _saved_model(artifacts: list[types.Artifact]) -> str:
    return path_utils.serving_model_path(artifact_utils.get_single_uri(artifacts))


def _measure(
    evaluation: str,
    name: str,
    saved_model: str,
    limits: gate.Limits,
    labels: Sequence[str],
) -> Measured:
    """Collect what TFMA found of one model, and what can be seen of it on disk."""
    latency_ms = None
    if limits.max_latency_ms is not None:
        latency_ms = latency.measure(saved_model, evaluation)
    return Measured(
        tallies=_tallies(evaluation, name, [int(k) for k in limits.min_top_k_accuracy]),
        labels=frozenset(labels),
        megabytes=megabytes_below(saved_model),
        latency_ms=latency_ms,
    )


def _tallies(evaluation: str, name: str, ks: Sequence[int]) -> dict[str, Tally]:
    """How a model fared by label, from TFMA's shares in the slice of each."""
    tallies = {}
    for metrics in tfma.load_metrics(evaluation):
        keys = metrics.slice_key.single_slice_keys
        if not keys or keys[0].column != features.LABEL:
            continue
        found = {
            item.key.name: item.value.double_value.value
            for item in metrics.metric_keys_and_values
            if item.value.HasField("double_value") and item.key.model_name == name and not item.key.is_diff
        }
        pictures = round(found[_EXAMPLE_COUNT])
        tallies[keys[0].bytes_value.decode()] = Tally(
            pictures,
            round(found[ACCURACY] * pictures),
            {k: round(found[TOP_K.format(k)] * pictures) for k in ks},
        )
    return tallies


def _bless(artifacts: list[types.Artifact], passed: bool) -> None:
    """Put the gate's word in the place of TFX's, whose bounds let every model pass."""
    blessing = artifact_utils.get_single_instance(artifacts)
    path = os.path.join(blessing.uri, constants.BLESSED_FILE_NAME)
    if not passed and fileio.exists(path):
        fileio.remove(path)
    if not passed:
        io_utils.write_string_file(os.path.join(blessing.uri, constants.NOT_BLESSED_FILE_NAME), "")
    value = constants.BLESSED_VALUE if passed else constants.NOT_BLESSED_VALUE
    blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_BLESSED_KEY, value)
