"""Differential learning rates: an ordered list of (pattern, rate) over the variables' paths."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import keras


class LearningRateError(ValueError):
    """Learning-rate rules that don't fit the model's variables."""


def assign_learning_rates(paths: Sequence[str], rules: Sequence[tuple[str, float | None]]) -> dict[str, float | None]:
    """Give each variable the rate of the first rule whose pattern matches its whole path.

    Args:
      paths: of the variables, e.g. `block5_conv1/kernel`.
      rules: ordered (regular expression, learning rate); None freezes.

    Returns:
      The learning rate of each path, None where frozen.

    Raises:
      LearningRateError: a pattern matches no path, or a path is matched by none.
    """
    for pattern, _ in rules:
        if not any(re.fullmatch(pattern, path) for path in paths):
            raise LearningRateError(f"learning_rates: {pattern!r} matches none of {_abridged(paths)}")
    rates = {}
    for path in paths:
        for pattern, rate in rules:
            if re.fullmatch(pattern, path):
                rates[path] = rate
                break
        else:
            raise LearningRateError(f"learning_rates: no pattern matches {path}; end with ['.*', null] to freeze the rest")
    return rates


def apply_learning_rates(model: keras.Model, rules: Sequence[tuple[str, float | None]]) -> keras.optimizers.Optimizer:
    """Freeze what has no rate and make the optimizer for the rest: Adam, one for each distinct rate.

    Args:
      model: its variables' `trainable` flags are set.
      rules: ordered (regular expression, learning rate); None freezes.

    Returns:
      An optimizer to compile the model with.

    Raises:
      LearningRateError: as `assign_learning_rates`.
    """
    variables = learnable_variables(model)
    rates = assign_learning_rates(list(variables), rules)
    for path, variable in variables.items():
        variable.trainable = rates[path] is not None
    adams = {rate: keras.optimizers.Adam(rate) for rate in rates.values() if rate is not None}
    by_path = {path: adams[rate] for path, rate in rates.items() if rate is not None}
    default = next(iter(adams.values()))
    return keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(default, by_path))


def learnable_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Return, by path, what gradients can train, frozen or not: no moving averages, no states of random generators."""
    never = {"moving_mean", "moving_variance", "seed_generator_state"}
    return {variable.path: variable for variable in model.weights if variable.path.rsplit("/", 1)[-1] not in never}


def describe(rates: Mapping[str, float | None], sizes: Mapping[str, int]) -> list[str]:
    """Return a line for each rate: the layers that have it and how many parameters.

    Args:
      rates: learning rate of each variable's path, as `assign_learning_rates` returns it.
      sizes: number of parameters of each path.
    """
    lines = []
    for rate in dict.fromkeys(rates.values()):
        paths = [path for path, own in rates.items() if own == rate]
        layers = list(dict.fromkeys(path.rsplit("/", 1)[0] for path in paths))
        count = sum(sizes[path] for path in paths)
        what = "frozen" if rate is None else f"learning rate {rate:g}"
        lines.append(f"{what}: {count:,} parameters in {_abridged(layers)}")
    return lines


def _abridged(names: Sequence[str]) -> str:
    shown = list(names) if len(names) <= 6 else [*names[:3], "…", *names[-2:]]
    return ", ".join(shown)
