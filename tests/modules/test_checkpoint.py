import os
from pathlib import Path

import keras
import numpy as np
import pytest

from modules import checkpoint


def fitted() -> keras.Model:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1), keras.layers.Dropout(0.5)])
    model.compile(keras.optimizers.Adam(0.1), "mse")
    model.train_on_batch(np.ones((4, 2)), np.ones((4, 1)))
    return model


def state(model: keras.Model) -> list[np.ndarray]:
    return [variable.numpy() for variable in (*model.variables, *model.optimizer.variables)]


def test_everything_comes_back_as_it_was(tmp_path: Path) -> None:
    saved, model = checkpoint.Checkpoint(tmp_path / "state"), fitted()
    position = checkpoint.Position(1, 2, 3, [{"loss": 0.1}, {"loss": 0.25}], best=-0.1)
    best = [np.full((2, 1), 7.0), np.full(1, 8.0)]
    saved.save(position, model, model.optimizer, best)
    expected = state(model)
    other = fitted()
    assert any((one != another).any() for one, another in zip(state(other), expected, strict=True))
    found = saved.restore(other, other.optimizer)
    assert saved.position() == position
    for one, another in zip([*state(other), *(found or [])], [*expected, *best], strict=True):
        np.testing.assert_array_equal(one, another)


def test_a_state_that_was_cut_while_written_is_not_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved, model = checkpoint.Checkpoint(tmp_path), fitted()
    saved.save(checkpoint.Position(epoch=1), model, model.optimizer, None)

    def cut(opened: object, **arrays: object) -> None:
        opened.write(b"half a ")  # type: ignore[attr-defined]
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(np, "savez", cut)
        with pytest.raises(OSError, match="no space"):
            saved.save(checkpoint.Position(epoch=2), model, model.optimizer, None)
    assert saved.position() == checkpoint.Position(epoch=1)
    saved.save(checkpoint.Position(epoch=3), model, model.optimizer, None)
    assert saved.position() == checkpoint.Position(epoch=3)


def test_without_a_folder_nothing_is_kept() -> None:
    saved, model = checkpoint.Checkpoint(None), fitted()
    saved.save(checkpoint.Position(epoch=2), model, model.optimizer, None)
    assert saved.position() == checkpoint.Position()
    assert saved.restore(model, None) is None


def test_only_the_trainings_of_last_are_kept(tmp_path: Path) -> None:
    for age, name in enumerate(["new", "newer-than-old", "old", "own"]):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    checkpoint.prune(tmp_path, keep="own")
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["new", "newer-than-old", "own"]
