"""A pipeline of small nodes that leaves in ML Metadata what the real one does, run by TFX's launcher night after night."""

import datetime
import os
from pathlib import Path

import ml_metadata as mlmd
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.orchestration import metadata
from tfx.orchestration import pipeline as tfx_pipeline
from tfx.types import standard_artifacts
from tfx.utils import path_utils

from components.data_gate.component import DataVerdict
from configs import schema
from pipeline import history, journal, local_runner, needs, outcome, retention
from pipeline.ending import Ending, Verdict
from serving import versions
from tests.serving.infos import write_info

PICTURES = 100_000
"""Bytes that each night's pictures take."""


@component(use_beam=False)
def Ingest(data: Parameter[str], examples: OutputArtifact[standard_artifacts.Examples]) -> None:
    """Copy the pictures."""
    if data == "broken":
        raise ValueError("broken")
    Path(examples.uri, "pictures").write_bytes(bytes(PICTURES))
    examples.set_int_custom_property("pictures", 100)
    examples.set_string_custom_property("input_fingerprint", data)


@component(use_beam=False)
def Gate(examples: InputArtifact[standard_artifacts.Examples], verdict: OutputArtifact[DataVerdict]) -> None:
    """Accept the data."""
    Path(verdict.uri, "labels").touch()
    verdict.set_int_custom_property("accepted", 1)


@component(use_beam=False)
def Train(
    examples: InputArtifact[standard_artifacts.Examples],
    rate: Parameter[str],
    model: OutputArtifact[standard_artifacts.Model],
) -> None:
    """Write a model that tells where it comes from."""
    exported = Path(path_utils.serving_model_dir(model.uri))
    exported.mkdir(parents=True)
    (exported / "saved_model.pb").write_text(f"{examples.uri} {rate}")


@component(use_beam=False)
def Push(
    model: InputArtifact[standard_artifacts.Model],
    run: Parameter[str],
    publish: Parameter[int],
    serving: Parameter[str],
    pushed_model: OutputArtifact[standard_artifacts.PushedModel],
) -> None:
    """Publish the model, if it passed."""
    Path(pushed_model.uri, "note").touch()
    if publish:
        number = versions.Versions(serving).publish(
            path_utils.serving_model_dir(model.uri),
            lambda folder, number: write_info(folder, number, name="ours", lineage={"run": run, "model": str(model.id)}),
            "ours",
        )
        pushed_model.set_string_custom_property("pushed_destination", f"{serving}/{number}")


class Nights:
    """A project's folder, and its nights; the working directory must be the folder.

    Args:
      folder: of the project.
      connection: of the metadata store; None takes a file in the folder.
    """

    def __init__(self, folder: Path, connection: journal.Connection | None = None):
        self.folder = folder
        self.connection = connection or metadata.sqlite_metadata_connection_config(str(folder / "metadata.db"))
        self.served = versions.Versions(str(folder / "serving"))
        self.root = "pipeline_root"
        self.states: dict[str, str] = {}

    @property
    def project(self) -> needs.Project:
        """What `retention` works on."""
        return needs.Project(self.connection, "ours", self.root, str(self.folder / "serving"))

    @property
    def store(self) -> mlmd.MetadataStore:
        return mlmd.MetadataStore(self.connection)

    def run(self, data: str, rate: str = "1", publish: bool = True, ends: bool = True) -> str:
        """Run a night; return its id. One that does not end is as if it had been killed after its last node."""
        run_id = local_runner.new_run_id()
        journal.note_start(self.connection, run_id, history.start_of(self._config(rate)))
        begun, verdict, reason = datetime.datetime.now(datetime.UTC), Verdict.REFUSED, "not good enough"
        try:
            self._launch(data, rate, run_id, publish)
        except local_runner.RunError as error:
            verdict, reason = Verdict.FAILED, str(error)
        else:
            verdict, reason = (Verdict.PUBLISHED, "") if publish else (verdict, reason)
        version = self.served.live if verdict == Verdict.PUBLISHED else None
        if ends:
            ending = Ending(pipeline="ours", run=run_id, verdict=verdict, reason=reason, version=version)
            journal.note_end(self.connection, ending, begun)
        return run_id

    def check(self, data: str) -> None:
        """Only look at data, as `finetune data check` does."""
        ingest = Ingest(data=data)
        gate = Gate(examples=ingest.outputs["examples"])
        self._run([ingest, gate], local_runner.new_run_id())

    def clean(self, keep_runs: int = 2, alone: bool = True) -> list[str]:
        """Clean; return what was deleted."""
        gone: list[str] = []
        retention.clean(self.project, keep_runs, alone, lambda one, size: gone.append(os.path.relpath(one.path)))
        return gone

    def examples(self, run_id: str) -> Path:
        """Where a night's pictures are, or were."""
        return Path(outcome.read_outputs(self.connection, run_id)["Ingest", "examples"].uri, "pictures")

    def model(self, run_id: str) -> Path:
        """Where a night's model is, or was."""
        return Path(path_utils.serving_model_dir(outcome.read_outputs(self.connection, run_id)["Train", "model"].uri))

    def bytes(self) -> int:
        """All that lies in the folder for artifacts."""
        return sum(path.stat().st_size for path in Path(self.root).rglob("*") if path.is_file())

    def _launch(self, data: str, rate: str, run_id: str, publish: bool) -> None:
        ingest = Ingest(data=data)
        gate = Gate(examples=ingest.outputs["examples"])
        train = Train(examples=ingest.outputs["examples"], rate=rate)
        train.add_upstream_node(gate)
        push = Push(model=train.outputs["model"], run=run_id, publish=int(publish), serving=str(self.folder / "serving"))
        self._run([ingest, gate, train, push], run_id)

    def _run(self, nodes: list, run_id: str) -> None:
        pipeline = tfx_pipeline.Pipeline(
            "ours",
            self.root,
            components=nodes,
            enable_cache=True,
            metadata_connection_config=self.connection,
        )

        def note(status: local_runner.NodeStatus) -> None:
            self.states[status.node_id] = status.state

        local_runner.run(pipeline, self.connection, note, schema.Beam(), run_id)

    @staticmethod
    def _config(rate: str) -> schema.Config:
        return schema.Config(name="ours", training=schema.Training(batch_size=int(rate)))
