"""Differential learning rates: an ordered list of (pattern, rate) over the variables' paths.

After big_vision's optimizers and the parameter groups of timm: plain functions from paths to rates.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf


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


def with_layer_decay(rules: Sequence[tuple[str, float | None]], decay: float | None) -> list[tuple[str, float | None]]:
    """Return rules that give each of VGG16's blocks, from the last one down, `decay` times the rate of what lies above it.

    The highest of the rates given is the head's. Rules that are there come first, so they win: `["block[123]_.*", null]`
    keeps those blocks frozen. As in "Universal Language Model Fine-tuning for Text Classification", Howard and Ruder, 2018,
    section 3.1.

    Args:
      rules: ordered (regular expression, learning rate).
      decay: factor from a block to the one below it; None returns the rules as they are.
    """
    if decay is None:
        return list(rules)
    top = max(rate for _, rate in rules if rate is not None)
    return [*rules, *((f"block{block}_.*", top * decay ** (6 - block)) for block in range(5, 0, -1))]


def rates_of(model: keras.Model, phase: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the learning rate of each learnable variable's path in a phase, None where frozen.

    Args:
      model: the classifier.
      phase: from `training.phases` of the configuration.

    Raises:
      LearningRateError: as `assign_learning_rates`.
    """
    rules = with_layer_decay(phase["learning_rates"], phase["layer_decay"])
    return assign_learning_rates(list(learnable_variables(model)), rules)


def trained_paths(model: keras.Model, phases: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the paths of the variables that some phase trains."""
    return {path for phase in phases for path, rate in rates_of(model, phase).items() if rate is not None}


def freeze(model: keras.Model, rates: Mapping[str, float | None]) -> None:
    """Let gradients, and the moving averages of batch statistics, change only what has a rate.

    Args:
      model: its layers' and variables' `trainable` flags are set.
      rates: learning rate of each learnable variable's path, None to freeze.
    """
    for layer in _leaves(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = any(rates[variable.path] is not None for variable in (layer.gamma, layer.beta))
    for path, variable in learnable_variables(model).items():
        variable.trainable = rates[path] is not None


def make_optimizer(
    rates: Mapping[str, float | None], phase: Mapping[str, Any], config: Mapping[str, Any], steps_per_epoch: int, policy: str
) -> keras.optimizers.Optimizer:
    """Make the optimizer of a phase: Adam, one for each distinct rate, their rates all of one shape over time.

    Args:
      rates: learning rate of each variable's path, None where frozen.
      phase: from `training.phases` of the configuration: `epochs`, `max_steps`, `warmup_epochs` and `decay`.
      config: the section `training.optimizer`: `weight_decay`, `clip_norm` and `ema_momentum`.
      steps_per_epoch: batches an epoch.
      policy: dtype policy of the model; under `mixed_float16` the loss is scaled, as small gradients would be lost.

    Returns:
      An optimizer to compile a model with.

    Raises:
      LearningRateError: the phase ends before its warm-up does.
    """
    warmup, total = round(phase["warmup_epochs"] * steps_per_epoch), phase["epochs"] * steps_per_epoch
    total = min(total, phase["max_steps"] or total)
    if warmup >= total:
        raise LearningRateError(
            f"warmup_epochs = {phase['warmup_epochs']:g} are {warmup} steps of {steps_per_epoch} an epoch, and max_steps ="
            f" {phase['max_steps']} ends the phase before; its rates would never be reached"
        )
    ema = config["ema_momentum"]

    def adam(rate: float) -> keras.optimizers.Optimizer:
        optimizer = keras.optimizers.Adam(
            schedule(rate, warmup, total, phase["decay"]),
            weight_decay=config["weight_decay"],
            use_ema=ema is not None,
            ema_momentum=0.99 if ema is None else ema,
        )
        if config["weight_decay"] is not None:
            optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        return optimizer

    adams = {rate: adam(rate) for rate in dict.fromkeys(rates.values()) if rate is not None}
    by_path = {re.escape(path): adams[rate] for path, rate in rates.items() if rate is not None}
    groups = GroupOptimizer(keras.optimizers.OptimizerMap(next(iter(adams.values())), by_path), config["clip_norm"])
    return LossScaling(groups) if policy == "mixed_float16" else groups


def schedule(
    rate: float, warmup_steps: int, total_steps: int, decay: str
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """Return a learning rate over the steps of a phase: a linear rise from 0, then constant or half a cosine down to 0.

    Args:
      rate: the highest.
      warmup_steps: of the rise; 0 starts at the highest.
      total_steps: of the phase, the rise included.
      decay: `constant` or `cosine`.
    """
    if not warmup_steps and decay == "constant":
        return rate
    return keras.optimizers.schedules.CosineDecay(
        0.0 if warmup_steps else rate,
        max(1, total_steps - warmup_steps),
        alpha=1.0 if decay == "constant" else 0.0,
        warmup_target=rate if warmup_steps else None,
        warmup_steps=warmup_steps,
    )


class GroupOptimizer(keras.optimizers.MultiOptimizer):
    """Keras's MultiOptimizer, with the gradients of all groups clipped together.

    Args:
      optimizer_map: from variables' paths to optimizers.
      clip_norm: largest global norm of all gradients; None clips nothing. "On the difficulty of training recurrent neural
        networks", Pascanu, Mikolov and Bengio, 2013.
    """

    def __init__(self, optimizer_map: keras.optimizers.OptimizerMap, clip_norm: float | None):
        super().__init__(optimizer_map)
        self._clip_norm = clip_norm

    def apply(self, grads: Sequence[tf.Tensor], trainable_variables: Sequence[keras.Variable] | None = None) -> None:
        """Clip the gradients, then let each group's optimizer apply its own.

        Args:
          grads: of this device's part of the batch; the devices' sum is what is clipped and applied.
          trainable_variables: as Keras has it.
        """
        if self._clip_norm is not None:
            devices = tf.distribute.get_strategy().num_replicas_in_sync
            if devices > 1:
                grads = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, list(grads))
            grads, _ = tf.clip_by_global_norm(grads, self._clip_norm)
            # Adam sums over the devices, which all have the same now.
            grads = [gradient / devices for gradient in grads] if devices > 1 else grads
        super().apply(grads, trainable_variables)


class LossScaling(keras.optimizers.LossScaleOptimizer):
    """Keras's, which leaves a step out where the gradients of any device overflow; Keras looks at those of the first."""

    def check_finite(self, grads: Sequence[tf.Tensor]) -> tf.Tensor:
        """Return whether all gradients of all devices are finite.

        Args:
          grads: of this device's part of the batch.
        """
        finite = super().check_finite(grads)
        devices = tf.distribute.get_strategy().num_replicas_in_sync
        if devices == 1:
            return finite
        count = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.cast(finite, tf.float32))
        return tf.equal(count, float(devices))


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


def _leaves(model: keras.Model) -> Iterator[keras.Layer]:
    for layer in model.layers:
        yield from _leaves(layer) if isinstance(layer, keras.Model) else [layer]


def _abridged(names: Sequence[str]) -> str:
    shown = list(names) if len(names) <= 6 else [*names[:3], "…", *names[-2:]]
    return ", ".join(shown)
