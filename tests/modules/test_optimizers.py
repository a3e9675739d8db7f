from collections.abc import Sequence

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules import optimizers

PATHS = ["block4_conv1/kernel", "block5_conv1/kernel", "block5_conv1/bias", "head/dense/kernel"]


def small_model() -> keras.Model:
    """A stand-in with the paths of the real one: two convolutions and a head."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="block4_conv1")(inputs)
    x = keras.layers.Conv2D(4, 3, name="block5_conv1")(x)
    head = keras.Sequential(
        [keras.Input(x.shape[1:]), keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax", name="dense")],
        name="head",
    )
    return keras.Model(inputs, head(x))


def test_the_first_match_wins() -> None:
    rates = optimizers.assign_learning_rates(PATHS, [("head/.*", 1.0), (".*bias", 0.5), ("block5_.*", 0.1), (".*", None)])
    assert rates == {PATHS[0]: None, PATHS[1]: 0.1, PATHS[2]: 0.5, PATHS[3]: 1.0}


def test_a_pattern_must_match_the_whole_path() -> None:
    with pytest.raises(optimizers.LearningRateError, match="'dense' matches none"):
        optimizers.assign_learning_rates(PATHS, [("dense", 1.0), (".*", None)])


def test_a_path_without_a_rule_is_an_error() -> None:
    with pytest.raises(optimizers.LearningRateError, match="no pattern matches block4_conv1/kernel"):
        optimizers.assign_learning_rates(PATHS, [("head/.*", 1.0)])


@given(st.lists(st.one_of(st.none(), st.floats(1e-6, 1)), min_size=4, max_size=4))
def test_rules_that_name_each_path_give_it_its_rate(rates: list[float | None]) -> None:
    rules = list(zip(PATHS, rates, strict=True))
    assert optimizers.assign_learning_rates(PATHS, rules) == dict(rules)


PHASE = {"epochs": 2, "max_steps": None, "warmup_epochs": 0.0, "decay": "constant", "layer_decay": None}
PLAIN = {"weight_decay": None, "clip_norm": None, "ema_momentum": None}


def compiled(rules: Sequence[tuple[str, float | None]], options: dict | None = None, **phase: object) -> keras.Model:
    """The small model, ready to be fitted by rules, two steps an epoch."""
    model = small_model()
    rates = optimizers.rates_of(model, PHASE | {"learning_rates": rules} | phase)
    optimizers.freeze(model, rates)
    optimizer = optimizers.make_optimizer(rates, PHASE | phase, PLAIN | (options or {}), 2, "float32")
    model.compile(optimizer, "categorical_crossentropy")
    return model


def moves(model: keras.Model, steps: int = 1, scale: float = 1.0) -> list[dict[str, float]]:
    """Fit some steps; return how far each variable moved in each."""
    random = np.random.default_rng(0)
    images, labels = scale * random.normal(size=(4, 8, 8, 3)), np.eye(3)[[0, 1, 2, 0]]
    found = []
    for _ in range(steps):
        before = {variable.path: variable.numpy() for variable in model.weights}
        model.train_on_batch(images, labels)
        found.append({variable.path: np.abs(variable.numpy() - before[variable.path]).max() for variable in model.weights})
    return found


@settings(max_examples=8)
@given(st.lists(st.one_of(st.none(), st.floats(1e-4, 1e-2)), min_size=3, max_size=3).filter(any))
def test_frozen_variables_never_change_a_bit_and_each_group_moves_at_its_rate(rates: list[float | None]) -> None:
    model = compiled([("block4_.*", rates[0]), ("block5_.*", rates[1]), ("head/.*", rates[2])])
    (moved,) = moves(model)
    for path, rate in zip(("block4_conv1/kernel", "block5_conv1/kernel", "head/dense/kernel"), rates, strict=True):
        # Adam's first step has the size of the learning rate.
        assert moved[path] == (0 if rate is None else pytest.approx(rate, rel=0.01))
    (again, third) = moves(model, 2)
    for path, rate in zip(("block4_conv1/bias", "block5_conv1/bias", "head/dense/bias"), rates, strict=True):
        assert (again[path] == third[path] == 0) == (rate is None)


def test_a_later_phase_thaws_what_an_earlier_one_froze() -> None:
    model = small_model()
    for rules, count in (([("head/.*", 1e-2), (".*", None)], 2), ([(".*", 1e-2)], 6)):
        optimizers.freeze(model, optimizers.rates_of(model, PHASE | {"learning_rates": rules}))
        assert len(model.trainable_variables) == count


def test_batch_statistics_are_frozen_with_their_layer() -> None:
    inputs = keras.Input((4,))
    normalization = keras.layers.BatchNormalization(momentum=0.5, name="normalization")
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax", name="dense")(normalization(inputs)))
    for rate in (None, 1e-3):
        rates = optimizers.rates_of(model, PHASE | {"learning_rates": [("normalization/.*", rate), (".*", 1e-3)]})
        optimizers.freeze(model, rates)
        model.compile(optimizers.make_optimizer(rates, PHASE, PLAIN, 1, "float32"), "categorical_crossentropy")
        before = normalization.moving_mean.numpy()
        model.train_on_batch(np.full((4, 4), 5.0) + np.eye(4), np.eye(3)[[0, 1, 2, 0]])
        assert (normalization.moving_mean.numpy() == before).all() == (rate is None)


def test_warm_up_and_cosine_shape_every_groups_rate_alike() -> None:
    rules = [("head/.*", 1e-2), ("block5_.*", 1e-4), (".*", None)]
    model = compiled(rules, epochs=4, warmup_epochs=2.0, decay="cosine")
    rates = [[float(one.learning_rate.numpy()) for one in model.optimizer.optimizers]]
    for _ in range(8):
        moves(model)
        rates.append([float(one.learning_rate.numpy()) for one in model.optimizer.optimizers])
    shape = [0, 0.25, 0.5, 0.75, 1, (2 + np.sqrt(2)) / 4, 0.5, (2 - np.sqrt(2)) / 4, 0]
    np.testing.assert_allclose(rates, np.outer(shape, [1e-4, 1e-2]), atol=1e-8)


def test_a_phase_that_max_steps_ends_is_all_that_its_decay_has() -> None:
    model = compiled([("head/.*", 1e-2), (".*", None)], epochs=4, max_steps=2, decay="cosine")
    (one,) = model.optimizer.optimizers
    rates = [float(one.learning_rate.numpy())]
    for _ in range(2):
        moves(model)
        rates.append(float(one.learning_rate.numpy()))
    assert rates == pytest.approx([1e-2, 0.5e-2, 0])


def test_a_warm_up_that_outlasts_max_steps_is_an_error() -> None:
    with pytest.raises(optimizers.LearningRateError, match="are 4 steps of 2 an epoch, and max_steps = 4 ends the phase"):
        compiled([(".*", 1e-2)], epochs=4, max_steps=4, warmup_epochs=2.0)


def test_without_decay_the_rate_stays_after_the_warm_up() -> None:
    rates = [float(optimizers.schedule(0.3, 2, 6, "constant")(step)) for step in range(6)]
    assert rates == pytest.approx([0, 0.15, 0.3, 0.3, 0.3, 0.3])
    assert optimizers.schedule(0.3, 0, 6, "constant") == 0.3


def test_layer_decay_fills_the_blocks_and_given_rules_win() -> None:
    rules = [("head/.*", 1e-2), ("block[12]_.*", None)]
    filled = optimizers.with_layer_decay(rules, 0.1)
    paths = [f"block{block}_conv1/kernel" for block in range(1, 6)] + ["head/dense/kernel"]
    rates = optimizers.assign_learning_rates(paths, filled)
    assert list(rates.values()) == [None, None, *(pytest.approx(rate) for rate in (1e-5, 1e-4, 1e-3, 1e-2))]
    assert optimizers.with_layer_decay(rules, None) == rules


def test_gradients_of_all_groups_are_clipped_by_their_common_norm() -> None:
    variables = [keras.Variable([0.0], name=name) for name in ("one", "two")]
    groups = keras.optimizers.OptimizerMap(keras.optimizers.SGD(1.0), {"two": keras.optimizers.SGD(0.1)})
    optimizer = optimizers.GroupOptimizer(groups, clip_norm=1.0)
    optimizer.apply([np.array([3.0], np.float32), np.array([4.0], np.float32)], variables)
    assert [variable.numpy().item() for variable in variables] == pytest.approx([-0.6, -0.08])


def test_weight_decay_shrinks_kernels_and_leaves_biases() -> None:
    model = compiled([(".*", 1e-3)], {"weight_decay": 0.5})
    with_decay = {variable.path: variable for variable in model.weights}
    for variable in with_decay.values():
        variable.assign(np.full(variable.shape, 100.0))
    moved = moves(model)[0]
    # The step of Adam itself is at most its rate; decay takes rate * decay * 100.
    assert moved["head/dense/kernel"] == pytest.approx(0.05, abs=2e-3)
    assert moved["head/dense/bias"] <= 2e-3


def test_the_summary_says_what_trains_at_which_rate() -> None:
    rates = {"head/dense/kernel": 1e-3, "head/dense/bias": 1e-3, "block5_conv1/kernel": None}
    sizes = {"head/dense/kernel": 1000, "head/dense/bias": 10, "block5_conv1/kernel": 5}
    assert optimizers.describe(rates, sizes) == [
        "learning rate 0.001: 1,010 parameters in head/dense",
        "frozen: 5 parameters in block5_conv1",
    ]
