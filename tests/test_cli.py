import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

import cli
from configs import schema


def finetune(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, arguments)


@pytest.mark.parametrize(
    "command", [[], ["run"], ["predict"], ["data"], ["data", "check"], ["config"], ["config", "show"], ["config", "schema"]]
)
def test_every_command_explains_itself(command: list[str]) -> None:
    result = finetune(*command, "--help")
    assert result.exit_code == 0
    if command not in (["config"], ["data"]):
        assert "finetune" in result.output.split("Example", 1)[1]


def test_help_imports_no_heavy_library() -> None:
    code = "import sys, cli; cli.main(['--help'], standalone_mode=False); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.splitlines()[-1]
    assert "'click'" in loaded
    assert not any(f"'{name}'" in loaded for name in ("tensorflow", "tfx", "keras", "apache_beam", "pydantic"))


def test_the_effective_configuration_is_shown() -> None:
    result = finetune("config", "show", "--set", "training.batch_size=16")
    assert result.exit_code == 0
    assert schema.Config.model_validate(yaml.safe_load(result.stdout)).training.batch_size == 16


def test_the_json_schema_describes_every_key() -> None:
    described = json.loads(finetune("config", "schema").stdout)
    assert set(described["properties"]) == set(schema.Config.model_fields)
    assert "degrees" in described["$defs"]["Augmentation"]["properties"]["rotation"]["description"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "nowhere"], "/nowhere: no such file or folder"),
        ([], "give --data SOURCE"),
        (["--data", "x", "--set", "model.dropuot=1"], "did you mean dropout?"),
        (["--config", "nothing.yaml"], "nothing.yaml: No such file"),
        (["--data", "x", "--set", "model.weights=nothing.h5"], "model.weights = nothing.h5: no such file"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(tmp_path: Path, arguments: list[str], said: str) -> None:
    output = tmp_path / "run"
    result = finetune("run", "--output-dir", str(output), *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not output.exists()


def test_a_folder_with_one_class_is_refused(tmp_path: Path, picture_folder: Callable[..., Path]) -> None:
    folder = picture_folder({"cat/1.png": b"x"})
    result = finetune("run", "--data", str(folder), "--output-dir", str(tmp_path / "run"))
    assert result.exit_code == 2
    assert result.stderr == f"Error: {folder}: only one class, cat; a classifier needs pictures of at least two\n"


def test_predict_without_a_model_is_wrong_usage(tmp_path: Path) -> None:
    result = finetune("predict", "--model", str(tmp_path), "x.png")
    assert result.exit_code == 2
    assert "no SavedModel here" in result.stderr
