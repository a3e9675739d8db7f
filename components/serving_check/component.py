"""ServingCheck: blesses an exported model that loads in a fresh process and answers as it was judged, or refuses it.

What keeps it from being asked (time that ran out, a process that was killed, no memory) is a failure, and no answer.
"""

from __future__ import annotations

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import component_spec, standard_artifacts, standard_component_specs

from components.serving_check import executor


class ServingCheckSpec(component_spec.ComponentSpec):
    """What is asked, about what, and the answer."""

    PARAMETERS = {  # noqa: RUF012 TFX reads a plain class attribute
        "code_fingerprint": component_spec.ExecutionParameter(type=str, optional=True),
    }
    INPUTS = {  # noqa: RUF012
        standard_component_specs.MODEL_KEY: component_spec.ChannelParameter(type=standard_artifacts.Model),
        executor.EVALUATION_KEY: component_spec.ChannelParameter(type=standard_artifacts.ModelEvaluation),
    }
    OUTPUTS = {  # noqa: RUF012
        standard_component_specs.BLESSING_KEY: component_spec.ChannelParameter(type=standard_artifacts.InfraBlessing),
    }


class ServingCheck(base_component.BaseComponent):
    """Asks the exported model what a server would, and compares the answers with the Evaluator's.

    Component `outputs` contains:
      - `blessing`: channel of type `standard_artifacts.InfraBlessing`, as InfraValidator makes it.
    """

    SPEC_CLASS = ServingCheckSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(self, model: types.BaseChannel, evaluation: types.BaseChannel, code_fingerprint: str | None = None):
        """Construct a ServingCheck.

        Args:
          model: channel of type `standard_artifacts.Model`.
          evaluation: channel of type `standard_artifacts.ModelEvaluation`, as ModelEvaluator makes it.
          code_fingerprint: of the code behind the executor; another one makes cached results stale.
        """
        super().__init__(
            ServingCheckSpec(
                model=model,
                evaluation=evaluation,
                code_fingerprint=code_fingerprint,
                blessing=types.Channel(type=standard_artifacts.InfraBlessing),
            )
        )
