"""ModelEvaluator: TFX's Evaluator with the bounds of our gate."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow_model_analysis as tfma
from tfx import types
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import component_spec, standard_artifacts, standard_component_specs
from tfx.utils import json_utils

from components.cross_validator import scores
from components.cross_validator.component import CrossValidation
from components.model_evaluator import executor


class Predictions(types.Artifact):
    """What was said of each test picture: Parquet files with the columns of `predictions.SCHEMA`."""

    TYPE_NAME = "Predictions"


class ModelEvaluatorSpec(component_spec.ComponentSpec):
    """Evaluator's spec, with the bounds and the fingerprint of our code besides."""

    PARAMETERS = {  # noqa: RUF012 TFX reads a plain class attribute
        **standard_component_specs.EvaluatorSpec.PARAMETERS,
        executor.LIMITS_KEY: component_spec.ExecutionParameter(type=str),
        "code_fingerprint": component_spec.ExecutionParameter(type=str, optional=True),
    }
    INPUTS = {  # noqa: RUF012
        **standard_component_specs.EvaluatorSpec.INPUTS,
        scores.RESULT_KEY: component_spec.ChannelParameter(type=CrossValidation, optional=True),
    }
    OUTPUTS = {  # noqa: RUF012
        **standard_component_specs.EvaluatorSpec.OUTPUTS,
        executor.PREDICTIONS_KEY: component_spec.ChannelParameter(type=Predictions),
    }


class ModelEvaluator(base_beam_component.BaseBeamComponent):
    """Evaluates the exported model on raw test examples, against the model that is live, and blesses or refuses it.

    Component `outputs` contains:
      - `evaluation`: channel of type `standard_artifacts.ModelEvaluation`, with TFMA's results, `gate.json` and samples.
      - `blessing`: channel of type `standard_artifacts.ModelBlessing`.
      - `predictions`: channel of type `Predictions`, a row a test picture.
    """

    SPEC_CLASS = ModelEvaluatorSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self,
        examples: types.BaseChannel,
        example_splits: Sequence[str],
        model: types.BaseChannel,
        baseline_model: types.BaseChannel | None,
        cross_validation: types.BaseChannel | None,
        eval_config: tfma.EvalConfig,
        limits: Mapping[str, Any],
        code_fingerprint: str | None = None,
    ):
        """Construct a ModelEvaluator.

        Args:
          examples: channel of type `standard_artifacts.Examples`.
          example_splits: those that are evaluated on.
          model: channel of type `standard_artifacts.Model`, the candidate.
          baseline_model: channel of type `standard_artifacts.Model`, the model that is live; may resolve to nothing.
          cross_validation: channel of type `CrossValidation`; None where there was none.
          eval_config: the metrics; its thresholds must let every model pass.
          limits: values for `gate.Limits`.
          code_fingerprint: of the code behind the executor; another one makes cached results stale.
        """
        super().__init__(
            ModelEvaluatorSpec(
                examples=examples,
                example_splits=json_utils.dumps(list(example_splits)),
                model=model,
                baseline_model=baseline_model,
                cross_validation=cross_validation,
                eval_config=eval_config,
                limits=json.dumps(dict(limits)),
                code_fingerprint=code_fingerprint,
                evaluation=types.Channel(type=standard_artifacts.ModelEvaluation),
                blessing=types.Channel(type=standard_artifacts.ModelBlessing),
                predictions=types.Channel(type=Predictions),
            )
        )
