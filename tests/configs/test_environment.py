import json
import os
import pwd
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from configs import environment

ROOT = Path(__file__).resolve().parents[2]
WRONG = {"floatx": "float16", "epsilon": 0.5, "backend": "jax", "image_data_format": "channels_first"}
SHOW = """
import keras
config = keras.config
print(config.backend(), config.floatx(), config.epsilon(), config.image_data_format(), config.dtype_policy().name)
print(config.max_epochs(), config.max_steps_per_epoch())
"""


def said(code: str, **variables: str) -> list[str]:
    """The last two lines that Python says to some code, where only these variables tell it anything."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KERAS", "TF_", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=kept | variables, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-2:]


@pytest.mark.parametrize("first", ["modules.model", "components.serving_check.probe"])
def test_no_setting_of_other_projects_reaches_keras(first: str, tmp_path: Path) -> None:
    (tmp_path / "keras.json").write_text(json.dumps(WRONG))
    others = {
        "KERAS_BACKEND": "torch",
        "KERAS_MAX_EPOCHS": "1",
        "KERAS_MAX_STEPS_PER_EPOCH": "1",
        "TF_USE_LEGACY_KERAS": "1",
    }
    found = said(f"import {first}\n{SHOW}", KERAS_HOME=str(tmp_path), **others)
    assert found == ["tensorflow float32 1e-07 channels_last float32", "None None"]


def test_a_keras_that_was_imported_before_is_set_right(tmp_path: Path) -> None:
    (tmp_path / "keras.json").write_text(json.dumps(WRONG | {"backend": "tensorflow"}))
    code = f"import tensorflow, keras\nassert keras.config.floatx() == 'float16'\nimport modules.model\n{SHOW}"
    found = said(code, KERAS_HOME=str(tmp_path), KERAS_MAX_EPOCHS="1")
    assert found == ["tensorflow float32 1e-07 channels_last float32", "None None"]


def test_a_keras_on_another_backend_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setitem(sys.modules, "keras", SimpleNamespace(config=SimpleNamespace(backend=lambda: "jax")))
    with pytest.raises(ImportError, match=r"backend jax.* before keras, or set KERAS_BACKEND=tensorflow"):
        environment.prepare()


def test_what_keras_has_downloaded_for_the_user_is_still_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"HOME": "/home/x"})
    monkeypatch.setattr(sys, "modules", {})
    assert environment.users_keras_home() == "/home/x/.keras"
    os.environ["KERAS_HOME"] = "/data/keras"
    for _ in range(2):
        environment.prepare()
        assert environment.users_keras_home() == "/data/keras"


@pytest.mark.parametrize("home", [{}, {"HOME": ""}])
def test_a_user_whom_nobody_knows_gets_a_name_and_a_home_that_is_none(
    home: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(_: int) -> None:
        raise KeyError

    # Back before the test ends: pytest looks at them too.
    with monkeypatch.context() as patch:
        patch.setattr(os, "environ", home)
        patch.setattr(sys, "modules", {})
        patch.setattr(pwd, "getpwuid", unknown)
        environment.prepare()
        found = dict(os.environ)
    assert not Path(found["HOME"]).exists()
    assert found["USER"] == str(os.getuid())


def test_a_home_that_is_named_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "environ", {"HOME": "/"})
        patch.setattr(sys, "modules", {})
        environment.prepare()
        found = dict(os.environ)
    assert found["HOME"] == "/"


def test_own_packages_go_before_all_others_here_and_in_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"PYTHONPATH": os.pathsep.join(["", "/other", str(ROOT)])})
    monkeypatch.setattr(sys, "path", ["", "/other", str(ROOT), "/packages"])
    for _ in range(2):
        environment.put_own_packages_first()
        assert sys.path == [str(ROOT), "", "/other", "/packages"]
        assert os.environ == {"PYTHONPATH": f"{ROOT}{os.pathsep}/other", "PYTHONSAFEPATH": "1"}


@pytest.mark.parametrize(("given", "expected"), [({}, "true"), ({"TF_FORCE_GPU_ALLOW_GROWTH": "false"}, "false")])
def test_memory_of_gpus_grows_from_before_tensorflow_is_there(given: dict[str, str], expected: str) -> None:
    code = (
        "import os, sys\n"
        "import {}\n"
        "assert ('tensorflow' in sys.modules) == {}\n"
        "print('-')\n"
        "print(os.environ['TF_FORCE_GPU_ALLOW_GROWTH'])"
    )
    assert said(code.format("modules, components, pipeline, kubeflow, serving", False), **given)[-1] == expected
    assert said(code.format("modules.trainer", True), **given)[-1] == expected


def test_a_process_that_needs_no_gpu_can_be_kept_from_all() -> None:
    variables = {"CUDA_VISIBLE_DEVICES": "0,1", "OTHER": "1"}
    environment.hide_gpus(variables)
    assert variables == {"CUDA_VISIBLE_DEVICES": "-1", "OTHER": "1"}
