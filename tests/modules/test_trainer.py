from collections.abc import Sequence

import keras
import numpy as np
import pytest

from modules import trainer


def one_number(value: float = 0.0) -> keras.Model:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    model.set_weights([np.full((1, 1), value)])
    return model


def pass_epochs(best: trainer.BestWeights, values: Sequence[float], first_weight: int) -> None:
    """Let a callback see epochs whose weights are first_weight, first_weight + 1, …"""
    for epoch, value in enumerate(values):
        best.model.set_weights([np.full((1, 1), first_weight + epoch)])
        best.on_epoch_end(epoch, {best.monitor: value})
    best.on_train_end()


@pytest.mark.parametrize(
    ("monitor", "phases", "kept"),
    [
        ("val_loss", [[3.0, 1.0, 2.0]], 1),
        ("val_accuracy", [[0.3, 0.1, 0.2]], 0),
        ("val_loss", [[3.0, 1.0], [2.0, 4.0]], 1),
        ("val_loss", [[3.0, 1.0], [2.0, 0.5]], 11),
    ],
)
def test_the_best_epoch_of_all_phases_is_kept(monitor: str, phases: list[list[float]], kept: int) -> None:
    best = trainer.BestWeights(monitor)
    best.set_model(one_number())
    for number, values in enumerate(phases):
        pass_epochs(best, values, 10 * number)
    assert best.model.get_weights()[0].item() == kept


def test_training_stops_after_so_many_steps() -> None:
    model = one_number()
    model.compile(keras.optimizers.SGD(1.0), "mse")
    model.fit(np.ones((8, 1)), np.ones((8, 1)), batch_size=1, epochs=3, callbacks=[trainer.StopAfterSteps(2)], verbose=0)
    assert model.optimizer.iterations.numpy() == 2
