"""What this process and its children take from the environment, set before a library reads it.

Keras reads its settings, TensorFlow reads Keras, and Python looks for modules as other projects on the machine may want it.
None of that is to change a number here. Besides, no process takes more of a GPU than it needs.
"""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import MutableMapping

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_KERAS_SETTINGS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "keras")
_BACKEND = "tensorflow"
_USERS_KERAS = "FINETUNE_USERS_KERAS_HOME"
_NO_HOME = "/nonexistent"  # as Debian has it
_GROWTH = "TF_FORCE_GPU_ALLOW_GROWTH"

VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
"""The environment variable that says which GPUs a process sees."""


def prepare() -> None:
    """Set what libraries read; each room of this project calls it before it imports one.

    Children, Beam's workers among them, inherit it.

    Raises:
      ImportError: Keras was imported before, with a backend that this project does not run on.
    """
    _set_home()
    _set_keras()
    # Otherwise TensorFlow takes all of a GPU's memory at once. It reads this whenever it first looks at one.
    os.environ.setdefault(_GROWTH, "true")


def hide_gpus(variables: MutableMapping[str, str]) -> None:
    """Let a process that needs no GPU see none, as it would take memory from the one that trains.

    Args:
      variables: its environment, before it looks for GPUs.
    """
    variables[VISIBLE_GPUS] = "-1"


def put_own_packages_first() -> None:
    """Let this process and its children find this project's packages before others of the same names.

    Others are on PYTHONPATH or in the working directory. For processes that are this project's own alone.
    """
    sys.path[:] = [_ROOT, *(path for path in sys.path if path != _ROOT)]
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ["PYTHONPATH"] = os.pathsep.join([_ROOT, *(path for path in given if path not in {"", _ROOT})])
    # Without it, `python -m` has the working directory before all else.
    os.environ["PYTHONSAFEPATH"] = "1"


def users_keras_home() -> str:
    """Return the folder where Keras keeps what it downloads for this user."""
    return os.environ.get(_USERS_KERAS) or os.path.expanduser(os.path.join("~", ".keras"))


def _set_home() -> None:
    """Name a home where there is none: libraries end without, or make a folder called `~`."""
    if not os.environ.get("HOME"):
        os.environ.pop("HOME", None)
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ.setdefault("HOME", _NO_HOME)
        os.environ.setdefault("USER", str(os.getuid()))
    if os.environ.get("HOME") == _NO_HOME:
        # Root could make one. Where it can't have this, matplotlib takes a folder that goes with the process.
        os.environ.setdefault("MPLCONFIGDIR", os.path.join(os.devnull, "none"))


def _set_keras() -> None:
    """Have Keras run with the settings beside this file, also where it was imported already."""
    before = os.environ.get("KERAS_HOME", "")
    if before not in {"", _KERAS_SETTINGS}:
        os.environ[_USERS_KERAS] = before
    # KERAS_MAX_EPOCHS and KERASTUNER_ORACLE_IP, for instance, change a training as well.
    for name in [name for name in os.environ if name.startswith("KERAS")]:
        del os.environ[name]
    os.environ.pop("TF_USE_LEGACY_KERAS", None)
    os.environ["KERAS_HOME"] = _KERAS_SETTINGS
    os.environ["KERAS_BACKEND"] = _BACKEND
    if (keras := sys.modules.get("keras")) is None or before == _KERAS_SETTINGS:
        return
    if keras.config.backend() != _BACKEND:
        raise ImportError(
            f"keras was imported with the backend {keras.config.backend()}, and is needed with {_BACKEND}:"
            f" import this project before keras, or set KERAS_BACKEND={_BACKEND}"
        )
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")
    keras.config.set_dtype_policy("float32")
    keras.config.set_max_epochs(None)
    keras.config.set_max_steps_per_epoch(None)
