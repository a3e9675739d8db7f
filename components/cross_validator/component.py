"""CrossValidator: accuracy that few pictures can tell, from all of train and eval, and labels that may be wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import component_spec, standard_artifacts, standard_component_specs

from components.cross_validator import executor, scores


class CrossValidation(types.Artifact):
    """What cross-validation found: `scores.json`, `suspects.csv`, and `answers.parquet`, a row a picture."""

    TYPE_NAME = "CrossValidation"


class CrossValidatorSpec(component_spec.ComponentSpec):
    """What is divided, the recipe, and what is found."""

    PARAMETERS = {  # noqa: RUF012 TFX reads a plain class attribute
        executor.FOLDS_KEY: component_spec.ExecutionParameter(type=int),
        standard_component_specs.CUSTOM_CONFIG_KEY: component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {  # noqa: RUF012
        standard_component_specs.EXAMPLES_KEY: component_spec.ChannelParameter(type=standard_artifacts.Examples),
        standard_component_specs.TRANSFORM_GRAPH_KEY: component_spec.ChannelParameter(
            type=standard_artifacts.TransformGraph
        ),
    }
    OUTPUTS = {  # noqa: RUF012
        scores.RESULT_KEY: component_spec.ChannelParameter(type=CrossValidation),
    }


class CrossValidator(base_component.BaseComponent):
    """Trains once for each fold without it, and has it answered.

    Component `outputs` contains:
      - `cross_validation`: channel of type `CrossValidation`.
    """

    SPEC_CLASS = CrossValidatorSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self, examples: types.BaseChannel, transform_graph: types.BaseChannel, folds: int, custom_config: Mapping[str, Any]
    ):
        """Construct a CrossValidator.

        Args:
          examples: channel of type `standard_artifacts.Examples`, of ImageExampleGen.
          transform_graph: channel of type `standard_artifacts.TransformGraph`.
          folds: how many, 2 or more.
          custom_config: as `modules.trainer.run_fn` gets it, with the fingerprint of the code behind the executor.
        """
        super().__init__(
            CrossValidatorSpec(
                examples=examples,
                transform_graph=transform_graph,
                folds=folds,
                custom_config=json.dumps(dict(custom_config), sort_keys=True),
                cross_validation=types.Channel(type=CrossValidation),
            )
        )
