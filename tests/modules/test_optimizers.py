import keras
import numpy as np
import pytest
from hypothesis import given
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


def test_frozen_variables_never_change_and_the_others_move_at_their_rates() -> None:
    model = small_model()
    rules = [("head/.*", 1e-2), ("block5_.*", 1e-4), (".*", None)]
    model.compile(optimizers.apply_learning_rates(model, rules), "categorical_crossentropy")
    before = {variable.path: variable.numpy() for variable in model.weights}
    rng = np.random.default_rng(0)
    model.fit(rng.normal(size=(4, 8, 8, 3)), np.eye(3)[[0, 1, 2, 0]], batch_size=4, epochs=1, verbose=0)
    moved = {variable.path: np.abs(variable.numpy() - before[variable.path]).max() for variable in model.weights}
    assert moved["block4_conv1/kernel"] == moved["block4_conv1/bias"] == 0
    # Adam's first step has the size of the learning rate.
    assert moved["block5_conv1/kernel"] == pytest.approx(1e-4, rel=0.01)
    assert moved["head/dense/kernel"] == pytest.approx(1e-2, rel=0.01)


def test_a_later_phase_thaws_what_an_earlier_one_froze() -> None:
    model = small_model()
    optimizers.apply_learning_rates(model, [("head/.*", 1e-2), (".*", None)])
    assert len(model.trainable_variables) == 2
    optimizers.apply_learning_rates(model, [(".*", 1e-2)])
    assert len(model.trainable_variables) == 6


def test_the_summary_says_what_trains_at_which_rate() -> None:
    rates = {"head/dense/kernel": 1e-3, "head/dense/bias": 1e-3, "block5_conv1/kernel": None}
    sizes = {"head/dense/kernel": 1000, "head/dense/bias": 10, "block5_conv1/kernel": 5}
    assert optimizers.describe(rates, sizes) == [
        "learning rate 0.001: 1,010 parameters in head/dense",
        "frozen: 5 parameters in block5_conv1",
    ]
