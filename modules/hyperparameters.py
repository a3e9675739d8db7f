"""What the search varies, and how its values change a configuration."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import keras_tuner

RATE_FACTOR, DROPOUT, DENSE_UNITS = "learning_rate_factor", "dropout", "dense_units"


def space(tuning: Mapping[str, Any]) -> keras_tuner.HyperParameters:
    """Return the space that is searched.

    Args:
      tuning: the section of the configuration.
    """
    found = keras_tuner.HyperParameters()
    low, high = tuning["learning_rate_factor"]
    found.Float(RATE_FACTOR, low, high, sampling="log", default=min(max(1.0, low), high))
    found.Float(DROPOUT, *tuning["dropout"])
    found.Choice(DENSE_UNITS, list(tuning["dense_units"]), ordered=True)
    return found


def applied(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with values of the search space in place of its own.

    Args:
      config: as `modules.trainer.run_fn` gets it.
      values: of a point of the space, by name; of none of it leaves the configuration as it is.
    """
    changed = copy.deepcopy(dict(config))
    factor = values.get(RATE_FACTOR, 1.0)
    for phase in changed["training"]["phases"]:
        phase["learning_rates"] = [
            [pattern, None if rate is None else rate * factor] for pattern, rate in phase["learning_rates"]
        ]
    changed["model"] |= {name: values[name] for name in (DROPOUT, DENSE_UNITS) if name in values}
    return changed


def best(config: Mapping[str, Any], tuned: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a configuration with what Tuner found best.

    Args:
      config: as `modules.trainer.run_fn` gets it.
      tuned: Tuner's artifact: a configuration of `keras_tuner.HyperParameters`; None changes nothing.
    """
    return applied(config, keras_tuner.HyperParameters.from_config(tuned).values if tuned else {})
