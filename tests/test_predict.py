"""`finetune predict` on files, folders and lists: what is classified, what is printed, and how it ends."""

import contextlib
import io
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from click.testing import CliRunner

import cli
from cli import answers, inputs, options
from pipeline.log_file import Terminal
from serving import pictures
from serving.versions import CONFIG_FILE
from tests.conftest import encode
from tests.serving import stand_in, tiny_model

ROOT = Path(cli.__file__).parents[1]
PICTURE = encode(np.full((4, 4, 3), 51, np.uint8))
ANSWER = {"label": "dark", "score": 0.8, "top": [{"label": "dark", "score": 0.8}, {"label": "light", "score": 0.2}]}


class Finished(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line, parse_float=lambda number: round(float(number), 5)) for line in self.out.splitlines()]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.publish(tmp_path_factory.mktemp("model"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with `photos` in it."""
    for name in ("b.png", "a/2.png", "a/10.png", "c.jpg"):
        write(tmp_path / "photos" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos"


def write(path: Path, content: bytes = PICTURE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def predict(capfd: pytest.CaptureFixture[str], *arguments: str, given: bytes = b"") -> Finished:
    capfd.readouterr()
    result = CliRunner().invoke(cli.main, ["predict", *arguments], input=given)
    assert isinstance(result.exception, SystemExit | None), result.exception
    return Finished(result.exit_code, capfd.readouterr().out, result.stderr)


def found(*paths: str, given: bytes = b"", null: bool = False) -> list[Any]:
    """What is read for arguments and a standard input; with its error where there is one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        return [file if isinstance(file, str) else tuple(file) for file in inputs.find(paths, null)]


def test_every_picture_is_a_line_of_json_in_the_order_given(
    served: Path, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(folder.parent / "bad.png", b"no picture")
    paths = ["photos/c.jpg", "bad.png", "missing.png", "-", "photos"]
    done = predict(capfd, "--model", str(served), *paths, given=b"photos/b.png\n")
    assert done.code == 1
    below = ["photos/a/10.png", "photos/a/2.png", "photos/b.png", "photos/c.jpg"]
    assert [record["file"] for record in done.records] == ["photos/c.jpg", "bad.png", "missing.png", "photos/b.png", *below]
    bad, missing = done.records[1:3]
    assert bad.keys() == missing.keys() == {"file", "error"}
    assert "not a picture" in bad["error"]
    assert missing["error"] == "No such file or directory"
    for record in (*done.records[:1], *done.records[3:]):
        assert record == {"file": record["file"], **ANSWER}


def test_top_says_how_many_labels_are_given_and_json_changes_nothing_for_scripts(
    served: Path, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    done = predict(capfd, "--model", str(served), "--top", "1", "--json", "photos/b.png")
    assert done.code == 0
    assert done.records == [{"file": "photos/b.png", **ANSWER, "top": ANSWER["top"][:1]}]


@pytest.mark.parametrize("said", ["help", "docs/serving.md"])
def test_every_field_is_documented(said: str) -> None:
    text = CliRunner().invoke(cli.main, ["predict", "--help"]).output if said == "help" else (ROOT / said).read_text()
    for field in ("file", "error", *ANSWER):
        assert f"`{field}`" in text


def test_a_model_here_and_a_server_print_the_same_lines(
    served: Path, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(folder / "bad.png", b"no picture")
    with endpoints(served) as urls:
        ways = [["--model", str(served)], *(["--endpoint", url, "--batch-size", "2"] for url in urls.values())]
        local, *others = [predict(capfd, *way, "photos") for way in ways]
    assert len(local.records) == 5
    for other in others:
        assert (other.code, other.records) == (local.code, local.records)


def test_a_batch_that_the_model_here_can_not_answer_has_its_error_as_at_a_server(
    served: Path, folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.pictures._prepare", lambda file, preparation: Path(file).read_bytes())
    write(folder / "bad.png", b"no picture")
    done = predict(capfd, "--model", str(served), "--batch-size", "1", "photos")
    assert done.code == 1
    assert [record["file"] for record in done.records if "error" in record] == ["photos/bad.png"]


def test_below_a_folder_what_ingestion_passes_over_is_passed_over(folder: Path) -> None:
    for name in (".hidden.png", ".cache/1.png", "Thumbs.db", "__MACOSX/1.png", "a/desktop.ini"):
        write(folder / name)
    assert found("photos") == [f"photos/{name}" for name in ("a/10.png", "a/2.png", "b.png", "c.jpg")]
    assert found("photos/.hidden.png", "photos/.cache") == ["photos/.hidden.png", "photos/.cache/1.png"]


def test_below_a_folder_a_file_that_is_no_picture_by_name_and_content_is_passed_over(folder: Path) -> None:
    write(folder / "a" / "2.xml", b"<a/>")
    write(folder / "a" / "README", b"# Pictures")
    write(folder / "a" / "picture without an ending")
    write(folder / "a" / "broken.jpg", b"no picture")
    taken = ["a/10.png", "a/2.png", "a/broken.jpg", "a/picture without an ending", "b.png", "c.jpg"]
    assert found("photos") == [f"photos/{name}" for name in taken]
    assert found("photos/a/2.xml") == ["photos/a/2.xml"]


def test_whatever_goes_wrong_in_one_file_the_others_are_answered(
    served: Path, folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    servable = pictures.images.servable

    def broken(content: bytes, **options: Any) -> bytes:
        if content == b"trouble":
            raise RecursionError
        return servable(content, **options)

    monkeypatch.setattr(pictures.images, "servable", broken)
    write(folder / "a" / "trouble.png", b"trouble")
    done = predict(capfd, "--model", str(served), "photos")
    assert done.code == 1
    assert {record["file"]: record["error"] for record in done.records if "error" in record} == {
        "photos/a/trouble.png": "RecursionError"
    }
    assert len(done.records) == 5


def test_links_to_files_are_followed_and_links_to_folders_are_named_unless_their_files_are_read_anyway(folder: Path) -> None:
    write(folder.parent / "elsewhere" / "1.png")
    write(folder / ".store" / "1.png")
    for name, target in {
        "a/loop": "..",
        "itself": "itself",
        "twice": "a",
        "file.png": "../elsewhere/1.png",
        "out": "../elsewhere",
        "store": ".store",
        "gone.png": "nothing",
    }.items():
        (folder / name).symlink_to(target)
    error = "links to a folder that is not among those read; name it to classify what is in it"
    files = ["a/10.png", "a/2.png", "b.png", "c.jpg", "file.png", "gone.png", "itself"]
    assert found("photos") == [*(f"photos/{name}" for name in files), ("photos/out", error), ("photos/store", error)]
    assert found("photos/out") == ["photos/out/1.png"]


def test_a_pipe_is_read_only_where_the_command_line_names_it(folder: Path) -> None:
    os.mkfifo(folder / "a" / "pipe")
    pipe = ("photos/a/pipe", "neither a file nor a folder")
    assert found("photos/a") == ["photos/a/10.png", "photos/a/2.png", pipe]
    assert found("-", given=b"photos/a/pipe\n") == [pipe]
    assert found("photos/a/pipe") == ["photos/a/pipe"]


@pytest.mark.parametrize(
    ("given", "null"),
    [
        (b"photos/b.png\nphotos/a\n", False),
        (b"photos/b.png\n\nphotos/a", False),
        (b"\xef\xbb\xbfphotos/b.png\r\nphotos/a\r\n", False),
        (b"photos/b.png\0photos/a\0", True),
    ],
    ids=["lines", "blank lines and no last line feed", "Windows", "NUL bytes"],
)
def test_standard_input_names_files_and_folders(folder: Path, given: bytes, null: bool) -> None:
    assert found("-", given=given, null=null) == ["photos/b.png", "photos/a/10.png", "photos/a/2.png"]


def test_names_with_line_feeds_and_names_that_are_not_utf_8_are_one_line_each(
    served: Path, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    names = [b"photos/a/new\nline.png", b"photos/a/caf\xe9.png", "photos/a/next\u2028\x85.png".encode()]
    for name in names:
        Path(os.fsdecode(name)).write_bytes(PICTURE)
    done = predict(capfd, "--model", str(served), "--null", "-", "photos/a", given=b"\0".join(names))
    assert done.code == 0
    shown = ["photos/a/new\nline.png", "photos/a/caf\\xe9.png", "photos/a/next\u2028\x85.png"]
    rest = ["photos/a/10.png", "photos/a/2.png", shown[1], shown[0], shown[2]]
    assert [record["file"] for record in done.records] == [*shown, *rest]


@pytest.mark.parametrize(
    ("arguments", "given", "said"),
    [
        (["nowhere"], b"", "nowhere: No such file or directory"),
        (["photos", "nowhere/"], b"", "nowhere/: no such folder"),
        (["photos/b.png/"], b"", "photos/b.png/: no such folder"),
        (["empty"], b"", "empty: nothing to classify here"),
        (["new\nline"], b"", r"new\nline: No such file"),
        (["-"], b"", "standard input is empty; expected paths, one a line"),
        (["-"], b"\n\r\n", "standard input is empty"),
        (["--null", "-"], b"", "standard input is empty; expected paths with a NUL byte behind each"),
        (["-"], b"a.png\0b.png\0", "standard input has NUL bytes, as `find -print0` writes them for --null"),
        (["-"], b"x" * 200_000, "standard input goes on for 65536 bytes without the end of a path"),
        (["--null", "photos"], b"", "--null is about paths on standard input: give - as well"),
    ],
)
def test_nothing_to_classify_is_wrong_usage_in_one_line(
    served: Path, folder: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], given: bytes, said: str
) -> None:
    write(folder.parent / "empty" / ".keep")
    done = predict(capfd, "--model", str(served), *arguments, given=given)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert len(done.err.splitlines()) == 1


def test_closed_standard_input_is_wrong_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(options.InputError, match="standard input is closed"):
        inputs.find(["-"], null=False)


def test_an_empty_folder_beside_others_has_its_error_in_its_place(folder: Path) -> None:
    (folder.parent / "empty").mkdir()
    assert [file[0] for file in found("empty", "photos/b.png", "nowhere")] == ["empty", "p", "nowhere"]


def test_standard_input_is_read_as_answers_are_printed_and_an_interrupt_prints_those_that_are_there(
    served: Path, folder: Path
) -> None:
    process = start("--model", str(served), "--batch-size", "1", "--concurrency", "1", "-")
    feed(process, ["photos/b.png", "missing.png", "photos/c.jpg"])
    lines = [process.stdout.readline(), process.stdout.readline()]
    process.send_signal(signal.SIGINT)
    rest, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said == "finetune: interrupted; what was answered is printed\n"
    printed = [json.loads(line)["file"] for line in [*lines, *rest.splitlines()]]
    assert printed == ["photos/b.png", "missing.png", "photos/c.jpg"][: len(printed)]


@pytest.mark.parametrize("way", ["gRPC", "REST"])
def test_a_server_that_dies_leaves_what_was_answered_and_one_line(served: Path, folder: Path, way: str) -> None:
    with contextlib.ExitStack() as serving:
        urls = serving.enter_context(endpoints(served))
        process = start("--endpoint", urls[way], "--batch-size", "1", "--concurrency", "1", "-")
        feed(process, ["photos/b.png", "missing.png", "photos/c.jpg"])
        lines = [process.stdout.readline(), process.stdout.readline()]
    feed(process, ["photos/b.png"] * 20)
    rest, said = process.communicate(timeout=100)
    assert process.returncode == 1
    assert [json.loads(line)["file"] for line in lines] == ["photos/b.png", "missing.png"]
    assert len(rest.splitlines()) <= 1
    assert said.startswith("finetune: ")
    assert "localhost" in said
    assert len(said.splitlines()) == 1


def test_a_terminal_gets_a_table_and_json_only_where_asked_for() -> None:
    records = [
        {"file": "a.png", **ANSWER},
        {"file": "\x1b[2Jb\n.png", **ANSWER, "top": [{"label": "猫", "score": 1.0}, {"label": "twilight", "score": 0.0}]},
        {"file": "c.png", "error": "not a picture"},
    ]
    assert printed_at_terminal(records, as_json=False) == [
        "dark  0.800  light 0.200  a.png",
        r"猫       1.000  twilight 0.000  \x1b[2Jb\n.png",
        "error  c.png: not a picture",
    ]
    assert list(map(json.loads, printed_at_terminal(records, as_json=True))) == records


def printed_at_terminal(records: list[dict[str, Any]], as_json: bool) -> list[str]:
    ours, theirs = pty.openpty()
    with (
        os.fdopen(theirs, "w", encoding="utf-8") as out,
        answers.shown(Terminal(out, out), as_json, len(records)) as show,
    ):
        for record in records:
            show(record)
    return everything(ours).splitlines()


def test_progress_is_shown_at_a_terminal_while_answers_go_elsewhere() -> None:
    ours, theirs = pty.openpty()
    out = io.StringIO()
    with os.fdopen(theirs, "w", encoding="utf-8") as err, answers.shown(Terminal(out, err), False, 2) as show:
        show({"file": "a.png", **ANSWER})
    assert "pictures" in everything(ours)
    assert json.loads(out.getvalue()) == {"file": "a.png", **ANSWER}


def everything(terminal: int) -> str:
    """What was written to a terminal that is closed at the other end."""
    read = b""
    with contextlib.suppress(OSError):
        while chunk := os.read(terminal, 10_000):
            read += chunk
    os.close(terminal)
    return read.decode()


_WATCHED = r"""
import re, sys
import cli
sys.argv = ["finetune", *sys.argv[1:]]
try:
    cli.main()
finally:
    # Of this program alone: getrusage begins with what started it.
    peak = re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1]
    heavy = {"tensorflow", "tensorflow_serving", "keras", "tfx", "apache_beam"} & sys.modules.keys()
    print("peak", peak, *sorted(heavy), file=sys.stderr)
"""


@pytest.mark.parametrize("way", ["gRPC", "REST"])
def test_a_server_is_asked_without_tensorflow_as_long_as_files_are_plain(served: Path, folder: Path, way: str) -> None:
    write(folder / "a" / "photo.jpg", encode(np.full((4, 4, 3), 51, np.uint8), "JPEG"))
    write(folder / "bad.png", b"no picture")

    def asked() -> tuple[list[Any], list[str]]:
        command = [sys.executable, "-c", _WATCHED, "predict", "--endpoint", url, "--model", str(served), "photos"]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        found = [json.loads(line) for line in done.stdout.splitlines()]
        return found, done.stderr.splitlines()[-1].split()

    with endpoints(served) as urls:
        url = urls[way]
        found, (_, peak, *heavy) = asked()
        assert [record.get("label", "none") for record in found] == ["dark"] * 4 + ["none", "dark"]
        assert heavy == []
        assert int(peak) < 300_000, "kB"
        write(folder / "z.gif", encode(np.full((4, 4, 3), 51, np.uint8), "GIF"))
        found, (_, _, *heavy) = asked()
        assert found[-1]["label"] == "dark"
        assert "tensorflow" in heavy


@contextlib.contextmanager
def endpoints(served: Path) -> Iterator[dict[str, str]]:
    server = stand_in.StandIn(served / CONFIG_FILE)
    try:
        with stand_in.by_grpc(server) as address, stand_in.by_rest(server) as url:
            yield {"gRPC": f"grpc://{address}/{server.name}", "REST": f"{url}/{server.name}"}
            server.refusals.append(ConnectionAbortedError())  # for connections that would outlive the server
    finally:
        server.close()


def start(*arguments: str) -> Any:
    """Start the command, with pipes for all its streams."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-m", "cli", "predict", *arguments], text=True, env=environment, **pipes)


def feed(process: Any, paths: list[str]) -> None:
    process.stdin.write("".join(f"{path}\n" for path in paths))
    process.stdin.flush()
