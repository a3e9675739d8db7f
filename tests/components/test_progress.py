import logging
import time
from pathlib import Path

import pytest

from components.image_example_gen import inventory, progress
from components.image_example_gen.progress import State

LOGGER = "finetune.components.image_example_gen"


def meter(folder: Path) -> progress.Meter:
    folder.mkdir(exist_ok=True)
    return progress.Meter(str(folder))


def test_reports_of_workers_are_added_up_and_a_unit_that_is_read_again_counts_once(tmp_path: Path) -> None:
    one, other = meter(tmp_path / "told"), meter(tmp_path / "told")
    one.add(inventory.Unit(0, 10), 4)
    one.end(5)
    other.add(inventory.Unit(10, 20), 20)
    other.add(inventory.Unit(0, 10), 9)  # as a task that is tried again does
    other.end(0)
    assert progress.read(str(tmp_path / "told")) == State(30, 29)


def test_a_report_that_is_half_written_is_left_out(tmp_path: Path) -> None:
    one = meter(tmp_path / "told")
    one.add(inventory.Unit(0, 10), 10)
    one.end(0)
    (tmp_path / "told" / "x").write_text('{"10": [1')
    assert progress.read(str(tmp_path / "told")) == State(10, 10)


def test_a_report_that_can_not_be_written_ends_nothing(tmp_path: Path) -> None:
    one = progress.Meter(str(tmp_path / "missing"))
    one.add(inventory.Unit(0, 10), 10)
    one.end(0)
    assert progress.read(str(tmp_path / "missing")) == State(0, 0)


@pytest.mark.parametrize(
    ("state", "before", "said"),
    [
        (State(100, 100), State(100, 100), "100 pictures read"),
        (State(3000, 2900), State(1000, 900), "2,900 pictures read, 200 a second, 10 s left"),
        (State(5000, 4900), State(1000, 900), "4,900 pictures read"),
    ],
)
def test_rate_and_what_is_left_are_said(state: State, before: State, said: str) -> None:
    assert progress.in_words(state, before, 10.0, rows=5000) == said


def test_the_driver_shows_what_workers_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "_SECONDS", 0.01)
    one = meter(tmp_path / "told")
    with caplog.at_level(logging.INFO, LOGGER), progress.shown(str(tmp_path / "told"), 30):
        one.add(inventory.Unit(0, 10), 10)
        one.end(0)
        deadline = time.monotonic() + 30
        while not caplog.records and time.monotonic() < deadline:
            time.sleep(0.01)
    assert caplog.records[0].getMessage() == "10 pictures read"
    assert caplog.records[0].transient
