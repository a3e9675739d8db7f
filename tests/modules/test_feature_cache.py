import logging
import os
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from modules import batches, dataset, feature_cache, model, optimizers, progress, trainer
from tests.modules import trainings


def prefix_of_two() -> keras.Model:
    """A frozen layer that doubles a 2 x 2 x 3 image."""
    images = keras.Input((2, 2, 3))
    layer = keras.layers.Conv2D(3, 1, use_bias=False, name="double")
    prefix = keras.Model(images, layer(images))
    layer.set_weights([2 * np.eye(3)[np.newaxis, np.newaxis]])
    return prefix


def numbered(count: int) -> tf.data.Dataset:
    """Pictures filled with their own number, 3 a batch, and their labels, of two classes."""
    images = np.arange(count, dtype=np.float32)[:, np.newaxis, np.newaxis, np.newaxis] * np.ones((2, 2, 3), np.float32)
    return tf.data.Dataset.from_tensor_slices((images, np.eye(2, dtype=np.float32)[np.arange(count) % 2])).batch(3)


def cache(root: Path) -> feature_cache.FeatureCache:
    return feature_cache.FeatureCache(root, prefix_of_two(), 3, "code")


def test_a_view_holds_the_prefixs_output_of_every_picture(tmp_path: Path) -> None:
    view = cache(tmp_path).view("key", "view 1", lambda step: numbered(8).skip(step).repeat(), 8, 2)
    assert view.features.dtype == np.float16
    np.testing.assert_array_equal(view.features[:, 0, 0, 0], 2 * np.arange(8))
    np.testing.assert_array_equal(view.labels.argmax(-1), np.arange(8) % 2)
    files = sum(file.stat().st_size for file in tmp_path.rglob("*.npy"))
    assert files == pytest.approx(feature_cache.view_bytes(prefix_of_two(), 8, 2), abs=300)


def test_a_finished_view_is_not_computed_again_and_a_cut_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_cache, "_SECONDS_BETWEEN_SAVES", 0.0)
    asked = []

    def batches(step: int) -> tf.data.Dataset:
        asked.append(step)
        return numbered(8).skip(step)

    def broken(step: int) -> tf.data.Dataset:
        return batches(step).map(lambda images, labels: (tf.debugging.check_numerics(images / (images - 6), "cut"), labels))

    with pytest.raises(tf.errors.InvalidArgumentError):
        cache(tmp_path).view("key", "view 1", broken, 8, 2)
    view = cache(tmp_path).view("key", "view 1", batches, 8, 2)
    again = cache(tmp_path).view("key", "view 1", batches, 8, 2)
    assert asked == [0, 2]
    np.testing.assert_array_equal(view.features[6:, 0, 0, 0], [12, 14])
    np.testing.assert_array_equal(view.features, again.features)


def test_large_values_stay_finite(tmp_path: Path) -> None:
    batches = numbered(3).map(lambda images, labels: (images * 1e6, labels))
    view = cache(tmp_path).view("key", "view 1", lambda step: batches, 3, 2)
    assert view.features.max() == np.finfo(np.float16).max


def test_the_key_depends_on_the_weights_the_code_and_what_is_given(tmp_path: Path) -> None:
    keys = {cache(tmp_path).key("pictures", 1), cache(tmp_path).key("pictures", 2), cache(tmp_path).key("others", 1)}
    keys.add(feature_cache.FeatureCache(tmp_path, prefix_of_two(), 3, "new code").key("pictures", 1))
    other = prefix_of_two()
    other.set_weights([weights * 2 for weights in other.get_weights()])
    keys.add(feature_cache.FeatureCache(tmp_path, other, 3, "code").key("pictures", 1))
    assert len(keys) == 5
    assert cache(tmp_path).key("pictures", 1) in keys


def test_views_used_longest_ago_make_way(tmp_path: Path) -> None:
    kept = cache(tmp_path)
    for number, key in enumerate(["old", "kept", "new"]):
        kept.view(key, "view 1", lambda step: numbered(3), 3, 2)
        os.utime(tmp_path / key, (number, number))
    one = sum(file.stat().st_size for file in (tmp_path / "new").rglob("*") if file.is_file())
    kept.make_room(one, 3 * one, keep={"wanted"})
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["kept", "new"]
    kept.make_room(2 * one, 2 * one, keep={"wanted", "kept"})
    assert [folder.name for folder in tmp_path.iterdir()] == ["kept"]


def views_of(tmp_path: Path, count: int) -> list[feature_cache.View]:
    def shifted(by: int) -> tf.data.Dataset:
        return numbered(7).map(lambda images, labels: (images + 100 * by, labels))

    return [cache(tmp_path).view("key", f"view {n}", lambda step, n=n: shifted(n), 7, 2) for n in range(count)]


def test_epoch_e_goes_over_view_e_modulo_their_number_in_an_order_of_its_own(tmp_path: Path) -> None:
    kept = feature_cache.training_batches(views_of(tmp_path, 2), 3, seed=1)
    epochs = [[int(row) for features, _ in epoch for row in features[:, 0, 0, 0]] for epoch in in_epochs(kept, 4)]
    for number, rows in enumerate(epochs):
        assert {row // 200 for row in rows} == {number % 2}
        assert len(rows) == 9, "the last batch is filled up"
        assert {row % 200 for row in rows} == set(range(0, 14, 2))
    assert len({tuple(row % 200 for row in rows) for rows in epochs}) == 4


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
    classifier = trainer.build(inputs.train, config)
    source = batches.prepare(classifier, inputs.train, inputs.evaluation, config, tmp_path / "work")
    return classifier, source, inputs, config


def test_the_suffix_on_kept_features_agrees_with_the_whole_model_on_the_same_view(tmp_path: Path) -> None:
    classifier, source, inputs, config = prepared(tmp_path)
    assert source.kept
    (folder,) = [path.parent for path in (tmp_path / "work" / "features").rglob("view-2")]
    kept = np.load(folder / "view-2" / "features.npy")
    view = dataset.training_batches(inputs.train.data, 8, 1, config["augmentation"], epoch=1).take(3)
    images = np.concatenate([images for images, _ in view.as_numpy_iterator()])
    assert kept.shape == (20, 2, 2, 512)
    found, expected = source.model.predict(kept, verbose=0), classifier.predict(images, verbose=0)
    assert expected.std(axis=0).max() > 0.01
    np.testing.assert_allclose(found, expected, atol=2e-3)
    for (_, labels), rows in zip(view.as_numpy_iterator(), ([0, 8], [8, 16], [16, 20]), strict=True):
        np.testing.assert_array_equal(np.load(folder / "view-2" / "labels.npy")[slice(*rows)], labels)


def test_the_prefix_ends_below_the_lowest_layer_that_is_ever_trained(tmp_path: Path) -> None:
    config, inputs = trainings.config(tmp_path), trainings.inputs(tmp_path)
    classifier = trainer.build(inputs.train, config)
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
    ("cache_options", "views"),
    [({"views": "auto"}, 2), ({"views": 3}, 3), ({"views": 9}, 4), ({"views": "auto", "max_bytes": 150_000}, 1)],
)
def test_the_number_of_views_follows_from_the_epochs_and_the_budget(
    tmp_path: Path, cache_options: dict, views: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, progress.logger.name):
        _, source, _, _ = prepared(tmp_path, {"training": {"cache": cache_options}})
    assert source.kept
    assert len(list((tmp_path / "work" / "features").rglob("view-*"))) == views
    assert f"{views} augmented view" in caplog.text
    assert "for 4 epochs" in caplog.text
    assert "block4_pool" in caplog.text


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"cache": {"views": 0}}, "off"),
        ({"cache": {"views": 3, "max_bytes": 200_000}}, "don't fit"),
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
    assert not list(tmp_path.rglob("*.npy"))


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
        picture.tobytes() for pictures, _ in dataset.evaluation_batches(inputs.train.data, 8) for picture in pictures.numpy()
    }
    fed = next(iter(on_the_fly.training(config["training"]["phases"][1], 2, 0)))[0]
    assert {picture.tobytes() for picture in fed.numpy()} <= plain
    features = next(iter(source.training(config["training"]["phases"][1], 2, 0)))[0].numpy().astype(np.float16)
    (kept,) = [np.load(path) for path in (tmp_path / "work").rglob("plain-view/features.npy") if len(np.load(path)) == 20]
    assert {row.tobytes() for row in features} <= {row.tobytes() for row in kept}
