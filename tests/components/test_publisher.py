"""The Publisher's executor, with a server that follows what it publishes."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tfx.types import standard_artifacts
from tfx.utils import path_utils

from components.model_evaluator import gate, samples
from components.publisher import executor
from modules import features
from pipeline import exit_codes, failures
from serving import arrival, model_info, versions
from tests import web
from tests.conftest import encode
from tests.serving import stand_in, tiny_model

PICTURE = encode(np.full((4, 4, 3), 51, np.uint8))


class Project:
    """Models that were blessed, and where they are published."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder = folder
        self.store = versions.Versions(str(folder / "serving"))
        self.destination = {
            "folder": self.store.folder,
            "name": "tiny",
            "base_path": None,
            "keep": None,
            "grace_seconds": 0.0,
            "endpoint": None,
            "wait_seconds": 3.0,
            "image": {},
            "config_fingerprint": "",
        }
        image = {features.IMAGE: features.bytes_feature(PICTURE)}
        example = tf.train.Example(features=tf.train.Features(feature=image)).SerializeToString()
        sample = samples.Sample(example, np.array([0.8, 0.2], np.float32), tiny_model.LABELS, [], None)
        monkeypatch.setattr(samples, "read", lambda uri: [sample])
        gate.write(str(folder), [gate.Check("accuracy", 0.9, "", None, True)])

    def model(self, name: str, graph: bytes | None = None) -> standard_artifacts.Model:
        """Another model each time, by an asset; with a graph that can't be loaded, if one is given."""
        model = standard_artifacts.Model()
        model.uri = str(self.folder / name)
        exported = Path(path_utils.serving_model_dir(model.uri))
        tiny_model.export(exported)
        (exported / "assets.extra").mkdir()
        (exported / "assets.extra" / "name").write_text(name)
        if graph is not None:
            (exported / "saved_model.pb").write_bytes(graph)
        return model

    def publish(
        self, model: standard_artifacts.Model, against: standard_artifacts.Model | None, blessed: bool = True, **changes: Any
    ) -> int | None:
        """Run the executor; return the version that it says is published."""
        evaluation, examples = standard_artifacts.ModelEvaluation(), standard_artifacts.Examples()
        evaluation.uri = examples.uri = str(self.folder)
        blessing, infra = standard_artifacts.ModelBlessing(), standard_artifacts.InfraBlessing()
        blessing.set_int_custom_property("blessed", int(blessed))
        infra.set_int_custom_property("blessed", 1)
        inputs = {
            "model": [model],
            "examples": [examples],
            "evaluation": [evaluation],
            "model_blessing": [blessing],
            "infra_blessing": [infra],
            "baseline_model": [] if against is None else [against],
        }
        pushed = standard_artifacts.PushedModel()
        properties = {"destination": json.dumps(self.destination | changes), "run_id": "1"}
        executor.Executor().Do(inputs, {"pushed_model": [pushed]}, properties)
        version = pushed.get_string_custom_property("pushed_version")
        assert bool(version) == pushed.get_int_custom_property("pushed")
        return int(version) if version else None

    def told(self) -> str:
        return Path(self.store.folder, versions.CONFIG_FILE).read_text()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return Project(tmp_path, monkeypatch)


@contextlib.contextmanager
def served(project: Project, way: str = "REST") -> Iterator[str]:
    """Yields the endpoint of a server that follows `models.config`."""
    server = stand_in.StandIn(Path(project.store.folder, versions.CONFIG_FILE))
    try:
        with stand_in.by_grpc(server) as address, stand_in.by_rest(server) as url:
            yield {"gRPC": f"grpc://{address}/tiny", "REST": f"{url}/tiny:predict"}[way]
    finally:
        server.close()


def test_a_model_is_published_once_and_each_run_makes_it_so(project: Project) -> None:
    first = project.model("first")
    number = project.publish(first, against=None)
    assert number == project.store.live
    info = model_info.read(project.store.path(number))
    assert info is not None
    assert model_info.differences(project.store.path(number), info) == []
    assert info.model_digest == model_info.digest(path_utils.serving_model_path(first.uri))
    assert project.publish(first, against=None, name="other", base_path="/models") == number
    assert 'name: "other"' in project.told()
    assert 'base_path: "/models"' in project.told()
    # Also where the model is refused, or was rolled back.
    assert project.publish(project.model("refused"), against=first, blessed=False, name="third") is None
    assert 'name: "third"' in project.told()
    second = project.model("second")
    assert project.publish(second, against=first) is not None
    project.store.rollback()
    assert project.publish(second, against=first, name="fourth") is None
    assert 'name: "fourth"' in project.told()
    assert project.store.live == number


def test_what_was_rolled_back_stays_so_when_its_version_is_pruned(project: Project) -> None:
    first, second, third = (project.model(name) for name in ("first", "second", "third"))
    good = project.publish(first, against=None)
    project.publish(second, against=first)
    project.store.rollback()
    better = project.publish(third, against=first, keep=2)
    assert project.store.numbers() == [good, better], "not the withdrawn one"
    assert project.publish(second, against=third, keep=2) is None
    assert project.store.live == better


def test_a_slower_run_does_not_publish_over_what_it_was_not_judged_against(project: Project) -> None:
    first, fast, slow = (project.model(name) for name in ("first", "fast", "slow"))
    project.publish(first, against=None)
    number = project.publish(fast, against=first)
    with pytest.raises(
        versions.SupersededError, match=f"version {number} is live since this model was judged: run again"
    ) as error:
        project.publish(slow, against=first)
    assert failures.exit_code(error.value) == exit_codes.WILL_NOT, "not by itself: it has to be judged again"
    assert project.store.live == number
    assert project.publish(slow, against=fast) == project.store.live


@pytest.mark.parametrize("way", ["gRPC", "REST"])
def test_publishing_waits_until_a_server_serves_the_version(project: Project, way: str) -> None:
    first, second = project.model("first"), project.model("second")
    before = project.publish(first, against=None)
    with served(project, way) as endpoint:
        number = project.publish(second, against=first, endpoint=endpoint)
    assert number == project.store.live == project.store.served != before


def test_what_no_server_can_load_is_taken_back_and_may_be_published_again(project: Project) -> None:
    first, broken = project.model("first"), project.model("broken", b"no graph")
    before = project.publish(first, against=None)
    with served(project) as endpoint:
        with pytest.raises(
            arrival.NotServedError, match=f"is not served at .* after 3 s .*; version {before} is live again"
        ) as error:
            project.publish(broken, against=first, endpoint=endpoint)
        assert failures.exit_code(error.value) == exit_codes.MAY_PASS
        assert project.store.live == project.store.served == before
        assert f"versions: {before}" in project.told()
        assert project.store.withdrawn == []
        # What is live is asked for again in every run.
        assert project.publish(first, against=None, endpoint=endpoint) == before
    with pytest.raises(arrival.NotServedError, match="there is no version to go back to"):
        project.publish(first, against=None, endpoint="http://localhost:1/v1/models/tiny", wait_seconds=1.0)
    assert project.store.live == before


def test_a_server_that_answers_with_other_labels_does_not_serve_the_version(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = project.model("first"), project.model("second")
    before = project.publish(first, against=None)
    sample = samples.read("")[0]._replace(labels=["light", "dark"])
    monkeypatch.setattr(samples, "read", lambda uri: [sample])
    with served(project) as endpoint, pytest.raises(arrival.NotServedError, match="answers with the labels"):
        project.publish(second, against=first, endpoint=endpoint)
    assert project.store.live == before


def test_no_message_of_a_server_that_is_not_there_shows_a_password(project: Project) -> None:
    endpoint = "http://me:s3cr3t@localhost:1/v1/models/tiny"
    with pytest.raises(arrival.NotServedError) as error:
        project.publish(project.model("first"), against=None, endpoint=endpoint, wait_seconds=1.0)
    assert "localhost:1" in str(error.value)
    assert "s3cr3t" not in str(error.value)


@pytest.mark.parametrize(
    "answer",
    [{"status": "ok"}, [], None, {"model_version_status": [{"version": "new"}]}, {"model_version_status": 7}],
    ids=json.dumps,
)
def test_a_server_that_is_another_one_than_tensorflow_serving_leaves_the_version_before_live(
    project: Project, answer: Any
) -> None:
    first, second = project.model("first"), project.model("second")
    before = project.publish(first, against=None)
    with (
        web.serving(lambda *request: (200, answer)) as url,
        pytest.raises(
            arrival.NotServedError, match=f"not what TensorFlow Serving answers .*; version {before} is live again"
        ),
    ):
        project.publish(second, against=first, endpoint=f"{url}/v1/models/tiny", wait_seconds=1.0)
    assert project.store.live == project.store.served == before


@pytest.mark.parametrize("error", [ValueError("no endpoint"), KeyError("a"), MemoryError()])
def test_whatever_goes_wrong_while_waiting_the_version_before_is_live_again(
    project: Project, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    first, second = project.model("first"), project.model("second")
    before = project.publish(first, against=None)

    def fail(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(arrival, "wait", fail)
    with pytest.raises(arrival.NotServedError, match=f"{type(error).__name__}: .*; version {before} is live again"):
        project.publish(second, against=first, endpoint="grpc://localhost:1/tiny")
    assert project.store.live == project.store.served == before


def test_a_server_that_is_down_for_many_nights_does_not_fill_the_disk(project: Project) -> None:
    first = project.model("first")
    before = project.publish(first, against=None)
    for night in range(4):
        with pytest.raises(arrival.NotServedError):
            project.publish(
                project.model(f"night{night}"),
                against=first,
                keep=2,
                endpoint="http://localhost:1/v1/models/tiny",
                wait_seconds=0.1,
            )
    assert project.store.live == before
    assert len(project.store.numbers()) == 3, "the live one, one more, and the newest for another try"


def test_a_run_without_an_endpoint_makes_good_what_a_killed_one_did_not_wait_for(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (project.model(name) for name in ("first", "second", "third"))
    project.publish(first, against=None)

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(arrival, "wait", killed)
    with pytest.raises(KeyboardInterrupt):
        project.publish(second, against=first, endpoint="grpc://localhost:1/tiny")
    assert project.publish(second, against=first) == project.store.served
    assert project.publish(third, against=second) == project.store.live
