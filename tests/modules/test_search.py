import json
import logging
from pathlib import Path

import pytest

from configs import schema
from modules import hyperparameters, progress, search
from tests.modules import trainings

TUNING = schema.Tuning(trials=2, dense_units=(8, 12)).model_dump(mode="json")


def searched(folder: Path, trials: int = 2) -> search.Search:
    changes = {"training": {"phases": trainings.BASE["training"]["phases"][:1], "cache": {"views": 1}}}
    config = trainings.config(folder, changes) | {"tuning": TUNING | {"trials": trials}}
    found = search.Search(trainings.inputs(folder), config)
    found.search()
    return found


def test_trials_share_the_kept_features_and_an_interrupted_search_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, progress.logger.name):
        first = searched(tmp_path)
        assert caplog.text.count("trial 0") == caplog.text.count("trial 1") == 1
        assert caplog.text.count("view 1: 20 pictures, ") == 1
        caplog.clear()
        again = searched(tmp_path)
    assert "trial" not in caplog.text
    best = first.get_best_hyperparameters()[0].values
    assert best == again.get_best_hyperparameters()[0].values
    trials = first.oracle.get_best_trials(2)
    assert trials[0].score < trials[1].score
    low, high = TUNING["learning_rate_factor"]
    assert all(low <= trial.hyperparameters.values["learning_rate_factor"] <= high for trial in trials)
    assert all(trial.hyperparameters.values["dense_units"] in {8, 12} for trial in trials)


def test_a_search_that_has_to_fetch_weights_finds_what_one_that_has_them_does(tmp_path: Path, fetched: list[int]) -> None:
    first, second = ([trial.score for trial in searched(tmp_path / name).oracle.get_best_trials(2)] for name in ("a", "b"))
    assert fetched == [1]
    assert first == second


def test_trainer_takes_what_the_search_found(tmp_path: Path) -> None:
    config = trainings.config(tmp_path)
    space = hyperparameters.space(TUNING)
    space.values |= {"learning_rate_factor": 0.5, "dropout": 0.3, "dense_units": 12}
    changed = hyperparameters.best(config, json.loads(json.dumps(space.get_config())))
    assert changed["model"]["dropout"] == 0.3
    assert changed["model"]["dense_units"] == 12
    rates = [phase["learning_rates"] for phase in changed["training"]["phases"]]
    assert rates == [
        [["head/.*", 5e-4], [".*", None]],
        [["head/.*", 5e-4], ["block5_.*", 5e-5], [".*", None]],
    ]
    assert config == trainings.config(tmp_path), "what was given is left as it is"


def test_without_a_search_nothing_changes(tmp_path: Path) -> None:
    config = trainings.config(tmp_path)
    assert hyperparameters.best(config, None) == config
