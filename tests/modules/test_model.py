import shutil
import types
from pathlib import Path

import keras
import numpy as np
import pytest

from configs import rules
from modules import model, optimizers, trainer

CONFIG = {"dense_units": 256, "dropout": 0.5, "l2": 0.0}
SPLIT = types.SimpleNamespace(contents=types.SimpleNamespace(num_classes=3), height=32, width=32)
"""All of a split that the model depends on."""


def test_the_head_is_the_recipes() -> None:
    head = model.build_head(5, (2, 2, 512), CONFIG | {"l2": 0.01}, "float32")
    kinds = [type(layer) for layer in head.layers]
    assert kinds == [
        keras.layers.Flatten,
        keras.layers.Dense,
        keras.layers.BatchNormalization,
        keras.layers.Dropout,
        keras.layers.Dense,
    ]
    assert head.layers[1].units == 256
    assert head.layers[3].rate == 0.5
    assert head.layers[1].kernel_regularizer.l2 == np.float32(0.01)


def test_the_classifier_is_vgg16_on_rgb_and_a_head() -> None:
    classifier = model.build_model(5, 32, 48, CONFIG, None, "float32")
    paths = [variable.path for variable in classifier.weights]
    assert paths[0] == "block1_conv1/kernel"
    assert len([path for path in paths if path.startswith("block")]) == 26
    assert {path.split("/")[0] for path in paths if not path.startswith("block")} == {"head"}
    assert set(optimizers.learnable_variables(classifier)) == set(rules.PATHS)
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 48, 3)).astype(np.float32)
    # The same pictures through Keras's own VGG16 and preprocessing.
    vgg = keras.applications.VGG16(include_top=False, weights=None)
    vgg.set_weights(classifier.get_weights()[:26])
    features = vgg(keras.applications.vgg16.preprocess_input(images.copy()))
    expected = classifier.get_layer("head")(features)
    np.testing.assert_allclose(classifier(images), expected, atol=1e-5)
    np.testing.assert_allclose(np.sum(expected, axis=-1), 1.0, atol=1e-5)


def test_the_head_is_the_same_for_a_seed_whatever_the_backbone_s_weights(tmp_path: Path) -> None:
    keras.applications.VGG16(weights=None, include_top=False).save_weights(tmp_path / "vgg.weights.h5")
    shutil.copy(tmp_path / "vgg.weights.h5", tmp_path / "other.h5")
    heads = []
    for path in (None, str(tmp_path / "vgg.weights.h5"), str(tmp_path / "other.h5")):
        config = {"training": {"seed": 7}, "model": CONFIG | {"weights": path}}
        heads.append(trainer.build(SPLIT, config, "float32").get_weights()[26:])
    for head in heads[1:]:
        for ours, theirs in zip(head, heads[0], strict=True):
            np.testing.assert_array_equal(ours, theirs)


def values() -> list[np.ndarray]:
    """Of the classifier that is trained with ImageNet's weights."""
    config = {"training": {"seed": 7}, "model": CONFIG | {"weights": "imagenet"}}
    return [variable.numpy() for variable in trainer.build(SPLIT, config, "float32").variables]


def test_a_machine_that_has_to_fetch_weights_begins_as_one_that_has_them(fetched: list[int]) -> None:
    first, second = values(), values()
    assert fetched == [1]
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_the_classifier_and_its_parts_compute_as_they_are_told_and_others_as_before(policy: str) -> None:
    classifier = model.build_model(3, 32, 32, CONFIG, None, policy)
    parts = model.split(classifier, {"block5_conv1/kernel"})
    assert parts is not None
    for part in (classifier, *parts):
        assert part.dtype_policy.name == policy
        for layer in part.layers[1:]:
            if isinstance(layer, keras.Layer):
                assert layer.dtype_policy.name == policy, layer.name
    (*inner, last) = classifier.get_layer("head").layers
    assert {layer.dtype_policy.name for layer in inner} == {policy}
    assert last.dtype_policy.name == "float32"
    assert {variable.dtype for variable in classifier.trainable_variables} == {"float32"}
    assert keras.config.dtype_policy().name == "float32"
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    features = parts[0](images)
    assert features.dtype.name == parts[0].compute_dtype
    np.testing.assert_array_equal(parts[1](features), classifier(images))


def test_the_head_of_a_seed_is_the_same_in_every_precision() -> None:
    config = {"training": {"seed": 7}, "model": CONFIG | {"weights": None}}
    one, other = (trainer.build(SPLIT, config, policy).get_weights() for policy in ("float32", "mixed_float16"))
    for ours, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(ours, theirs)
