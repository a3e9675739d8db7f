import logging
import shutil
from pathlib import Path

import ml_metadata as mlmd
import pytest
from ml_metadata.proto import metadata_store_pb2
from tfx.types import standard_artifacts
from tfx.utils import path_utils

from components.baseline_resolver.strategy import LatestAcceptedDataStrategy, LiveBaselineStrategy
from components.data_gate.component import DataVerdict
from serving import versions
from tests.serving.infos import write_info


class Store:
    """A metadata store in memory, with models of two pipelines, and what one of them has published."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.served = versions.Versions(str(folder / "serving"))
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
        model.id, model.uri = model_id, str(self.folder / "models" / str(model_id))
        exported = Path(path_utils.serving_model_dir(model.uri))
        exported.mkdir(parents=True)
        (exported / "saved_model.pb").write_text(f"graph {model_id}")
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

    def judge(self, model: standard_artifacts.Model, blessed: bool, against: standard_artifacts.Model | None = None) -> None:
        blessing = standard_artifacts.ModelBlessing()
        blessing.id = 1000 + len(self.blessings)
        blessing.set_int_custom_property("blessed", int(blessed))
        blessing.set_int_custom_property("current_model_id", model.id)
        if against is not None:
            blessing.set_int_custom_property("baseline_model_id", against.id)
        self.blessings.append(blessing)

    def publish(
        self, model: standard_artifacts.Model, against: standard_artifacts.Model | None = None, awaited: bool = False
    ) -> int:
        """Bless a model, and make it live."""
        self.judge(model, blessed=True, against=against)
        exported = path_utils.serving_model_path(model.uri)

        def describe(folder: str, number: int) -> None:
            write_info(folder, number, name="ours", lineage={"model": str(model.id)})

        return self.served.publish(exported, describe, "ours", awaited=awaited)

    def baseline(self, candidate: standard_artifacts.Model) -> standard_artifacts.Model | None:
        strategy = LiveBaselineStrategy(self.served.folder, str(self.folder / "Adopted"))
        resolved = strategy.resolve_artifacts(
            self.store,
            {"candidate": [candidate], "model": list(self.models), "model_blessing": list(self.blessings)},
        )
        assert resolved is not None
        assert resolved["candidate"] == [candidate]
        return resolved["model"][0] if resolved["model"] else None

    def baseline_of(self, candidate: standard_artifacts.Model) -> int | None:
        found = self.baseline(candidate)
        return found.id if found else None


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_the_first_model_has_no_baseline_also_when_its_run_is_repeated(store: Store) -> None:
    first = store.model()
    assert store.baseline_of(first) is None
    store.publish(first)
    assert store.baseline_of(first) is None


def test_what_is_live_is_the_baseline_and_what_was_only_blessed_is_none(store: Store) -> None:
    first, refused, unservable = store.model(), store.model(), store.model()
    store.publish(first)
    store.judge(refused, blessed=False)
    store.judge(unservable, blessed=True, against=first)
    assert store.baseline_of(store.model()) == first.id
    better = store.model()
    store.publish(better, against=first)
    assert store.baseline_of(store.model()) == better.id
    assert store.baseline_of(better) == first.id, "what it was judged against"


def test_a_model_that_was_rolled_back_is_no_baseline(store: Store) -> None:
    first, second = store.model(), store.model()
    store.publish(first)
    store.publish(second, against=first)
    store.served.rollback()
    assert store.baseline_of(store.model()) == first.id
    assert store.baseline_of(second) == first.id
    assert store.baseline_of(first) is None


def test_a_model_that_no_server_has_confirmed_is_no_baseline(store: Store) -> None:
    first, second = store.model(), store.model()
    number = store.publish(first, awaited=True)
    assert store.baseline_of(store.model()) is None
    store.served.confirm(number)
    store.publish(second, against=first, awaited=True)
    assert store.baseline_of(store.model()) == first.id


def test_an_old_model_that_comes_back_is_judged_against_what_is_live(store: Store) -> None:
    old, new = store.model(), store.model()
    store.publish(old)
    store.publish(new, against=old)
    assert store.baseline_of(old) == new.id
    store.publish(old, against=new)
    assert store.baseline_of(old) == new.id
    assert store.baseline_of(new) == old.id


def test_where_nothing_is_served_there_is_no_baseline(store: Store) -> None:
    model = store.model()
    number = store.publish(model)
    shutil.rmtree(store.served.path(number))
    assert store.baseline_of(store.model()) is None


@pytest.mark.parametrize("lost", ["deleted", "another's id", "another pipeline's"])
def test_a_live_model_that_ml_metadata_does_not_know_is_adopted_once(
    store: Store, lost: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = store.model(pipeline=1 if lost == "another pipeline's" else 0)
    number = store.publish(model)
    if lost == "deleted":
        model.mlmd_artifact.state = metadata_store_pb2.Artifact.DELETED
    elif lost == "another's id":
        Path(path_utils.serving_model_path(model.uri), "saved_model.pb").write_text("of another metadata store")
    candidate = store.model()
    with caplog.at_level(logging.WARNING):
        adopted = store.baseline(candidate)
    assert adopted is not None
    assert adopted.id not in {one.id for one in (model, candidate)}
    assert f"compared with version {number}, which is served" in caplog.text
    files = [path.name for path in Path(adopted.uri).rglob("*") if path.is_file()]
    assert files == ["saved_model.pb"]
    assert Path(path_utils.serving_model_path(adopted.uri), "saved_model.pb").read_text() == f"graph {model.id}"
    (written,) = (one for one in store.store.get_artifacts_by_context(store.pipelines[0]) if one.id == adopted.id)
    assert written.state == metadata_store_pb2.Artifact.LIVE
    (event,) = store.store.get_events_by_artifact_ids([adopted.id])
    assert event.type == metadata_store_pb2.Event.OUTPUT
    # As TFX hands it on from now on.
    again = standard_artifacts.Model()
    again.set_mlmd_artifact(written)
    store.models.append(again)
    assert store.baseline_of(store.model()) == adopted.id


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
