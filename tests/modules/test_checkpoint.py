import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import keras
import numpy as np
import pytest

from modules import checkpoint, durable, optimizers
from modules.checkpoint import Checkpoint, Position, State


def compiled(policy: str = "float32", ema: float | None = None) -> keras.Model:
    layers = [
        keras.Input((2,)),
        keras.layers.Dense(3, dtype=policy, name="one"),
        keras.layers.BatchNormalization(dtype=policy),
        keras.layers.Dropout(0.5, dtype=policy),
        keras.layers.Dense(1, dtype="float32", name="two"),
    ]
    model = keras.Sequential(layers)
    rates = {path: 0.1 if path.startswith("one") else 0.01 for path in optimizers.learnable_variables(model)}
    phase = {"epochs": 9, "max_steps": None, "warmup_epochs": 1.0, "decay": "cosine"}
    config = {"weight_decay": None, "clip_norm": 1.0, "ema_momentum": ema}
    model.compile(optimizers.make_optimizer(rates, phase, config, 2, policy), "mse", auto_scale_loss=False)
    model.optimizer.build(model.trainable_variables)
    return model


def fit(model: keras.Model, steps: int = 2) -> keras.Model:
    for step in range(steps):
        model.train_on_batch(np.arange(8.0).reshape(4, 2) + step, np.ones((4, 1)))
    return model


def values(model: keras.Model) -> list[np.ndarray]:
    return [variable.numpy() for variable in (*model.variables, *model.optimizer.variables)]


def at(epoch: int) -> State:
    """A state without a model."""
    return State(Position(epoch=epoch), {"model 0": np.arange(600.0) + epoch, "best 0": np.ones(3)})


def epoch_of_newest(folder: Path) -> int | None:
    found = Checkpoint(folder).newest()
    return None if found is None else found.position.epoch


def assert_equal(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for one, another in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, another)


@pytest.mark.parametrize(("policy", "ema"), [("float32", None), ("float32", 0.9), ("mixed_float16", None)])
def test_everything_comes_back_as_it_was(policy: str, ema: float | None, tmp_path: Path) -> None:
    model = fit(compiled(policy, ema))
    if policy == "mixed_float16":
        model.optimizer.dynamic_scale.assign(2.0**9)
    position = Position(1, 2, 3, [{"loss": 0.1}, {"loss": 0.25}], best=-0.1)
    best = [np.full((2, 1), 7.0), np.full(1, 8.0)]
    Checkpoint(tmp_path / "a" / "b").save(State.of(position, model, model.optimizer, best))
    expected = values(model)
    other = compiled(policy, ema)
    assert any((one != another).any() for one, another in zip(values(other), expected, strict=True))
    found = Checkpoint(tmp_path / "a" / "b").newest()
    assert found is not None
    assert found.position == position
    assert_equal(found.put_back(other, other.optimizer) or [], best)
    assert_equal(values(other), expected)
    # And so all that follows.
    assert_equal(values(fit(other)), values(fit(model)))


def test_a_state_that_was_copied_does_not_change_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, goes_on = fit(compiled()), threading.Event()
    expected = values(model)
    replace = durable.replace

    def slow(path: Path, write: Callable[[BinaryIO], object]) -> None:
        assert goes_on.wait(60)
        replace(path, write)

    monkeypatch.setattr(durable, "replace", slow)
    with Checkpoint(tmp_path) as saved:
        saved.begin(State.of(Position(), model, model.optimizer, None))
        assert saved.busy
        fit(model)
        assert not list(tmp_path.glob("*.npz"))
        goes_on.set()
    other = compiled()
    found = Checkpoint(tmp_path).newest()
    assert found is not None
    found.put_back(other, other.optimizer)
    assert_equal(values(other), expected)


def test_no_two_states_are_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_it: list[Path] = []
    replace = durable.replace

    def watched(path: Path, write: Callable[[BinaryIO], object]) -> None:
        at_it.append(path)
        assert len(at_it) == 1
        replace(path, write)
        at_it.remove(path)

    monkeypatch.setattr(durable, "replace", watched)
    with Checkpoint(tmp_path) as saved:
        for epoch in range(4):
            saved.begin(at(epoch))
    assert epoch_of_newest(tmp_path) == 3


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def text(path: Path) -> None:
    path.write_text("<html>")


def one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(b"NUMPY", 600) + 1000] ^= 1
    path.write_bytes(content)


def other_arrays(path: Path) -> None:
    np.savez(path.open("wb"), x=np.ones(3))


def fewer_arrays(path: Path) -> None:
    with np.load(path) as found:
        arrays = dict(list(found.items())[:-1])
    np.savez(path.open("wb"), **arrays)


def pickled(path: Path) -> None:
    np.save(path.open("wb"), np.array([{}], dtype=object), allow_pickle=True)


DAMAGES = [cut, empty, zeros, text, one_bit, other_arrays, fewer_arrays, pickled]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda one: one.__name__)
def test_the_state_before_is_taken_where_the_newest_is_damaged(
    damage: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved = Checkpoint(tmp_path)
    for epoch in (1, 2, 3):
        saved.save(at(epoch))
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2, "the newest and the one before"
    damage(files[1])
    caplog.set_level(logging.INFO)
    again = Checkpoint(tmp_path)
    found = again.newest()
    assert found is not None
    assert found.position.epoch == 2
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith(f"{files[1]}: the state of training is damaged and not used (")
    # What was damaged is no longer among the two that are kept.
    again.save(at(3))
    damage(max(tmp_path.iterdir()))
    assert epoch_of_newest(tmp_path) == 2


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda one: one.__name__)
def test_a_training_begins_anew_where_no_state_is_whole(
    damage: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved = Checkpoint(tmp_path)
    for epoch in (1, 2):
        saved.save(at(epoch))
    for path in tmp_path.iterdir():
        damage(path)
    again = Checkpoint(tmp_path)
    assert again.newest() is None
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3
    assert caplog.messages[-1] == f"{tmp_path}: no state of training is whole, so it begins anew"
    again.save(at(1))
    assert epoch_of_newest(tmp_path) == 1


def test_a_full_disk_is_a_warning_and_leaves_the_state_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    saved = Checkpoint(tmp_path)
    saved.save(at(1))

    def full(opened: BinaryIO, **arrays: object) -> None:
        opened.write(b"half a ")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(np, "savez", full)
        saved.save(at(2))
    assert "can't be saved, and training goes on without: [Errno 28] No space left on device" in caplog.text
    assert epoch_of_newest(tmp_path) == 1
    assert len(list(tmp_path.iterdir())) == 1
    saved.save(at(3))
    assert epoch_of_newest(tmp_path) == 3


def test_what_goes_wrong_in_the_background_is_heard_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(opened: BinaryIO, **arrays: object) -> None:
        raise TypeError("a fault of ours")

    monkeypatch.setattr(np, "savez", wrong)
    saved = Checkpoint(tmp_path)
    saved.begin(at(1))
    with pytest.raises(TypeError, match="a fault of ours"):
        saved.begin(at(1))
    with pytest.raises(TypeError, match="a fault of ours"), Checkpoint(tmp_path) as other:
        other.begin(at(1))


def test_without_a_folder_nothing_is_kept() -> None:
    saved = Checkpoint(None)
    saved.save(at(1))
    assert saved.newest() is None


def test_only_the_trainings_of_last_are_kept(tmp_path: Path) -> None:
    for age, name in enumerate(["new", "newer-than-old", "old", "own"]):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    checkpoint.prune(tmp_path, keep="own")
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["new", "newer-than-old", "own"]
