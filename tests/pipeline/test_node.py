"""What a node on Beam is given, and what is left of its workers."""

from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import GoogleCloudOptions
from tfx.dsl.component.experimental.annotations import BeamComponentParameter, OutputArtifact
from tfx.dsl.component.experimental.decorators import component
from tfx.orchestration import metadata
from tfx.orchestration import pipeline as tfx_pipeline
from tfx.types import standard_artifacts

from configs import schema
from pipeline import local_runner, node

JOBS: list[str] = []


@component(use_beam=True)
def OnBeam(
    made: OutputArtifact[standard_artifacts.String], beam_pipeline: BeamComponentParameter[beam.Pipeline] = None
) -> None:
    """Note what Beam was told."""
    made.value = "x"
    JOBS.append(beam_pipeline.options.view_as(GoogleCloudOptions).job_name)


def test_beam_s_arguments_reach_it(tmp_path: Path) -> None:
    connection = metadata.sqlite_metadata_connection_config(str(tmp_path / "metadata.db"))
    pipeline = tfx_pipeline.Pipeline(
        "one", str(tmp_path / "root"), components=[OnBeam()], metadata_connection_config=connection
    )
    arguments = schema.Beam(args=("--job_name=ours",))
    local_runner.run(pipeline, connection, lambda status: None, arguments, local_runner.new_run_id())
    assert JOBS == ["ours"]


def test_what_sinks_of_lost_workers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = ["Split-train/stats.pb", "own/beam.txt", "a/b/c/beam-temp-1/x"]
    for path in [*kept, "beam-temp-1/x", "Split-train/beam-temp-stats.pb-2/x", "a/b/beam-temp-3/y"]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    node.remove_temporaries([str(tmp_path)])
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)
