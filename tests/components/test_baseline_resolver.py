import ml_metadata as mlmd
import pytest
from ml_metadata.proto import metadata_store_pb2
from tfx.types import standard_artifacts

from components.baseline_resolver.strategy import LatestBlessedBaselineStrategy


class Store:
    """A metadata store in memory, with models of two pipelines."""

    def __init__(self) -> None:
        config = metadata_store_pb2.ConnectionConfig()
        config.fake_database.SetInParent()
        self.store = mlmd.MetadataStore(config)
        context_type = self.store.put_context_type(metadata_store_pb2.ContextType(name="pipeline"))
        self.model_type = self.store.put_artifact_type(metadata_store_pb2.ArtifactType(name="Model"))
        self.pipelines = self.store.put_contexts(
            [metadata_store_pb2.Context(type_id=context_type, name=name) for name in ("ours", "theirs")]
        )
        self.models: list[standard_artifacts.Model] = []
        self.blessings: list[standard_artifacts.ModelBlessing] = []

    def model(self, pipeline: int = 0) -> standard_artifacts.Model:
        (model_id,) = self.store.put_artifacts([metadata_store_pb2.Artifact(type_id=self.model_type)])
        attribution = metadata_store_pb2.Attribution(artifact_id=model_id, context_id=self.pipelines[pipeline])
        self.store.put_attributions_and_associations([attribution], [])
        model = standard_artifacts.Model()
        model.id = model_id
        self.models.append(model)
        return model

    def judge(self, model: standard_artifacts.Model, blessed: bool) -> None:
        blessing = standard_artifacts.ModelBlessing()
        blessing.id = 1000 + len(self.blessings)
        blessing.set_int_custom_property("blessed", int(blessed))
        blessing.set_int_custom_property("current_model_id", model.id)
        self.blessings.append(blessing)

    def baseline_of(self, candidate: standard_artifacts.Model) -> int | None:
        resolved = LatestBlessedBaselineStrategy().resolve_artifacts(
            self.store,
            {"candidate": [candidate], "model": list(self.models), "model_blessing": list(self.blessings)},
        )
        assert resolved is not None
        assert len(resolved["model"]) == len(resolved["model_blessing"])
        return resolved["model"][0].id if resolved["model"] else None


@pytest.fixture
def store() -> Store:
    return Store()


def test_the_first_model_has_no_baseline_also_when_its_run_is_repeated(store: Store) -> None:
    first = store.model()
    assert store.baseline_of(first) is None
    store.judge(first, blessed=True)
    assert store.baseline_of(first) is None


def test_the_last_blessed_model_is_the_baseline_and_a_refused_one_never_is(store: Store) -> None:
    first, refused = store.model(), store.model()
    store.judge(first, blessed=True)
    store.judge(refused, blessed=False)
    assert store.baseline_of(store.model()) == first.id
    better = store.model()
    store.judge(better, blessed=True)
    assert store.baseline_of(store.model()) == better.id
    assert store.baseline_of(better) == first.id


def test_an_old_model_that_comes_back_is_judged_against_the_newer_one(store: Store) -> None:
    old, new = store.model(), store.model()
    store.judge(old, blessed=True)
    store.judge(new, blessed=True)
    assert store.baseline_of(old) == new.id


def test_models_of_other_pipelines_in_the_same_store_are_no_baseline(store: Store) -> None:
    theirs = store.model(pipeline=1)
    store.judge(theirs, blessed=True)
    assert store.baseline_of(store.model()) is None
