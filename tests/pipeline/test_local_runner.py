"""What happens before a run's first node; whole runs are in tests/e2e."""

from pathlib import Path

import pytest
from tfx.dsl.component.experimental.annotations import OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.orchestration import metadata
from tfx.orchestration import pipeline as tfx_pipeline
from tfx.types import standard_artifacts

from configs import schema
from modules import weights
from pipeline import local_runner
from tests.conftest import random_picture

DONE: list[str] = []


@component(use_beam=False)
def Worker(name: Parameter[str], made: OutputArtifact[standard_artifacts.String]) -> None:
    """Note that it worked."""
    made.value = name
    DONE.append(name)


def run(folder: Path, names: list[str]) -> list[str]:
    """Run a pipeline; return what was done, in order."""
    DONE.clear()
    connection = metadata.sqlite_metadata_connection_config(str(folder / "metadata.db"))
    pipeline = tfx_pipeline.Pipeline(
        "two",
        str(folder / "root"),
        components=[Worker(name=name).with_id(f"Worker{i}") for i, name in enumerate(names)],
        enable_cache=True,
        metadata_connection_config=connection,
    )
    local_runner.run(
        pipeline, connection, lambda status: None, schema.Beam(), local_runner.new_run_id(), lambda: DONE.append("prepared")
    )
    return list(DONE)


def test_what_is_prepared_is_so_once_before_the_first_node_that_has_work(tmp_path: Path) -> None:
    assert run(tmp_path, ["a", "b"]) == ["prepared", "a", "b"]
    assert run(tmp_path, ["a", "b"]) == []
    assert run(tmp_path, ["a", "c"]) == ["prepared", "c"]


def test_a_run_without_weights_ends_before_its_first_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError("no network")

    monkeypatch.setenv("FINETUNE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(weights, "_from_keras", refuse)
    monkeypatch.setattr(weights, "_from_wheel", refuse)
    for label in ("a", "b"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        (tmp_path / "pictures" / label / "1.png").write_bytes(random_picture(len(label)))
    config = schema.Config(data=schema.Data(source=str(tmp_path / "pictures")))
    states: list[str] = []
    with pytest.raises(local_runner.RunError, match="VGG16's ImageNet weights could not be had"):
        local_runner.run_locally(config, tmp_path / "run", lambda status: states.append(status.state))
    assert states == ["running"]
    assert not list((tmp_path / "run").glob("pipeline_root/ImageExampleGen/examples/*/Split-*"))
