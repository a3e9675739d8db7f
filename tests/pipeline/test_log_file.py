import os
import subprocess
from pathlib import Path

import pytest

from pipeline import log_file


def test_what_others_write_goes_to_the_file_and_the_terminal_stays_ours(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "logs" / "run.log"
    with log_file.capture_output(path) as terminal:
        os.write(1, b"from C\n")
        subprocess.run(["sh", "-c", "echo from a child >&2"], check=True)
        print("result", file=terminal.out)
        print("progress", file=terminal.err)
    os.write(1, b"after\n")
    assert path.read_text() == "from C\nfrom a child\n"
    assert capfd.readouterr() == ("result\nafter\n", "progress\n")
