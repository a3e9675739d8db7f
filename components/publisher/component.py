"""Publisher: Pusher with our executor, and what that wants to know besides."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.orchestration import data_types
from tfx.types import component_spec, standard_artifacts, standard_component_specs

from components.publisher import executor

_BLESSING = component_spec.ChannelParameter(type=standard_artifacts.InfraBlessing, optional=True)


class PublisherSpec(component_spec.ComponentSpec):
    """Pusher's spec, with what is written down of a model besides."""

    PARAMETERS = {  # noqa: RUF012 TFX reads a plain class attribute
        executor.DESTINATION_KEY: component_spec.ExecutionParameter(type=str),
        executor.RUN_ID_KEY: component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {  # noqa: RUF012
        **standard_component_specs.PusherSpec.INPUTS,
        standard_component_specs.EXAMPLES_KEY: component_spec.ChannelParameter(type=standard_artifacts.Examples),
        executor.EVALUATION_KEY: component_spec.ChannelParameter(type=standard_artifacts.ModelEvaluation),
        executor.BASELINE_KEY: component_spec.ChannelParameter(type=standard_artifacts.Model, optional=True),
        executor.CONTAINER_BLESSING_KEY: _BLESSING,
    }
    OUTPUTS = standard_component_specs.PusherSpec.OUTPUTS


class Publisher(base_component.BaseComponent):
    """Makes a blessed model a version that TensorFlow Serving finds.

    It runs in every run, since the folder of versions may have changed by other hands, and does nothing where the model is
    published already.

    Component `outputs` contains:
      - `pushed_model`: channel of type `standard_artifacts.PushedModel`.
    """

    SPEC_CLASS = PublisherSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        model: types.BaseChannel,
        examples: types.BaseChannel,
        evaluation: types.BaseChannel,
        model_blessing: types.BaseChannel,
        infra_blessing: types.BaseChannel,
        baseline_model: types.BaseChannel,
        destination: Mapping[str, Any],
        run_id: str | data_types.RuntimeParameter,
        container_blessing: types.BaseChannel | None = None,
    ):
        """Construct a Publisher.

        Args:
          model: channel of type `standard_artifacts.Model`.
          examples: channel of type `standard_artifacts.Examples`, for the lineage.
          evaluation: channel of type `standard_artifacts.ModelEvaluation`, as ModelEvaluator makes it.
          model_blessing: channel of type `standard_artifacts.ModelBlessing`.
          infra_blessing: channel of type `standard_artifacts.InfraBlessing`, of ServingCheck.
          baseline_model: channel of type `standard_artifacts.Model`, what the model was judged against; may resolve to
            nothing.
          destination: `folder` of the versions; `name` of the model at the server; `base_path`, the folder as the server
            sees it, or None; `keep`, how many versions stay, or None; `grace_seconds`, how long one stays that was live;
            `endpoint` of a server that has to serve the version within `wait_seconds`, or None; `image` and
            `config_fingerprint`, for `model_info.json`.
          run_id: differs from run to run.
          container_blessing: channel of type `standard_artifacts.InfraBlessing`, of TFX's InfraValidator.
        """
        super().__init__(
            PublisherSpec(
                model=model,
                examples=examples,
                evaluation=evaluation,
                model_blessing=model_blessing,
                infra_blessing=infra_blessing,
                baseline_model=baseline_model,
                container_blessing=container_blessing,
                destination=json.dumps(dict(destination)),
                run_id=run_id,
                pushed_model=types.Channel(type=standard_artifacts.PushedModel),
            )
        )
