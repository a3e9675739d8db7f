import os

import apache_beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to

from configs import schema
from pipeline import beam


@pytest.mark.parametrize("visible", [None, "0,1"])
def test_processes_of_beam_see_no_gpu_and_this_one_still_does(visible: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    options = PipelineOptions(beam.arguments(schema.Beam(), beam.ALL_CORES_FROM), direct_num_workers=1)
    parent = os.getpid()
    with beam.children_without_gpus(), apache_beam.Pipeline(options=options) as pipeline:
        seen = pipeline | apache_beam.Create([parent]) | apache_beam.Map(_gpus_of_another_process)
        assert_that(seen, equal_to(["-1"]))
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible


def _gpus_of_another_process(parent: int) -> str | None:
    assert os.getpid() != parent
    return os.environ.get("CUDA_VISIBLE_DEVICES")
