"""RunReport: the page on which a person sees what became of a run."""

from __future__ import annotations

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.orchestration import data_types
from tfx.types import component_spec, standard_artifacts

from components.run_report import executor


class Report(types.Artifact):
    """The page of a run: `report.html`."""

    TYPE_NAME = "Report"


class RunReportSpec(component_spec.ComponentSpec):
    """What comes before, and what is made."""

    PARAMETERS = {  # noqa: RUF012 TFX reads a plain class attribute
        executor.SERVING_DIR_KEY: component_spec.ExecutionParameter(type=str),
        executor.PICTURES_KEY: component_spec.ExecutionParameter(type=int),
        executor.RUN_ID_KEY: component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {  # noqa: RUF012
        executor.PUSHED_MODEL_KEY: component_spec.ChannelParameter(type=standard_artifacts.PushedModel),
    }
    OUTPUTS = {  # noqa: RUF012
        executor.REPORT_KEY: component_spec.ChannelParameter(type=Report),
    }


class RunReport(base_component.BaseComponent):
    """Writes the page of a run that came to its end; in every run, and whatever goes wrong with it changes nothing else.

    Component `outputs` contains:
      - `report`: channel of type `Report`.
    """

    SPEC_CLASS = RunReportSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        pushed_model: types.BaseChannel,
        serving_dir: str,
        pictures: bool,
        run_id: str | data_types.RuntimeParameter,
    ):
        """Construct a RunReport.

        Args:
          pushed_model: channel of type `standard_artifacts.PushedModel`: what the page is about has been done.
          serving_dir: folder of the versions.
          pictures: whether the page may show some.
          run_id: differs from run to run.
        """
        super().__init__(
            RunReportSpec(
                pushed_model=pushed_model,
                serving_dir=serving_dir,
                pictures=int(pictures),
                run_id=run_id,
                report=types.Channel(type=Report),
            )
        )
