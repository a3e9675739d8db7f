"""A look at the workers before Beam works on them: whether they have this code, and see the folders that are seen here."""

from __future__ import annotations

import os
import platform
import re
import socket
import uuid
from collections.abc import Iterable, Iterator, Sequence

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options import pipeline_options

from pipeline import fingerprint

_ON_WORKERS = ("components.image_example_gen.executor", "modules.preprocessing", "components.model_evaluator.executor")
_FEWEST, _A_TASK = 16, 4
"""Elements, at least and for each task, so that every worker gets some."""
_TOLD = re.compile(r"ProbeError: (.*)")
_MISSING = re.compile(r"(ModuleNotFoundError|ImportError|AttributeError): (.*)")
_SAME_IMAGE = "start the workers with the image, or the installation, that this run is started from"


class ProbeError(ValueError):
    """Workers that can't do a run's work; the message names one, what is wrong with it, and what would be right."""


def facts() -> dict[str, str]:
    """Return what has to be alike in all processes of a run: versions, and a hash of the code that workers run."""
    return {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        **fingerprint.versions("apache-beam"),
        "code": fingerprint.code_fingerprint(*_ON_WORKERS)[:12],
    }


def check(folder: str, run_id: str, arguments: Sequence[str], paths: Iterable[str]) -> None:
    """Have all workers look, once in a run.

    Args:
      folder: below the output folder, for what is written to be seen by others.
      run_id: of the run.
      arguments: Beam's, for the workers.
      paths: local ones that workers have to see.

    Raises:
      ProbeError: they have other code, or don't see what they have to.
    """
    from tfx.dsl.io import fileio  # slow to import, and workers import this module

    passed = os.path.join(folder, "probed")
    if _read(passed) == run_id:
        return
    options = pipeline_options.PipelineOptions(arguments)
    parallelism = options.view_as(pipeline_options.FlinkRunnerOptions).parallelism
    count = max(_FEWEST, _A_TASK * parallelism)
    place = os.path.join(folder, f"probe-{uuid.uuid4().hex}")
    _write(os.path.join(place, "driver"), place)
    try:
        _look(options, _Look(facts(), place, list(paths)), count)
        unseen = [number for number in range(count) if _read(os.path.join(place, str(number))) is None]
        if unseen:
            raise ProbeError(
                f"{os.path.dirname(folder)}: what workers write there is not seen here: it has to be on a volume that they"
                " share, under one path"
            )
    finally:
        fileio.rmtree(place)
    _write(passed, run_id)


def _look(options: pipeline_options.PipelineOptions, look: _Look, count: int) -> None:
    try:
        with beam.Pipeline(options=options) as pipeline:
            _ = pipeline | "Numbers" >> beam.Create(range(count)) | "Spread" >> beam.Reshuffle() | "Look" >> beam.ParDo(look)
    except Exception as error:
        text = " ".join(str(error).split(" [while running")[0].split())
        if told := _TOLD.search(text):
            raise ProbeError(told[1]) from None
        if (missing := _MISSING.search(text)) and __name__.partition(".")[0] in missing[2]:
            raise ProbeError(f"a worker's code is not this run's ({missing[0]}): {_SAME_IMAGE}") from None
        raise


class _Look(beam.DoFn):
    """Compares a worker with the driver, and writes to where both have to see it.

    Args:
      expected: the driver's facts.
      place: a new folder, with a file by the driver.
      paths: that have to be there.
    """

    def __init__(self, expected: dict[str, str], place: str, paths: list[str]):
        super().__init__()
        self._expected, self._place, self._paths = expected, place, paths

    def setup(self) -> None:
        self._found = facts()

    def process(self, number: int) -> Iterator[None]:
        problems = [*self._differences(), *self._unseen()]
        if problems:
            raise ProbeError(f"worker {socket.gethostname()}: {'; '.join(problems)}")
        _write(os.path.join(self._place, str(number)), socket.gethostname())
        return iter(())

    def _differences(self) -> Iterator[str]:
        pairs = [(key, self._found.get(key), value) for key, value in self._expected.items()]
        if different := [f"{key} {here} instead of {there}" for key, here, there in pairs if here != there]:
            yield f"has {', '.join(different)}: {_SAME_IMAGE}"

    def _unseen(self) -> Iterator[str]:
        if _read(os.path.join(self._place, "driver")) != self._place:
            folder = os.path.dirname(os.path.dirname(self._place))
            yield f"does not see {folder} as it is here: it has to be on a volume that workers share, under one path"
        for path in self._paths:
            if not os.path.exists(path):
                yield f"does not see {path}: the pictures have to be on a volume that workers share, under one path"


def _read(path: str) -> str | None:
    """What a file holds; None if it is not there."""
    if not FileSystems.exists(path):
        return None
    with FileSystems.open(path) as file:
        return bytes(file.read()).decode()


def _write(path: str, text: str) -> None:
    with FileSystems.create(path) as file:
        file.write(text.encode())
