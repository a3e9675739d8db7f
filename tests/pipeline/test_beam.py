import os

import apache_beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to

from configs import schema
from modules import machine
from pipeline import beam


@pytest.mark.parametrize("visible", [None, "0,1"])
def test_processes_of_beam_see_no_gpu_and_this_one_still_does(visible: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(machine, "cores", lambda: 2)
    options = PipelineOptions(beam.arguments(schema.Beam(), beam.ALL_CORES_FROM), direct_num_workers=1)
    parent = os.getpid()
    with beam.children_without_gpus(), apache_beam.Pipeline(options=options) as pipeline:
        seen = pipeline | apache_beam.Create([parent]) | apache_beam.Map(_gpus_of_another_process)
        assert_that(seen, equal_to(["-1"]))
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible


def _gpus_of_another_process(parent: int) -> str | None:
    assert os.getpid() != parent
    return os.environ.get("CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize(
    ("cores", "gigabytes", "pictures", "workers"),
    [
        (4, 64, 20_000, 4),
        (64, 5, 20_000, 10),  # 1 GB and 10 times 0.4
        (64, 64, 19_999, None),
        (1, 64, 20_000, None),
        (64, 1, 20_000, None),
    ],
)
def test_there_are_as_many_workers_as_cores_and_memory_have_room_for(
    monkeypatch: pytest.MonkeyPatch, cores: int, gigabytes: int, pictures: int, workers: int | None
) -> None:
    monkeypatch.setattr(machine, "cores", lambda: cores)
    monkeypatch.setattr(machine, "memory", lambda: gigabytes * 10**9)
    arguments = beam.arguments(schema.Beam(), pictures)
    assert ("--direct_running_mode=multi_processing" in arguments) == (workers is not None)
    assert [one for one in arguments if "num_workers" in one] == ([f"--direct_num_workers={workers}"] if workers else [])
