"""Beam's stages on a Flink of two task managers, equal to the local run's: `make flink-test QUICK=1`."""

import subprocess
import sys

import pytest

from tests.flink import binaries


@pytest.mark.skipif(bool(binaries.missing()), reason=binaries.missing())
def test_a_run_on_flink_equals_the_local_one() -> None:
    done = subprocess.run([sys.executable, "-m", "tests.flink", "--quick"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
