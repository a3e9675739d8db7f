"""The compiled pipeline, task by task in processes of their own, against a real database server for ML Metadata."""

import json
import shutil
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs import reading
from kubeflow import compiler, folders, status
from modules import weights
from pipeline import journal
from pipeline.ending import Ending, Verdict
from serving import versions
from tests import web
from tests.e2e.conftest import CONFIG, Project, finetune
from tests.kubeflow import database, harness

ALL = "ImageExampleGen to RunReport"
WORSE = {"training_batch_size": 256, "training_phases_0_epochs": 1, "training_phases_1_epochs": 0}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with database.mariadb() as found:
        yield found


@pytest.fixture(scope="module")
def told() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An address that wants to know how runs end, and what it was told; every other post gets no good answer."""
    posted: list[dict[str, Any]] = []

    def answer(method: str, path: str, body: bytes, headers: Any) -> tuple[int, Any]:
        posted.append(json.loads(body))
        return (503 if len(posted) % 2 else 200), {}

    with web.serving(answer) as address:
        yield f"{address}/hook?token=secret", posted


@pytest.fixture(scope="module")
def config_file(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kubeflow")
    config = yaml.safe_load(CONFIG) | {
        "data": {"source": str(project.root / "digits"), "splits": {"train": 6, "eval": 1, "test": 3}},
        "kubeflow": {
            "volume": {"claim": "finetune", "path": str(folder / "volume")},
            "default": {"retry_seconds": 1},
            "secrets": [{"name": "told", "variables": {"url": "FINETUNE_NOTIFY_URL"}}],
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder / "config.yaml"


def compiled(config_file: Path, tasks: str, count: int, environment: dict[str, str]) -> harness.Harness:
    """The project's pipeline, compiled by the command."""
    output = config_file.with_name(f"{tasks}.yaml")
    words = ["--config", str(config_file), "--image", "finetune:test", "--output", str(output)]
    done = finetune("kubeflow", "compile", *words, "--set", f"kubeflow.tasks={tasks}")
    assert done.code == 0, done.err
    assert f"{count} tasks" in done.out
    return harness.Harness(output, config_file.with_name("kfp"), environment)


@pytest.fixture(scope="module")
def environment(url: str, told: tuple[str, list[dict[str, Any]]]) -> dict[str, str]:
    return {
        "FINETUNE_METADATA_URL": url,
        "FINETUNE_CACHE_DIR": str(weights.cache_folder()),
        "FINETUNE_NOTIFY_URL": told[0],
    }


@pytest.fixture(scope="module")
def runs(config_file: Path, environment: dict[str, str]) -> harness.Harness:
    return compiled(config_file, "grouped", 2, environment)


@pytest.fixture(scope="module")
def separate(config_file: Path, environment: dict[str, str]) -> harness.Harness:
    """The same pipeline with a pod for each node."""
    return compiled(config_file, "one_per_node", 14, environment)


def volume(runs: harness.Harness) -> Path:
    """The folder of the pipeline on its volume."""
    mounts = next(iter(runs.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values()))["pvcMount"]
    return Path(mounts[0]["mountPath"]) / "small"


def nodes(runs: harness.Harness) -> list[str]:
    """The nodes that share a pod, in their order."""
    return list(*(of_task for of_task in status.nodes_of(runs.spec).values() if of_task != ("UpToDate",)))


def published(run: dict[str, harness.Ended]) -> int:
    """The number of the version that a run published."""
    return int(Path(run[ALL].parameters["model_uri"]).name)


def end_of(url: str, run_id: str) -> Ending:
    """How a run ended, as ML Metadata has it."""
    found = journal.read_end(folders.metadata_connection(url), run_id)
    assert found is not None
    return found.ending


@pytest.fixture(scope="module")
def first(runs: harness.Harness) -> dict[str, harness.Ended]:
    """The first run; its pod is lost, and in the next one the process is killed in each node."""
    at = {node: f'id: "{node}"' for node in nodes(runs)} | {"Trainer": "finetune: frozen"}
    return runs.run("run-1", lose_pod={ALL: "finetune: StatisticsGen done"}, kill_process={ALL: list(at.values())[2:]})


def test_a_run_with_killed_tasks_ends_with_a_published_model(runs: harness.Harness, first: dict[str, harness.Ended]) -> None:
    assert {name: one.err[-2000:] for name, one in first.items() if one.code} == {}
    assert first.keys() == {"UpToDate", ALL} == {"UpToDate", *runs.tasks}
    assert "UpToDate no: ImageExampleGen has work to do" in first["UpToDate"].last_line
    said = [line.removeprefix("finetune: ") for line in first[ALL].err.splitlines() if line.startswith("finetune: ")]
    # What was done before the pod was lost is not done again, nor what was before each kill.
    assert [line.partition(",")[0] for line in said if " done, in " in line or " cached, in " in line] == [
        f"{node} done" for node in nodes(runs)
    ]
    for node in nodes(runs)[2:]:
        killed = f"attempt 1: {node} failed: its process was killed (SIGKILL): out of memory"
        assert sum(line.startswith(killed) and line.endswith("this may pass, tried again in 1 s") for line in said) == 1
    after = first[ALL].err.partition("attempt 1: Trainer failed")[2]
    assert "training goes on where it was interrupted" in after
    assert "head epoch 1/3" not in after
    store = versions.Versions(str(volume(runs) / "serving"))
    assert first[ALL].parameters == {"model_uri": store.path(published(first)), "blessing": "blessed"}
    assert store.numbers() == [store.live] == [published(first)]
    evaluator = first[ALL]
    metrics = evaluator.artifacts["metrics"]["metadata"]
    assert metrics["accuracy"] >= 0.6
    matrix = evaluator.artifacts["confusion"]["metadata"]["confusionMatrix"]
    assert [spec["displayName"] for spec in matrix["annotationSpecs"]] != []
    rows = [row["row"] for row in matrix["rows"]]
    right = sum(row[i] for i, row in enumerate(rows))
    assert sum(map(sum, rows)) == metrics["test_examples"]
    assert right / metrics["test_examples"] == pytest.approx(metrics["accuracy"], abs=1e-6)
    page = Path(evaluator.artifacts["gate"]["uri"]).read_text()
    assert "evaluation.min_accuracy" in page


def test_what_a_run_says_of_itself_outlives_it(
    runs: harness.Harness, first: dict[str, harness.Ended], url: str, told: tuple[str, list[dict[str, Any]]]
) -> None:
    connection = folders.metadata_connection(url)
    trainer = journal.read_node(connection, "run-1", "Trainer")
    assert trainer is not None
    assert trainer.state == "done"
    assert [(one.code, "SIGKILL" in one.reason) for one in trainer.failures] == [(1, True)]
    assert trainer.seconds
    ended = end_of(url, "run-1")
    assert (ended.verdict, ended.version) == (Verdict.PUBLISHED, published(first))
    assert ended.accuracy == first[ALL].artifacts["metrics"]["metadata"]["accuracy"]
    assert ended.accuracy_interval is not None
    assert ended.accuracy_interval[0] < ended.accuracy < ended.accuracy_interval[1]
    # The first post got no good answer, the second did.
    of_run = [post for post in told[1] if post["run"] == "run-1"]
    assert len(of_run) == 2
    assert of_run[1]["text"].startswith(f"small: published; version {published(first)}; test accuracy ")
    assert of_run[1]["look"] == "finetune kubeflow status run-1"


def test_no_secret_is_in_what_containers_say(first: dict[str, harness.Ended], url: str) -> None:
    everything = "".join(one.err for one in first.values())
    assert "Trainer" in everything
    for secret in (database.PASSWORD, url.split("@", maxsplit=1)[0].rpartition(":")[2], "token=secret"):
        assert secret not in everything


def test_two_runs_at_once_one_has_nothing_to_do_and_one_is_refused_by_the_baseline(
    runs: harness.Harness, separate: harness.Harness, first: dict[str, harness.Ended], url: str
) -> None:
    refusing = WORSE | {"evaluation_min_accuracy": 0.0, "evaluation_fail_when_refused": True}
    with futures.ThreadPoolExecutor() as pool:
        same = pool.submit(runs.run, "run-2", parallel=1)
        worse = pool.submit(separate.run, "run-3", parallel=1, **refusing)
    (check,) = same.result().values()
    assert check.code == 0, check.err
    assert check.last_line.startswith("finetune: UpToDate yes, in ")
    assert end_of(url, "run-2").verdict == Verdict.UP_TO_DATE
    refused = worse.result()
    assert "UpToDate no: Trainer has work to do" in refused["UpToDate"].last_line
    assert {name for name, one in refused.items() if one.code} == {"Pusher"}
    assert refused["Pusher"].code == 3
    assert refused["Pusher"].last_line.startswith("finetune: nothing was published")
    assert end_of(url, "run-3").verdict == Verdict.REFUSED
    assert "evaluation.max_accuracy_drop" in end_of(url, "run-3").reason
    assert refused["Evaluator"].parameters == {"blessing": "refused"}
    assert "evaluation.max_accuracy_drop" in refused["Evaluator"].err
    for name in ("ImageExampleGen", "StatisticsGen", "Transform"):
        assert refused[name].last_line.startswith(f"finetune: {name} cached, in ")
    assert versions.Versions(str(volume(runs) / "serving")).numbers() == [published(first)]
    # A refused model is refused again, though nothing is new: the night stays red.
    (again,) = runs.run("run-4", **refusing).values()
    assert again.code == 3
    assert again.last_line.startswith("finetune: nothing was published")


def test_a_version_that_somebody_deleted_is_published_again_though_nothing_is_new(
    runs: harness.Harness, first: dict[str, harness.Ended]
) -> None:
    store = versions.Versions(str(volume(runs) / "serving"))
    shutil.rmtree(store.path(published(first)))
    (check,) = runs.run("run-5").values()
    assert check.code == 0, check.err
    assert store.numbers() == [store.live]
    assert store.live != published(first)


def test_the_history_of_all_these_runs_is_in_the_store_and_what_nothing_needs_goes(
    runs: harness.Harness, first: dict[str, harness.Ended], config_file: Path, url: str
) -> None:
    words = ["--config", str(config_file), "--metadata", url]
    told = finetune("history", *words, "--json")
    assert told.code == 0, told.err
    lines = {line["run"]: line for line in map(json.loads, told.out.splitlines())}
    assert lines["run-1"]["verdict"] == "published"
    assert lines["run-2"]["verdict"] == "up to date"
    assert lines["run-3"]["verdict"] == "refused"
    assert lines["run-1"]["configuration"]["training"]["class_weights"] == "balanced"
    assert {line["pictures"] for line in lines.values()} == {lines["run-1"]["pictures"]}
    assert database.PASSWORD not in told.out
    models = volume(runs) / "pipeline_root" / "Trainer" / "model"
    assert len([*models.iterdir()]) == 2
    done = finetune("clean", *words, "--keep-runs", "1")
    assert done.code == 0, done.err
    # The refused model goes; the live one and its pictures stay, and the cache has them.
    assert len([*models.iterdir()]) == 1
    (check,) = runs.run("run-cleaned").values()
    assert check.last_line.startswith("finetune: UpToDate yes, in ")


def test_a_parameter_that_is_not_allowed_ends_the_task_with_what_would_be_right(
    runs: harness.Harness, url: str, told: tuple[str, list[dict[str, Any]]]
) -> None:
    (check,) = runs.run("run-6", evaluation_min_accuracy=7.0).values()
    assert check.code == 2
    assert "evaluation.min_accuracy = 7.0" in check.last_line
    assert end_of(url, "run-6").verdict == Verdict.FAILED
    assert {(post["node"], post["verdict"]) for post in told[1] if post["run"] == "run-6"} == {("UpToDate", "failed")}


def test_weights_that_can_not_be_used_end_a_run_before_ingestion(project: Project, tmp_path: Path) -> None:
    (tmp_path / "weights.h5").write_text("something else")
    config = yaml.safe_load(CONFIG) | {
        "data": {"source": str(project.root / "digits")},
        "model": {"weights": str(tmp_path / "weights.h5")},
        "kubeflow": {"volume": {"claim": "finetune", "path": str(tmp_path / "volume")}},
    }
    compiler.compile_pipeline(reading.parse(yaml.safe_dump(config), "test", {}), "finetune:test", tmp_path / "p.yaml")
    store = f"sqlite:///{tmp_path}/metadata.db"
    (check,) = harness.Harness(tmp_path / "p.yaml", tmp_path / "kfp", {"FINETUNE_METADATA_URL": store}).run("run-1").values()
    assert check.code == 2
    assert f"model.weights = {tmp_path}/weights.h5: expected an H5 file of VGG16" in check.last_line
    assert check.last_line.count("\n") == 0
    assert end_of(store, "run-1").reason in check.last_line
