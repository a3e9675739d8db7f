"""Commands in places where little is as it should be: streams, homes, disks and other people's packages."""

import errno
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

import cli
from cli import entry
from tests.conftest import random_picture
from tests.e2e.conftest import Finished, Project

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pipeline", "configs", "components", "serving", "modules", "cli", "kubeflow")
OF_ANOTHER_PROJECT = {
    "KERAS_BACKEND": "torch",
    "KERAS_MAX_EPOCHS": "1",
    # An empty place is the working directory.
    "PYTHONPATH": f"{os.pathsep}.",
}
NOBODY = "import pwd\ndef unknown(uid): raise KeyError(uid)\npwd.getpwuid = unknown\n"
"""Lets the user be unknown, as in a container that runs as any number."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two classes; not every terminal can show the name of one."""
    root = tmp_path_factory.mktemp("rough") / "pictures"
    for number, label in enumerate(("cat", "猫")):
        (root / label).mkdir(parents=True)
        for one in range(30):
            (root / label / f"{one}.png").write_bytes(random_picture(100 * number + one))
    return root


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A working directory of another project, with packages of the same names, and Keras set for it."""
    folder = tmp_path / "elsewhere"
    for name in PACKAGES:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"raise RuntimeError('{name} of another project')")
    settings = {"floatx": "float16", "backend": "jax", "image_data_format": "channels_first"}
    (folder / "keras.json").write_text(json.dumps(settings))
    return folder


def installed(*arguments: str, command: str = "finetune", before: str = "") -> list[str]:
    """The words that start a command as its script in `bin` does, with this project last where Python looks for modules."""
    code = f"{before}import sys; sys.path.append({str(ROOT)!r}); from finetune_commands import {command}; {command}()"
    return [sys.executable, "-P", "-c", code, *arguments]


def environment(**variables: str) -> dict[str, str]:
    """The environment of a user who knows nothing of this project."""
    ours = ("KERAS", "PYTHON", "FINETUNE")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | variables


def finished(words: Sequence[str], redirected: str = "", cwd: Path = ROOT, **variables: str) -> Finished:
    """Run a command from a shell."""
    shell = ["sh", "-c", f'exec "$@" {redirected}', "sh", *words]
    done = subprocess.run(
        shell, cwd=cwd, env=environment(**variables), capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def data_check(pictures: Path, output: Path, *more: str, before: str = "") -> list[str]:
    """The words that judge the pictures."""
    folders = ["--data", str(pictures), "--output-dir", str(output)]
    settings = ["--set", "data.min_images_per_class=1", "--set", "image.height=32", "--set", "image.width=32"]
    return installed("data", "check", *folders, *settings, *more, before=before)


def test_a_run_that_has_published_ends_well_in_a_foreign_place_though_nothing_can_be_printed(
    project: Project, first: Finished, elsewhere: Path
) -> None:
    assert first.code == 0, first.err
    versions = project.versions()
    words = installed("run", *project.arguments("evaluation.min_recall=0.0"))
    again = finished(words, "> /dev/full", elsewhere, KERAS_HOME=str(elsewhere), **OF_ANOTHER_PROJECT)
    # Another bound lets the Evaluator and the check of the exported model, in a process of its own, work again.
    assert again.code == 0, again.err
    assert (again.state("Trainer"), again.state("Evaluator"), again.state("ServingCheck")) == ("cached", "done", "done")
    assert project.versions() == versions


def test_a_daemon_without_streams_home_and_name_gets_the_data_judged(pictures: Path, tmp_path: Path) -> None:
    words = data_check(pictures, tmp_path / "out", before=NOBODY)
    done = finished(["env", "-u", "HOME", *words], "<&- >&- 2>&-", tmp_path)
    assert done.code == 0, next((tmp_path / "out" / "logs").iterdir()).read_text()
    assert list(tmp_path.glob("out/pipeline_root/DataGate/*"))
    # Some libraries would make a folder called `~`.
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_findings_are_told_on_a_terminal_that_can_not_show_the_label(pictures: Path, tmp_path: Path) -> None:
    words = data_check(pictures, tmp_path / "out", "--set", "data.min_images_per_class=100")
    done = finished(words, PYTHONIOENCODING="latin-1")
    assert done.code == 1
    assert "refused        too few pictures: \\u732b has " in done.out
    assert done.out.endswith("data           refused\n")


def test_a_terminal_that_is_closed_ends_the_command_as_sigterm_does(pictures: Path, tmp_path: Path) -> None:
    process, terminal = pty.fork()
    if not process:
        # nohup, which may have started the tests, has it ignored.
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        words = data_check(pictures, tmp_path / "out")
        os.execve(words[0], words, environment())
    seen = b""
    while b"ImageExampleGen" not in seen:
        seen += os.read(terminal, 1000)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 1


@pytest.mark.parametrize("what", ["show", "schema"])
def test_what_can_not_be_printed_is_told_where_nothing_else_was_asked_for(what: str) -> None:
    done = finished(installed("config", what), "> /dev/full")
    assert done.code == 1
    assert done.err == "Error: standard output: No space left on device; what was asked for is not complete\n"
    assert finished(installed("config", what), "| true").err == ""


def test_a_configuration_that_is_shown_in_any_encoding_can_be_read_again(tmp_path: Path) -> None:
    shown = finished(installed("config", "show", "--set", "data.source=猫/ä"), PYTHONIOENCODING="latin-1")
    (tmp_path / "shown.yaml").write_text(shown.out, encoding="ascii")
    again = finished(installed("config", "show", "--config", str(tmp_path / "shown.yaml")))
    assert "source: 猫/ä" in again.out.splitlines()[3]


@pytest.mark.parametrize("command", ["finetune", "finetune_node"])
def test_an_installed_command_finds_its_own_packages_before_those_of_others(command: str, elsewhere: Path) -> None:
    done = finished(installed("--help", command=command), "", elsewhere, **OF_ANOTHER_PROJECT)
    assert done.code == 0, done.err
    assert done.out.startswith("Usage: ")


@pytest.mark.parametrize("way", ["-c", "-m"])
def test_children_find_them_as_well(way: str, elsewhere: Path) -> None:
    # A package runs as a module does, and would be looked for in the working directory first.
    child = {"-c": ["-c", f"import {', '.join(PACKAGES)}"], "-m": ["-m", "modules.interrupts"]}[way]
    code = f"""
import atexit, os, subprocess, sys
sys.path.append({str(ROOT)!r})
atexit.register(lambda: os._exit(subprocess.run([sys.executable, *{child!r}]).returncode))
from finetune_commands import finetune
finetune()
"""
    done = finished([sys.executable, "-P", "-c", code, "config", "schema"], "", elsewhere, **OF_ANOTHER_PROJECT)
    assert done.code == 0, done.err


def test_names_of_files_are_read_alike_in_every_locale(pictures: Path) -> None:
    code = f"""
import os, sys
sys.path.append({str(ROOT)!r})
import finetune_commands
finetune_commands._prepare()
print([ascii(name) for name in sorted(os.listdir(sys.argv[1]))])
"""
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = finished([sys.executable, "-c", code, str(pictures)], **plain)
    assert done.out == str([ascii("cat"), ascii("猫")]) + "\n"


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("file/out", "file/out/logs: Not a directory; name another, or move away the file that is in the way"),
        ("n" * 300, "File name too long; name a shorter one"),
        ("/".join(["deep" * 20] * 10), "are possible, name a shorter one"),
        ("/proc/nowhere", "/proc/nowhere: No such file or directory; name one that is there"),
    ],
)
def test_an_output_folder_that_can_not_be_is_a_line_and_exit_code_2(
    folder: str, said: str, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    words = ["data", "check", "--data", str(pictures), "--output-dir", str(tmp_path / folder)]
    result = CliRunner().invoke(cli.main, words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("full.yaml", "full.yaml: No space left on device; make room there, or name a folder elsewhere"),
        ("nowhere/x.yaml", "nowhere/x.yaml: No such file or directory; name one that is there"),
        ("pipeline.txt", "pipeline.txt: expected a name that ends with .yaml"),
    ],
)
def test_a_pipeline_that_can_not_be_written_is_a_line_and_exit_code_2(
    output: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("full.yaml").symlink_to("/dev/full")
    result = CliRunner().invoke(cli.main, ["kubeflow", "compile", "--image", "x:1", "--data", "/photos", "--output", output])
    assert result.exit_code == 2
    assert result.stderr == f"Error: {said}\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "a"),
            f"a: Permission denied; name one that user {os.getuid()} may use",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", b"a"),
            f"a: Read-only file system; name one that user {os.getuid()} may use",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "No space left on device; make room there, or name a folder elsewhere",
        ),
        (
            FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
            "No usable temporary directory found in ['/tmp']; set TMPDIR to a folder with room",
        ),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), None),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), None),
    ],
)
def test_what_the_system_says_of_a_file_becomes_a_line_and_a_bug_stays_one(error: OSError, line: str | None) -> None:
    assert entry.explained(error) == line
