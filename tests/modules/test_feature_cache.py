import errno
import gc
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs import schema
from modules import batches, dataset, feature_cache, model, needs, optimizers, progress, segments, trainer
from tests.modules import trainings
from tests.modules.test_dataset import write_split

BUDGET = 10**9
STATE = 60 * (7_079_424 + 8_325)
"""Bytes for the state of a training of block 5 and the head of `trainings`."""


def prefix_of_two(factor: float = 2.0, dtype: str = "float32") -> keras.Model:
    """A frozen layer that doubles a 2 x 2 x 3 image."""
    images = keras.Input((2, 2, 3))
    layer = keras.layers.Conv2D(3, 1, use_bias=False, name="double", dtype=dtype)
    prefix = keras.Model(images, layer(images))
    layer.set_weights([factor * np.eye(3)[np.newaxis, np.newaxis]])
    return prefix


def numbered(path: Path, numbers: Sequence[int]) -> dataset.Split:
    """Pictures filled with their own number, and their labels, of two classes."""
    pictures = [np.full((2, 2, 3), number, np.uint8) for number in numbers]
    return write_split(path, pictures, [number % 2 for number in numbers], 2)


def cache(root: Path, prefix: keras.Model | None = None, code: str = "code") -> feature_cache.FeatureCache:
    return feature_cache.FeatureCache(root, prefix or prefix_of_two(), 3, code)


def view(root: Path, split: dataset.Split, **options: Any) -> feature_cache.View:
    (found,) = cache(root, **options).views([feature_cache.Wanted("view", split)], BUDGET)
    return found


def full(*_: object) -> None:
    """Stand in the way of all writing, as a full disk does."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def computed(caplog: pytest.LogCaptureFixture) -> list[int]:
    """How many pictures went through the prefix for each view."""
    return [record.args[1] for record in caplog.records if record.msg.startswith("%s: %d pictures,")]


def content(view: feature_cache.View) -> dict[int, int]:
    """The label of each row, by the row's value."""
    rows = np.arange(len(view))
    return dict(
        zip(view.features(rows)[:, 0, 0, 0].astype(int).tolist(), view.labels(rows).argmax(-1).tolist(), strict=True)
    )


def test_a_view_holds_the_prefixs_output_of_every_picture_in_the_order_of_ids(tmp_path: Path) -> None:
    split = numbered(tmp_path / "split.gz", range(8))
    found = view(tmp_path / "kept", split)
    rows = np.arange(8)
    assert found.features(rows).dtype == np.float16
    np.testing.assert_array_equal(found.features(rows)[:, 1, 1, 2], 2 * np.argsort(split.contents.ids))
    assert content(found) == {2 * number: number % 2 for number in range(8)}
    np.testing.assert_array_equal(found.features(rows[::-2]), found.features(rows)[::-2])
    files = sum(file.stat().st_size for file in tmp_path.glob("kept/views/**/*") if file.is_file())
    assert files == pytest.approx(8 * feature_cache.row_bytes((2, 2, 3)), abs=1000)


def test_the_order_of_the_files_and_the_labels_ids_change_no_row(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = view(tmp_path / "kept", numbered(tmp_path / "one.gz", range(8)))
    reversed_split = numbered(tmp_path / "other.gz", range(7, -1, -1))
    swapped = reversed_split._replace(
        contents=reversed_split.contents._replace(label_ids=1 - reversed_split.contents.label_ids)
    )
    with caplog.at_level(logging.INFO, progress.logger.name):
        again = view(tmp_path / "kept", swapped)
    assert not computed(caplog)
    rows = np.arange(8)
    np.testing.assert_array_equal(again.features(rows), first.features(rows))
    np.testing.assert_array_equal(again.labels(rows), 1 - first.labels(rows))


def test_only_new_pictures_go_through_the_prefix(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    view(tmp_path / "kept", numbered(tmp_path / "before.gz", range(200)))
    with caplog.at_level(logging.INFO, progress.logger.name):
        found = view(tmp_path / "kept", numbered(tmp_path / "after.gz", [*range(100, 202), *range(3, 100)]))
    assert computed(caplog) == [2]
    assert content(found) == {2 * number: number % 2 for number in range(3, 202)}


def test_few_pictures_change_their_partner_with_few_new_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    augment = schema.Augmentation(mix="mixup", rotation=0, zoom=(1, 1), width_shift=0, height_shift=0).model_dump(
        mode="json"
    )

    def mixed(split: dataset.Split) -> feature_cache.View:
        wanted = feature_cache.Wanted("mixed", split, 1, augment, 0)
        return cache(tmp_path / "kept").views([wanted], BUDGET)[0]

    mixed(numbered(tmp_path / "before.gz", range(200)))
    after = numbered(tmp_path / "after.gz", range(204))
    with caplog.at_level(logging.INFO, progress.logger.name):
        found = mixed(after)
    assert 4 <= computed(caplog)[0] <= 16
    order = np.argsort(after.contents.ids)
    partners = feature_cache._partners(after.contents.ids, 1, 0)
    assert (partners != np.arange(204)).all()
    shares = found.labels(np.arange(204))[np.arange(204), order % 2]
    differ = (order % 2) != (partners[order] % 2)
    expected = 2 * (shares * order + (1 - shares) * partners[order])
    np.testing.assert_allclose(found.features(np.arange(204))[differ, 0, 0, 0], expected[differ], rtol=2e-3, atol=0.2)


def test_a_view_that_was_cut_short_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(feature_cache, "_SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr(feature_cache, "_PART_BETWEEN_SAVES", 0.0)
    split = numbered(tmp_path / "split.gz", range(8))
    whole = view(tmp_path / "whole", split)
    cut = cache(tmp_path / "kept")
    forward, done = cut._forward, []

    def broken(images: tf.Tensor) -> tf.Tensor:
        done.append(len(images))
        if len(done) == 3:
            raise KeyboardInterrupt
        return forward(images)

    cut._forward = broken
    with pytest.raises(KeyboardInterrupt):
        cut.views([feature_cache.Wanted("view", split)], BUDGET)
    with caplog.at_level(logging.INFO, progress.logger.name):
        again = view(tmp_path / "kept", split)
    assert computed(caplog) == [2]
    np.testing.assert_array_equal(again.features(np.arange(8)), whole.features(np.arange(8)))


def test_large_values_stay_finite(tmp_path: Path) -> None:
    found = view(tmp_path / "kept", numbered(tmp_path / "split.gz", range(3)), prefix=prefix_of_two(1e6))
    assert found.features(np.arange(3)).max() == np.finfo(np.float16).max


@pytest.mark.parametrize(
    "options",
    [
        {"code": "new code"},
        {"prefix": lambda: prefix_of_two(4.0)},
        {"prefix": lambda: prefix_of_two(dtype="mixed_bfloat16")},
    ],
)
def test_rows_are_found_by_the_weights_the_precision_and_the_code(
    options: dict, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    split = numbered(tmp_path / "split.gz", range(4))
    view(tmp_path / "kept", split)
    with caplog.at_level(logging.INFO, progress.logger.name):
        view(tmp_path / "kept", split, **{name: value() if callable(value) else value for name, value in options.items()})
        view(tmp_path / "kept", split)
    assert computed(caplog) == [4]


def test_rows_used_longest_ago_make_way_but_for_what_is_in_use(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "kept"
    splits = {name: numbered(tmp_path / f"{name}.gz", range(start, start + 4)) for start, name in enumerate(("old", "held"))}
    view(root, splits["old"], code="old")
    held = view(root, splits["held"], code="held")
    one = segments.size(root / "views") // 2
    wanted = feature_cache.Wanted("view", splits["old"])
    (found,) = cache(root, code="new").views([wanted], 2 * one)
    assert len(list(root.glob("views/*/*/*"))) == 2, "the old one is gone"
    assert content(held) == {2 * number: number % 2 for number in range(1, 5)}
    with pytest.raises(OSError, match="are in use"):
        cache(root, code="newer").views([wanted], 2 * one)
    del held
    cache(root, code="newer").views([wanted], 2 * one)
    assert content(found) == {2 * number: number % 2 for number in range(4)}


def test_what_one_of_two_plain_views_needs_is_not_made_anew_for_the_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "kept"
    watched, train = numbered(tmp_path / "eval.gz", range(20)), numbered(tmp_path / "train.gz", range(20, 40))
    cache(root).views([feature_cache.Wanted("old", numbered(tmp_path / "old.gz", range(40, 60)))], BUDGET)
    view(root, watched)
    wanted = [feature_cache.Wanted("eval view", watched), feature_cache.Wanted("plain view", train)]
    with caplog.at_level(logging.INFO, progress.logger.name):
        cache(root).views(wanted, segments.size(root))
    assert computed(caplog) == [20], "the training pictures alone"


def test_rows_that_are_no_longer_needed_do_not_pile_up(tmp_path: Path) -> None:
    # A window of 20 pictures that moves on by 2 a night, in room for little more.
    root, budget = tmp_path / "kept", 24 * feature_cache.row_bytes((2, 2, 3)) + 10_000
    for night in range(30):
        split = numbered(tmp_path / "split.gz", range(2 * night, 2 * night + 20))
        (found,) = cache(root).views([feature_cache.Wanted("view", split)], budget)
        assert content(found) == {2 * number: number % 2 for number in range(2 * night, 2 * night + 20)}
        del found
        # What a segment says of itself is not counted.
        assert segments.size(root) <= budget + 1000


def views_of(tmp_path: Path, count: int) -> list[feature_cache.View]:
    """Views whose values say which they are: 100 times their number, and the picture's in the first channel alone."""
    return [
        view(tmp_path / f"kept{number}", numbered(tmp_path / "split.gz", range(7)), prefix=shifting(100 * number))
        for number in range(count)
    ]


def shifting(by: int) -> keras.Model:
    images = keras.Input((2, 2, 3))
    layer = keras.layers.Conv2D(3, 1, name="shift")
    prefix = keras.Model(images, layer(images))
    layer.set_weights([np.diag([1, 0, 0])[np.newaxis, np.newaxis], np.full(3, by)])
    return prefix


def test_each_epoch_has_every_picture_once_somewhere_between_two_of_its_views(tmp_path: Path) -> None:
    kept = feature_cache.training_batches(views_of(tmp_path, 3), 3, seed=1)
    found = in_epochs(kept, 20)
    epochs = [np.concatenate([features for features, _ in epoch]) for epoch in found]
    numbers = [epoch[:, 0, 0, 0] for epoch in epochs]
    labels = [np.concatenate([labels for _, labels in epoch]) for epoch in found]
    for epoch, values, one_hot in zip(epochs, numbers, labels, strict=True):
        # Which picture it is, and how far it is shifted: all of its channels alike.
        picture = np.round(epoch[:, 0, 0, 0] - epoch[:, 0, 0, 1]).astype(int)
        assert len(picture) == 9, "the last batch is filled up"
        assert set(picture) == set(range(7))
        assert (one_hot.argmax(-1) == picture % 2).all()
        assert values.min() > -0.5
        assert values.max() < 207
    shifts = np.concatenate([epoch[:, 0, 0, 1] for epoch in epochs])
    assert len({tuple(values) for values in numbers}) == 20
    assert np.mean(np.isin(np.round(shifts, 2), [0, 100, 200])) == pytest.approx(1 / 3, abs=0.12), "both are the same one"
    assert shifts.mean() == pytest.approx(100, abs=12)


def test_labels_of_mixed_pictures_are_as_far_between_as_the_features(tmp_path: Path) -> None:
    augment = schema.Augmentation(
        mix="mixup", mixup_alpha=1.0, rotation=0, zoom=(1, 1), width_shift=0, height_shift=0, horizontal_flip=False
    ).model_dump(mode="json")
    split = numbered(tmp_path / "split.gz", [0, 101])
    wanted = [feature_cache.Wanted(f"view {epoch}", split, 1, augment, epoch) for epoch in range(3)]
    views = cache(tmp_path / "kept").views(wanted, BUDGET)
    for features, labels in feature_cache.training_batches(views, 2, 1).take(10).as_numpy_iterator():
        np.testing.assert_allclose(features[:, 0, 0, 0], 202 * labels[:, 1], atol=0.3)
        np.testing.assert_allclose(labels.sum(-1), 1, atol=1e-5)


def in_epochs(kept: tf.data.Dataset, count: int) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    found = list(kept.take(3 * count).as_numpy_iterator())
    return [found[start : start + 3] for start in range(0, len(found), 3)]


def test_no_iterator_waits_for_a_thread_that_tunes_it(tmp_path: Path) -> None:
    views = views_of(tmp_path, 1)
    for kept in (feature_cache.training_batches(views, 3, 1), feature_cache.evaluation_batches(views[0], 3)):
        assert kept.options().autotune.enabled is False


def test_training_on_views_goes_on_from_any_step(tmp_path: Path) -> None:
    views = views_of(tmp_path, 2)
    whole = list(feature_cache.training_batches(views, 3, 1).take(9).as_numpy_iterator())
    for step in (1, 4, 6):
        rest = feature_cache.training_batches(views, 3, 1, step // 3, step % 3).take(9 - step).as_numpy_iterator()
        for one, other in zip(rest, whole[step:], strict=True):
            np.testing.assert_array_equal(one[0], other[0])
            np.testing.assert_array_equal(one[1], other[1])


def prepared(tmp_path: Path, changes: dict | None = None) -> tuple[keras.Model, batches.Batches, trainer.Inputs, dict]:
    config, inputs = trainings.config(tmp_path, changes), trainings.inputs(tmp_path)
    classifier = trainer.build(inputs.train, config, "float32")
    source = batches.prepare(classifier, inputs.train, inputs.evaluation, config, tmp_path / "work")
    return classifier, source, inputs, config


def test_the_suffix_on_kept_features_agrees_with_the_whole_model_on_the_same_view(tmp_path: Path) -> None:
    classifier, source, inputs, config = prepared(tmp_path)
    assert source.kept
    view, rows = source._augmented[0], np.arange(20)
    kept = view.features(rows)
    batches = dataset.view_batches(inputs.train, rows, 8, 1, config["augmentation"], 0)
    images = np.concatenate([images for images, _ in batches.as_numpy_iterator()])
    order = np.argsort(inputs.train.contents.ids)
    assert kept.shape == (20, 2, 2, 512)
    found, expected = source.model.predict(kept, verbose=0), classifier.predict(images[order], verbose=0)
    assert expected.std(axis=0).max() > 0.01
    np.testing.assert_allclose(found, expected, atol=2e-3)
    np.testing.assert_array_equal(view.labels(rows), np.eye(3)[inputs.train.contents.label_ids[order]])


def test_the_prefix_ends_below_the_lowest_layer_that_is_ever_trained(tmp_path: Path) -> None:
    config, inputs = trainings.config(tmp_path), trainings.inputs(tmp_path)
    classifier = trainer.build(inputs.train, config, "float32")
    for rules, last in (
        ([["head/.*", 1e-3], [".*", None]], "block5_pool"),
        ([["head/.*", 1e-3], ["block5_conv3/.*", 1e-5], [".*", None]], "block5_conv2"),
        ([["head/.*", 1e-3], ["block3_.*", 1e-5], [".*", None]], "block2_pool"),
    ):
        phase = config["training"]["phases"][0] | {"learning_rates": rules}
        parts = model.split(classifier, optimizers.trained_paths(classifier, [phase]))
        assert parts is not None
        assert parts[0].layers[-1].name == last
    assert model.split(classifier, {"block1_conv1/kernel"}) is None


@pytest.mark.parametrize(
    ("cache_options", "comes"),
    [
        ({"views": "auto"}, [1, 1, 2, 2]),
        ({"views": 3}, [1, 2, 3, 3]),
        ({"views": 9}, [1, 2, 3, 4]),
        ({"views": "auto", "max_bytes": STATE + 150_000}, [1, 1, 1, 1]),
    ],
)
def test_the_number_of_views_follows_from_the_epochs_and_the_budget(
    tmp_path: Path, cache_options: dict, comes: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    views = comes[-1]
    with caplog.at_level(logging.INFO, progress.logger.name):
        _, source, _, config = prepared(tmp_path, {"training": {"cache": cache_options}})
    assert source.kept
    for epoch, made in enumerate(comes):
        others = next((later - epoch for later in range(epoch + 1, 4) if comes[later] > made), None)
        assert source.training(config["training"]["phases"][0], epoch, 0)[1] == others
        augmented = [*(tmp_path / "work" / "features").glob("views/*/view-*")]
        assert len(source._augmented) == len(augmented) + (made > 1) == made
    assert f"{views} view" in caplog.text
    assert ("one of them plain, for 4 augmented epochs" in caplog.text) == (views > 1)
    assert "block4_pool" in caplog.text


def test_a_quarter_of_the_free_disk_may_be_taken_by_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, length in (("features", 300), ("checkpoints", 100)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "kept").write_bytes(bytes(length))
    monkeypatch.setattr(needs.shutil, "disk_usage", lambda _: SimpleNamespace(free=1600))
    # A quarter of 2,000 is 500, of which the states have 100, and will have 50 more.
    assert needs._budget(tmp_path, "auto", 50) == 350
    assert needs._budget(tmp_path, 10**6, 50) == 1850, "all that is free, and what may be evicted"
    assert needs._budget(tmp_path, 200, 50) == 50


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"cache": {"views": 0}}, "off"),
        ({"cache": {"views": 3, "max_bytes": STATE + 200_000}}, "don't fit"),
        ({"cache": {"max_bytes": 1000}}, "don't fit"),
        ({"phases": [{"name": "all", "epochs": 1, "learning_rates": [[".*", 1e-5]]}]}, "no layer stays frozen"),
    ],
)
def test_what_can_not_be_kept_is_done_on_the_fly_and_said(
    tmp_path: Path, changes: dict, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, progress.logger.name):
        classifier, source, _, _ = prepared(tmp_path, {"training": changes})
    assert source.model is classifier
    assert why in caplog.text
    assert not list(tmp_path.glob("work/features/views/*/*"))


def test_a_disk_that_becomes_full_ends_nothing_and_the_next_run_with_room_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    add, added = segments.Writer.add, []

    def full(self: segments.Writer, ids: np.ndarray, *rest: np.ndarray) -> None:
        if len(added) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        added.append(len(ids))
        add(self, ids, *rest)

    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING, progress.logger.name):
        patched.setattr(segments.Writer, "add", full)
        classifier, source, _, _ = prepared(tmp_path)
    assert source.model is classifier, "on the fly"
    assert re.search(r"No space left on device, [\d.,]+ MB were needed and [\d.,]+ MB are free", caplog.text)
    assert not list((tmp_path / "work" / "features").glob("unfinished/*"))
    caplog.clear()
    with caplog.at_level(logging.INFO, progress.logger.name):
        _, source, _, _ = prepared(tmp_path)
    assert source.kept
    # Of the 7 of eval and the view of 20 the first were whole.
    assert computed(caplog) == [20]


def test_a_disk_that_becomes_full_later_leaves_the_views_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _, source, _, config = prepared(tmp_path)
    monkeypatch.setattr(segments.Writer, "add", full)
    with caplog.at_level(logging.WARNING, progress.logger.name):
        for epoch in (2, 3):
            found, others = source.training(config["training"]["phases"][0], epoch, 0)
            assert next(iter(found))[0].shape == (8, 2, 2, 512)
            assert others is None
    assert caplog.text.count("feature cache: No space left on device, 1 views have to do") == 1


def test_who_is_asked_to_end_while_a_view_is_made_keeps_what_there_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, source, _, config = prepared(tmp_path)
    asked = iter([False, True, True])
    with pytest.raises(KeyboardInterrupt):
        source.training(config["training"]["phases"][1], 2, 0, lambda: next(asked))
    with caplog.at_level(logging.INFO, progress.logger.name):
        prepared(tmp_path)[1].training(config["training"]["phases"][1], 2, 0)
    assert computed(caplog) == [4], "16 of 20 were kept"


def test_the_second_view_is_of_the_pictures_as_they_are(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    classifier, source, inputs, config = prepared(tmp_path)
    source.training(config["training"]["phases"][1], 2, 0)
    first, second = (view.features(np.arange(20)) for view in source._augmented)
    parts = model.split(classifier, optimizers.trained_paths(classifier, config["training"]["phases"]))
    assert parts is not None
    pictures = np.concatenate([found.numpy() for found, _ in dataset.evaluation_batches(inputs.train, 20)])
    expected = parts[0].predict(pictures, verbose=0)[np.argsort(inputs.train.contents.ids)]
    np.testing.assert_allclose(second, expected, rtol=2e-3, atol=2e-2)
    assert np.abs(first.astype(np.float32) - expected).max() > 1


def test_a_later_run_that_matches_finds_the_views(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    prepared(tmp_path)
    with caplog.at_level(logging.INFO, progress.logger.name):
        prepared(tmp_path, {"training": {"label_smoothing": 0.1}, "model": {"dropout": 0.3}})
        assert "pictures," not in caplog.text
        prepared(tmp_path, {"augmentation": {"rotation": 12.0}})
    assert caplog.text.count("view 1: 20 pictures") == 1
    assert "plain view" not in caplog.text.split("view 1: 20 pictures")[1]


def test_a_phase_without_augmentation_gets_the_plain_pictures(tmp_path: Path) -> None:
    phases = [trainings.BASE["training"]["phases"][0], trainings.BASE["training"]["phases"][1] | {"augmentation": False}]
    _, source, inputs, config = prepared(tmp_path, {"training": {"phases": phases}})
    _, on_the_fly, _, _ = prepared(tmp_path, {"training": {"phases": phases, "cache": {"views": 0}}})
    plain = {
        picture.tobytes() for pictures, _ in dataset.evaluation_batches(inputs.train, 8) for picture in pictures.numpy()
    }
    fed = next(iter(on_the_fly.training(config["training"]["phases"][1], 2, 0)[0]))[0]
    assert {picture.tobytes() for picture in fed.numpy()} <= plain
    features = next(iter(source.training(config["training"]["phases"][1], 2, 0)[0]))[0].numpy().astype(np.float16)
    kept = source._plain[0].features(np.arange(20))
    assert {row.tobytes() for row in features} <= {row.tobytes() for row in kept}


HEAD, FINETUNE = trainings.config(Path())["training"]["phases"]


@pytest.mark.parametrize("changes", [{}, {"augmentation": {"mix": "cutmix"}}])
def test_a_phase_that_trains_the_head_alone_is_fed_with_what_block_5_makes_of_the_views(
    tmp_path: Path, changes: dict, caplog: pytest.LogCaptureFixture
) -> None:
    classifier, source, _, config = prepared(tmp_path, changes)
    head, finetune = config["training"]["phases"]
    with caplog.at_level(logging.INFO, progress.logger.name):
        top = source.begin(head, 0)
    assert computed(caplog) == [7, 20]
    assert "view 1 at block5_pool: 20 pictures" in caplog.text
    parts = model.split_suffix(source.model, optimizers.trained_paths(classifier, [head]))
    assert parts is not None
    frozen, _ = parts
    assert [layer.name for layer in top.layers[1:]] == ["head"]
    view = source._augmented[0]
    features, labels = next(iter(source.training(head, 0, 0)[0]))
    assert features.shape == (8, 1, 1, 512)
    expected_rows = frozen.predict(view.features(np.arange(20)).astype(np.float32), verbose=0)
    rows = np.argmin(np.abs(features.numpy()[:, None, 0, 0] - expected_rows[None, :, 0, 0]).sum(-1), axis=1)
    np.testing.assert_allclose(features, expected_rows[rows], rtol=2e-3, atol=2e-2)
    np.testing.assert_allclose(labels, view.labels(rows), atol=1e-6)
    # It is the same function, in training and in evaluation, before and after.
    kept, labels = next(iter(source.evaluation()))
    source.begin(finetune, 2)
    below, same_labels = next(iter(source.evaluation()))
    assert below.shape == (7, 2, 2, 512)
    np.testing.assert_array_equal(labels, same_labels)
    np.testing.assert_allclose(top(kept), source.model(below), atol=2e-3)
    assert next(iter(source.training(finetune, 2, 0)[0]))[0].shape == (8, 2, 2, 512)


def test_what_is_kept_above_the_prefix_is_found_again_unless_its_weights_are_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepared(tmp_path)[1].begin(HEAD, 0)
    _, source, _, _ = prepared(tmp_path)
    with caplog.at_level(logging.INFO, progress.logger.name):
        source.begin(HEAD, 0)
        assert not computed(caplog)
        layer = source.model.get_layer("block5_conv2")
        layer.set_weights([1.5 * values for values in layer.get_weights()])
        source.begin(HEAD, 0)
    assert computed(caplog) == [7, 20]


@pytest.mark.parametrize(
    ("changes", "phase", "epoch"),
    [
        ({"cache": {"views": 2}}, FINETUNE, 2),
        ({"cache": {"views": 4}}, HEAD, 0),
        ({"phases": [HEAD | {"max_steps": 2}, FINETUNE]}, HEAD | {"max_steps": 2}, 0),
    ],
)
def test_nothing_is_kept_above_the_prefix_where_it_saves_no_pass(
    tmp_path: Path, changes: dict, phase: dict, epoch: int
) -> None:
    _, source, _, _ = prepared(tmp_path, {"training": changes})
    assert source.begin(phase, epoch) is source.model
    assert next(iter(source.training(phase, epoch, 0)[0]))[0].shape == (8, 2, 2, 512)


def test_what_is_above_the_prefix_is_kept_only_beside_all_views(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = 47 * feature_cache.row_bytes((2, 2, 512)), 27 * feature_cache.row_bytes((1, 1, 512))
    for number, room in enumerate((sum(rows) + 20_000, sum(rows) - 1, rows[0] + 10_000)):
        options = {"cache": {"views": 2, "max_bytes": STATE + room}}
        with caplog.at_level(logging.INFO, progress.logger.name):
            _, source, _, _ = prepared(tmp_path / str(number), {"training": options})
        assert (source.begin(HEAD, 0) is source.model) == (number > 0)
        source.begin(FINETUNE, 2)
        source.training(FINETUNE, 2, 0)
        assert len(source._augmented) == 2
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert caplog.text.count("0.0 MB further up; ") == 1
    assert caplog.text.count("0.0 MB further up, which do not fit; ") == 2


def test_an_epoch_that_has_several_views_has_points_between_what_they_become(tmp_path: Path) -> None:
    phases = [HEAD | {"epochs": 5}, FINETUNE | {"epochs": 1}]
    _, source, _, config = prepared(tmp_path, {"training": {"phases": phases}})
    head = config["training"]["phases"][0]
    source.begin(head, 0)
    assert source.training(head, 0, 0)[1] == 3
    features, labels = next(iter(source.training(head, 3, 0)[0]))
    first, second = (view.features(np.arange(20)).astype(np.float32) for view in source._above.of(source._augmented))
    # The way over each picture, from one of its ends to the other, is no longer than the straight one.
    apart = np.abs(first - second).sum((1, 2, 3))
    off = [np.abs(features.numpy()[:, None] - ends[None]).sum((2, 3, 4)) for ends in (first, second)]
    longer = off[0] + off[1] - apart
    rows = np.argmin(longer, axis=1)
    assert longer[np.arange(8), rows].max() < 1e-3 * apart.min()
    assert np.min(off, axis=0)[np.arange(8), rows].max() > 0
    np.testing.assert_allclose(labels, source._augmented[0].labels(rows), atol=1e-6)


def test_who_is_asked_to_end_while_views_become_others_keeps_what_there_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = iter([False, False, False, True, True])
    with pytest.raises(KeyboardInterrupt):
        prepared(tmp_path)[1].begin(HEAD, 0, lambda: next(asked))
    _, source, _, _ = prepared(tmp_path)
    with caplog.at_level(logging.INFO, progress.logger.name):
        source.begin(HEAD, 0)
    assert computed(caplog) == [4], "16 of 20 were kept"


def test_views_that_an_earlier_run_left_for_later_epochs_are_not_the_first_to_make_way(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    room = STATE + 67 * feature_cache.row_bytes((2, 2, 512)) + 20_000
    inputs = trainings.inputs(tmp_path)

    def source(pictures: int, changes: dict) -> batches.FromFeatures:
        gc.collect()  # or an earlier one's views would be in use
        config = trainings.config(tmp_path, changes)
        classifier = trainer.build(inputs.train, config, "float32")
        train = inputs.train.part(np.arange(pictures))
        found = batches.prepare(classifier, train, inputs.evaluation, config, tmp_path / "work")
        assert isinstance(found, batches.FromFeatures)
        return found

    source(19, {"training": {"cache": {"views": 3}}})._views(FINETUNE, 2, lambda: False)
    source(19, {"augmentation": {"rotation": 12.0}, "training": {"cache": {"views": 1}}})
    with caplog.at_level(logging.INFO, progress.logger.name):
        source(20, {"training": {"cache": {"views": 3, "max_bytes": room}}})._views(FINETUNE, 2, lambda: False)
    assert "used longest ago, are evicted" in caplog.text
    assert computed(caplog) == [1, 1, 1]


def test_what_is_no_longer_needed_of_a_view_makes_way_for_what_is_new_in_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"cache": {"views": 1, "max_bytes": STATE + 27 * feature_cache.row_bytes((2, 2, 512)) + 10_000}}
    config, inputs = trainings.config(tmp_path, {"training": options}), trainings.inputs(tmp_path)
    classifier = trainer.build(inputs.train, config, "float32")
    pictures = dataset.read([*inputs.train.files, *inputs.evaluation.files], 32, 32, ["0", "1", "2"])
    for places, made in ((np.arange(20), 20), (np.arange(7, 27), 20)):
        gc.collect()
        caplog.clear()
        with caplog.at_level(logging.INFO, progress.logger.name):
            source = batches.prepare(classifier, pictures.part(places), inputs.evaluation, config, tmp_path / "work")
        assert source.kept
        assert computed(caplog)[-1] == made
        del source


def test_a_disk_that_is_full_has_block_5_run_in_each_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _, source, _, _ = prepared(tmp_path)
    monkeypatch.setattr(segments.Writer, "add", full)
    with caplog.at_level(logging.INFO, progress.logger.name):
        assert source.begin(HEAD, 0) is source.model
    assert "feature cache: No space left on device, eval view at block5_pool is not kept" in caplog.text
    assert next(iter(source.training(HEAD, 0, 0)[0]))[0].shape == (8, 2, 2, 512)
