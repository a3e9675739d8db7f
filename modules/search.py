"""The search for learning rates, dropout and dense units: what runs inside Tuner."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import keras_tuner
from tfx.components.trainer.fn_args_utils import FnArgs
from tfx.components.tuner.component import TunerFnResult

from modules import hyperparameters, progress, trainer


class Search(keras_tuner.BayesianOptimization):
    """Trains with points of the search space, all through the same kept features; goes on where it was interrupted.

    Args:
      inputs: the data.
      config: as `modules.trainer.run_fn` gets it, and `tuning`.
    """

    def __init__(self, inputs: trainer.Inputs, config: Mapping[str, Any]):
        self._inputs, self._config = inputs, config
        monitor = config["training"]["early_stopping"]["monitor"]
        super().__init__(
            objective=keras_tuner.Objective(f"val_{monitor}", "max" if monitor == "accuracy" else "min"),
            max_trials=config["tuning"]["trials"],
            hyperparameters=hyperparameters.space(config["tuning"]),
            seed=config["training"]["seed"],
            directory=str(Path(config["work_dir"]) / "search"),
            project_name=trainer.identity(inputs, config),
        )

    def run_trial(self, trial: keras_tuner.engine.trial.Trial, *args: Any, **kwargs: Any) -> float:
        """Train with the values of a trial; return the best epoch's loss or accuracy on the eval split."""
        values = trial.hyperparameters.values
        progress.logger.info("trial %s: %s", trial.trial_id, _in_words(values))
        keras.backend.clear_session()
        return trainer.train(self._inputs, hyperparameters.applied(self._config, values), None).score


def tuner_fn(fn_args: FnArgs) -> TunerFnResult:
    """Return the search; called by TFX's Tuner.

    Args:
      fn_args: as `modules.trainer.run_fn` gets it, with `tuning`, the section of the configuration.
    """
    return TunerFnResult(Search(trainer.read_inputs(fn_args), fn_args.custom_config), {})


def _in_words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items())
