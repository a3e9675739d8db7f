"""Accepts Beam's stages on a real Flink, which it brings up on this machine: what `make flink-test` runs.

  make flink-test
  make flink-test QUICK=1

Java 17, Maven and 5 GB of memory. Ten minutes on two cores, three with QUICK, and three more the first time, for what is
fetched into .runtime/flink. Each step says what it saw; the exit code is 1 if one failed. Nothing stays behind, also after
Ctrl-C.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from tests import acceptance
from tests.flink import binaries, cluster, project


@click.command()
@click.option("--quick", envvar="QUICK", is_flag=True, help="Run and compare alone; nothing is killed.")
@click.option("--only", multiple=True, metavar="STEP", help="Only these and those that set up.")
@click.option(
    "--keep",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the runs there, and go on from them.",
)
def main(quick: bool, only: tuple[str, ...], keep: Path | None) -> None:
    """Accept Beam's stages on a Flink."""
    began = time.monotonic()
    try:
        with TemporaryDirectory(prefix="finetune-flink-runs-") as scratch, cluster.running(task_managers=2) as flink:
            print(f"Flink at {flink.master}, up after {time.monotonic() - began:.0f} s", flush=True)
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
            passed, failed = _accept(flink, project.Project(keep or Path(scratch)), quick, only)
    except binaries.MissingError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        print("\ninterrupted; nothing is left behind")
        sys.exit(130)
    print(f"\n{passed} passed, {failed} failed ({time.monotonic() - began:.0f} s)")
    sys.exit(1 if failed or not passed else 0)


def _accept(flink: cluster.Cluster, work: project.Project, quick: bool, only: tuple[str, ...]) -> tuple[int, int]:
    """Go through the steps; return how many passed and how many failed."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # of the machine's GPUs, for instance
    from tests.flink import steps  # and TensorFlow, which isn't needed to say that Java is missing

    try:
        return acceptance.go_through(steps.all_of(flink, work, quick), only)
    finally:
        work.stop()


if __name__ == "__main__":
    main()
