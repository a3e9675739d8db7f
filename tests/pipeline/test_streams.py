import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline import streams

ROOT = Path(__file__).resolve().parents[2]


def child(code: str, closing: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """Run code after `streams.prepare()`, started by a shell that closes or redirects streams."""
    script = f"import os, sys\nfrom pipeline import streams\nstreams.prepare()\n{code}"
    command = ["sh", "-c", f'exec "$0" -c "$1" {closing}', sys.executable, script]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | variables, capture_output=True, encoding="utf-8", errors="replace", check=False
    )


@pytest.mark.parametrize("closing", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_no_file_gets_the_number_of_a_closed_stream_and_all_can_be_used(closing: str, tmp_path: Path) -> None:
    code = f"""
with open({str(tmp_path / "file")!r}, "w") as opened:
    assert opened.fileno() > 2
    assert sys.stdin.read() == ""
    print("out")
    print("err", file=sys.stderr)
    os.write(1, b"from C")
    os.system("echo from a child; echo and its errors >&2")
    opened.write("whole")
sys.exit(7)
"""
    assert child(code, closing if "<" in closing else f"{closing} </dev/null").returncode == 7
    assert (tmp_path / "file").read_text() == "whole"


@pytest.mark.parametrize("closing", ["> /dev/full", "2> /dev/full", "> /dev/full 2>&1"])
def test_what_has_no_room_is_dropped(closing: str) -> None:
    code = "for _ in range(10000):\n  print('out')\n  print('err', file=sys.stderr)\nsys.exit(7)"
    done = child(code, closing)
    assert done.returncode == 7
    assert "Exception" not in done.stderr


def test_what_nobody_reads_is_dropped() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    code = "from pipeline import streams; streams.prepare()\nfor _ in range(10000): print('out')\nraise SystemExit(7)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (7, b"")


@pytest.mark.parametrize(("closing", "lost"), [("", "None"), ("> /dev/full", "[Errno 28] No space left on device")])
def test_what_is_lost_is_known(closing: str, lost: str) -> None:
    done = child("print('result')\nprint(streams.dropped(), file=sys.stderr)", closing)
    assert done.stderr.strip() == lost


@pytest.mark.parametrize(
    ("encoding", "shown"), [("latin-1", b"K\xe4fer \\u732b \\udcff\n"), ("ascii:strict", b"K\\xe4fer \\u732b \\udcff\n")]
)
def test_a_character_that_a_terminal_does_not_have_is_written_as_its_number(encoding: str, shown: bytes) -> None:
    code = "import sys; from pipeline import streams; streams.prepare(); print('K\\xe4fer \\u732b \\udcff')"
    variables = os.environ | {"PYTHONIOENCODING": encoding}
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=variables, stdout=-1, check=True).stdout == shown


def test_a_pipe_that_does_not_block_loses_nothing() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    lines = [f"{number} {'x' * 100}" for number in range(5000)]
    found: list[str] = []

    def read() -> None:
        with open(reading) as opened:
            found.extend(opened.read().splitlines())

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    with streams.text(writing, None, closefd=True) as stream:
        for line in lines:
            print(line, file=stream)
    reader.join()
    assert found == lines


@pytest.mark.parametrize(("place", "named"), [("/dev/full", "No space left on device"), ("pipe", "Broken pipe")])
def test_results_that_must_be_written_are_an_error_where_they_can_not(place: str, named: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    descriptor = writing if place == "pipe" else os.open(place, os.O_WRONLY)
    with (
        pytest.raises(streams.OutputError, match=named),
        streams.text(descriptor, None, strict=True, closefd=True) as stream,
    ):
        print("result", file=stream, flush=True)


def test_streams_in_the_place_of_the_standard_ones_stay(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    streams.prepare()
    assert (sys.stdout, sys.stderr) == before
