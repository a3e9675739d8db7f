"""DataGate: ends a run before training if something speaks against its data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import component_spec, standard_artifacts, standard_component_specs

from components.data_gate import executor
from components.image_example_gen.component import Rejects


class DataVerdict(types.Artifact):
    """What the gate found, and what it keeps of data for comparison: labels and statistics.

    The custom property `accepted` is 1 if the data passed an enforcing gate, `allowed_findings` counts what the
    configuration let pass, and `statistics_id` is the artifact of the statistics that were judged.
    """

    TYPE_NAME = "DataVerdict"


class DataGateSpec(component_spec.ComponentSpec):
    """What the gate reads, its limits, and its verdict."""

    PARAMETERS = {  # noqa: RUF012 TFX reads a plain class attribute
        executor.LIMITS_KEY: component_spec.ExecutionParameter(type=str),
        executor.ENFORCE_KEY: component_spec.ExecutionParameter(type=int),
        "code_fingerprint": component_spec.ExecutionParameter(type=str, optional=True),
    }
    INPUTS = {  # noqa: RUF012
        standard_component_specs.STATISTICS_KEY: component_spec.ChannelParameter(type=standard_artifacts.ExampleStatistics),
        standard_component_specs.SCHEMA_KEY: component_spec.ChannelParameter(type=standard_artifacts.Schema),
        standard_component_specs.ANOMALIES_KEY: component_spec.ChannelParameter(type=standard_artifacts.ExampleAnomalies),
        executor.REJECTS_KEY: component_spec.ChannelParameter(type=Rejects),
        executor.BASELINE_KEY: component_spec.ChannelParameter(type=DataVerdict, optional=True),
    }
    OUTPUTS = {  # noqa: RUF012
        executor.VERDICT_KEY: component_spec.ChannelParameter(type=DataVerdict),
    }


class DataGate(base_component.BaseComponent):
    """Refuses data that ingestion, the schema, or the comparison with the data accepted last speaks against.

    Component `outputs` contains:
      - `verdict`: channel of type `DataVerdict`.
    """

    SPEC_CLASS = DataGateSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        statistics: types.BaseChannel,
        schema: types.BaseChannel,
        anomalies: types.BaseChannel,
        rejects: types.BaseChannel,
        baseline: types.BaseChannel | None,
        limits: Mapping[str, Any],
        enforce: bool = True,
        code_fingerprint: str | None = None,
    ):
        """Construct a DataGate.

        Args:
          statistics: channel of type `standard_artifacts.ExampleStatistics`, of the splits' descriptive features.
          schema: channel of type `standard_artifacts.Schema`.
          anomalies: channel of type `standard_artifacts.ExampleAnomalies`, of these statistics against this schema.
          rejects: channel of type `Rejects`.
          baseline: channel of type `DataVerdict`, of the data accepted last; may resolve to nothing.
          limits: values for `findings.Limits`.
          enforce: end the run if the data are refused; else only write the findings down.
          code_fingerprint: of the code behind the executor; another one makes cached results stale.
        """
        super().__init__(
            DataGateSpec(
                statistics=statistics,
                schema=schema,
                anomalies=anomalies,
                rejects=rejects,
                baseline=baseline,
                limits=json.dumps(dict(limits)),
                enforce=int(enforce),
                code_fingerprint=code_fingerprint,
                verdict=types.Channel(type=DataVerdict),
            )
        )
