"""What is moved, deleted or no longer known, with a real metadata store of files."""

from pathlib import Path

import ml_metadata as mlmd
import pytest
from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration import metadata

from pipeline import place

LIVE, DELETED = metadata_store_pb2.Artifact.LIVE, metadata_store_pb2.Artifact.DELETED


class Project:
    """A folder with a metadata store, and artifacts of the pipeline `ours`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.connection = metadata.sqlite_metadata_connection_config(str(folder / "metadata.db"))
        self.store = mlmd.MetadataStore(self.connection)
        type_id = self.store.put_context_type(metadata_store_pb2.ContextType(name="pipeline"))
        (self.context,) = self.store.put_contexts([metadata_store_pb2.Context(type_id=type_id, name="ours")])

    def add(self, uri: str, kind: str = "Model", there: bool = True, **properties: int) -> int:
        if there and "://" not in uri:
            path = self.folder / uri
            path.mkdir(parents=True, exist_ok=True)
            (path / "file").write_text("something")
        type_id = self.store.put_artifact_type(metadata_store_pb2.ArtifactType(name=kind))
        artifact = metadata_store_pb2.Artifact(type_id=type_id, uri=uri, state=LIVE)
        for key, value in properties.items():
            artifact.custom_properties[key].int_value = value
        (artifact_id,) = self.store.put_artifacts([artifact])
        attribution = metadata_store_pb2.Attribution(artifact_id=artifact_id, context_id=self.context)
        self.store.put_attributions_and_associations([attribution], [])
        return artifact_id

    def artifact(self, artifact_id: int) -> metadata_store_pb2.Artifact:
        (found,) = self.store.get_artifacts_by_id([artifact_id])
        return found


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_whole_paths_of_earlier_versions_become_relative_wherever_they_lay(project: Project) -> None:
    given = {
        "/old/pipeline_root/place/pipeline_root/Trainer/model/8": "pipeline_root/Trainer/model/8",
        f"{project.folder}/pipeline_root/Trainer/model/9": "pipeline_root/Trainer/model/9",
        "pipeline_root/Trainer/model/10": "pipeline_root/Trainer/model/10",
        "gs://bucket/pipeline_root/Trainer/model/11": "gs://bucket/pipeline_root/Trainer/model/11",
        "/elsewhere/model": "/elsewhere/model",
    }
    ids = [project.add(uri, there=False) for uri in given]
    for _ in range(2):
        place.make_relative(project.connection)
        assert [project.artifact(one).uri for one in ids] == list(given.values())


def test_what_somebody_deleted_is_written_down_and_the_rest_is_left(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    kept = project.add("pipeline_root/Trainer/model/1")
    gone = project.add("pipeline_root/Trainer/model/2", there=False)
    emptied = project.add("pipeline_root/Transform/examples/3")
    (project.folder / "pipeline_root/Transform/examples/3/file").unlink()
    pushed = project.add("pipeline_root/Pusher/pushed_model/4", kind="PushedModel", there=False)
    unlogged = project.add("pipeline_root/Trainer/model_run/6", kind="ModelRun", there=False)
    remote = project.add("gs://bucket/model/5")
    with place.inside(str(project.folder)):
        found = place.note_deleted(project.connection, "ours")
        assert place.note_deleted(project.connection, "ours") == []
        assert place.note_deleted(project.connection, "theirs") == []
    assert found == ["pipeline_root/Trainer/model/2", "pipeline_root/Transform/examples/3"]
    assert [project.artifact(one).state for one in (kept, gone, emptied, pushed, unlogged, remote)] == [
        LIVE,
        DELETED,
        DELETED,
        LIVE,
        LIVE,
        LIVE,
    ]
    assert "deleted by hand, and made again where it is needed: pipeline_root/Trainer/model/2" in caplog.text


def test_artifacts_of_which_no_metadata_is_left_are_set_aside(tmp_path: Path) -> None:
    (tmp_path / "pipeline_root" / "Trainer").mkdir(parents=True)
    place.set_orphans_aside(str(tmp_path), has_metadata=True)
    assert [path.name for path in tmp_path.iterdir()] == ["pipeline_root"]
    place.set_orphans_aside(str(tmp_path), has_metadata=False)
    (aside,) = tmp_path.iterdir()
    assert aside.name.startswith("pipeline_root.orphaned-")
    assert (aside / "Trainer").is_dir()
    place.set_orphans_aside(str(tmp_path), has_metadata=False)
