"""The compiled pipeline, task by task in processes of their own, against a real database server for ML Metadata."""

import shutil
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import pytest
import yaml

from serving import versions
from tests.e2e.conftest import CONFIG, Project, finetune
from tests.kubeflow import database, harness

WORSE = {"training_batch_size": 256, "training_phases_0_epochs": 1, "training_phases_1_epochs": 0}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with database.mariadb() as found:
        yield found


@pytest.fixture(scope="module")
def runs(project: Project, url: str, tmp_path_factory: pytest.TempPathFactory) -> harness.Harness:
    """The project's pipeline, compiled by the command."""
    folder = tmp_path_factory.mktemp("kubeflow")
    config = yaml.safe_load(CONFIG) | {
        "data": {"source": str(project.root / "digits"), "splits": {"train": 6, "eval": 1, "test": 3}},
        "kubeflow": {"volume": {"claim": "finetune", "path": str(folder / "volume")}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    output = folder / "pipeline.yaml"
    done = finetune(
        *(
            "kubeflow",
            "compile",
            "--config",
            str(folder / "config.yaml"),
            "--image",
            "finetune:test",
            "--output",
            str(output),
        )
    )
    assert done.code == 0, done.err
    assert "13 tasks" in done.out
    return harness.Harness(output, folder / "kfp", {"FINETUNE_METADATA_URL": url})


def volume(runs: harness.Harness) -> Path:
    """The folder of the pipeline on its volume."""
    mounts = next(iter(runs.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values()))["pvcMount"]
    return Path(mounts[0]["mountPath"]) / "small"


def published(run: dict[str, harness.Ended]) -> int:
    """The number of the version that a run published."""
    return int(Path(run["Pusher"].parameters["model_uri"]).name)


@pytest.fixture(scope="module")
def first(runs: harness.Harness) -> dict[str, harness.Ended]:
    """The first run; two of its tasks are killed in the middle and tried again."""
    return runs.run("run-1", kill_once={"StatisticsGen": "Going to run a new execution", "Trainer": "head epoch 2/3"})


def test_a_run_with_killed_tasks_ends_with_a_published_model(runs: harness.Harness, first: dict[str, harness.Ended]) -> None:
    assert {name: one.err[-2000:] for name, one in first.items() if one.code} == {}
    assert first.keys() == {"UpToDate", *runs.tasks}
    assert "UpToDate no: ImageExampleGen has work to do" in first["UpToDate"].last_line
    assert "training goes on where it was interrupted" in first["Trainer"].err
    assert "head epoch 1/3" not in first["Trainer"].err
    store = versions.Versions(str(volume(runs) / "serving"))
    assert first["Pusher"].parameters == {"model_uri": store.path(published(first))}
    assert store.numbers() == [store.live] == [published(first)]
    evaluator = first["Evaluator"]
    assert evaluator.parameters == {"blessing": "blessed"}
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


def test_two_runs_at_once_one_has_nothing_to_do_and_one_is_refused_by_the_baseline(
    runs: harness.Harness, first: dict[str, harness.Ended]
) -> None:
    refusing = WORSE | {"evaluation_min_accuracy": 0.0, "evaluation_fail_when_refused": True}
    with futures.ThreadPoolExecutor() as pool:
        same = pool.submit(runs.run, "run-2", parallel=1)
        worse = pool.submit(runs.run, "run-3", parallel=1, **refusing)
    (check,) = same.result().values()
    assert check.code == 0, check.err
    assert check.last_line.startswith("finetune: UpToDate yes, in ")
    refused = worse.result()
    assert "UpToDate no: Trainer has work to do" in refused["UpToDate"].last_line
    assert {name for name, one in refused.items() if one.code} == {"Pusher"}
    assert refused["Pusher"].last_line.startswith("finetune: nothing was published")
    assert refused["Evaluator"].parameters == {"blessing": "refused"}
    assert "evaluation.max_accuracy_drop" in refused["Evaluator"].err
    for name in ("ImageExampleGen", "StatisticsGen", "Transform"):
        assert refused[name].last_line.startswith(f"finetune: {name} cached ")
    assert versions.Versions(str(volume(runs) / "serving")).numbers() == [published(first)]
    # A refused model is refused again, though nothing is new: the night stays red.
    (again,) = runs.run("run-4", **refusing).values()
    assert again.code == 1
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


def test_a_parameter_that_is_not_allowed_ends_the_task_with_what_would_be_right(runs: harness.Harness) -> None:
    (check,) = runs.run("run-6", evaluation_min_accuracy=7.0).values()
    assert check.code == 2
    assert "evaluation.min_accuracy = 7.0" in check.last_line
