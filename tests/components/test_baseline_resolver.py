import ml_metadata as mlmd
import pytest
from ml_metadata.proto import metadata_store_pb2
from tfx.types import standard_artifacts

from components.baseline_resolver.strategy import LatestAcceptedDataStrategy, LatestBlessedBaselineStrategy
from components.data_gate.component import DataVerdict


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
        self.verdicts: list[DataVerdict] = []
        self.run_type = self.store.put_context_type(metadata_store_pb2.ContextType(name="pipeline_run"))
        self.pushed_type = self.store.put_artifact_type(metadata_store_pb2.ArtifactType(name="PushedModel"))

    def model(self, pipeline: int = 0) -> standard_artifacts.Model:
        (model_id,) = self.store.put_artifacts([metadata_store_pb2.Artifact(type_id=self.model_type)])
        attribution = metadata_store_pb2.Attribution(artifact_id=model_id, context_id=self.pipelines[pipeline])
        self.store.put_attributions_and_associations([attribution], [])
        model = standard_artifacts.Model()
        model.id = model_id
        self.models.append(model)
        return model

    def statistics(self) -> standard_artifacts.ExampleStatistics:
        found = standard_artifacts.ExampleStatistics()
        found.id = self.model().id
        return found

    def run_on(
        self, statistics: standard_artifacts.ExampleStatistics, published: bool, allowed: int = 0, verdict: int | None = None
    ) -> int:
        """A run whose data were accepted, or which took an earlier verdict from the cache; return the verdict's id."""
        if verdict is None:
            made = DataVerdict()
            made.id = verdict = self.model().id
            made.set_int_custom_property("accepted", 1)
            made.set_int_custom_property("allowed_findings", allowed)
            made.set_int_custom_property("statistics_id", statistics.id)
            self.verdicts.append(made)
        name = f"run {len(self.store.get_contexts())}"
        (run,) = self.store.put_contexts([metadata_store_pb2.Context(type_id=self.run_type, name=name)])
        pushed = metadata_store_pb2.Artifact(type_id=self.pushed_type)
        if published:
            pushed.custom_properties["pushed_destination"].string_value = "serving/1"
        (pushed_id,) = self.store.put_artifacts([pushed])
        attributions = [metadata_store_pb2.Attribution(artifact_id=one, context_id=run) for one in (verdict, pushed_id)]
        self.store.put_attributions_and_associations(attributions, [])
        return verdict

    def compared_with(self, statistics: standard_artifacts.ExampleStatistics) -> int | None:
        resolved = LatestAcceptedDataStrategy().resolve_artifacts(
            self.store, {"candidate": [statistics], "verdict": list(self.verdicts)}
        )
        assert resolved is not None
        return resolved["verdict"][0].id if resolved["verdict"] else None

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


def test_a_model_that_somebody_deleted_is_no_baseline(store: Store) -> None:
    first, second = store.model(), store.model()
    store.judge(first, blessed=True)
    store.judge(second, blessed=True)
    second.mlmd_artifact.state = metadata_store_pb2.Artifact.DELETED
    assert store.baseline_of(store.model()) == first.id


def test_data_are_compared_with_those_that_a_model_was_published_from(store: Store) -> None:
    first, second = store.statistics(), store.statistics()
    good = store.run_on(first, published=True)
    late = store.run_on(second, published=False)
    assert store.compared_with(store.statistics()) == good
    assert store.compared_with(first) is None, "its own"
    assert store.compared_with(second) == good
    # The same data published after all, with the verdict from the cache.
    store.run_on(second, published=True, verdict=late)
    assert store.compared_with(store.statistics()) == late


def test_what_was_allowed_once_is_not_asked_for_again_if_the_run_published(store: Store) -> None:
    before, widened = store.statistics(), store.statistics()
    store.run_on(before, published=True)
    allowed = store.run_on(widened, published=True, allowed=1)
    assert store.compared_with(widened) == allowed
