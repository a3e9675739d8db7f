"""The look at workers, which here are threads of this process; they are other machines in tests/flink."""

import itertools
from pathlib import Path

import pytest

from pipeline import probe

IN_PROCESS = ("--runner=FnApiRunner",)


def check(folder: Path, paths: tuple[str, ...] = (), run_id: str = "run") -> None:
    probe.check(str(folder / ".beam"), run_id, IN_PROCESS, paths)


def test_workers_that_are_as_they_have_to_be_are_looked_at_once_in_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(tmp_path, (str(tmp_path),))
    assert [path.name for path in (tmp_path / ".beam").iterdir()] == ["probed"]
    monkeypatch.setattr(probe, "_look", lambda *arguments: pytest.fail("looked again"))
    check(tmp_path)
    with pytest.raises(pytest.fail.Exception, match="looked again"):
        check(tmp_path, run_id="next")


def test_other_code_or_libraries_at_a_worker_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"Python": "3.11", "keras": "3.15.1", "code": "abc"}
    there = {"Python": "3.11", "keras": "3.14.0", "code": "def"}
    answers = itertools.chain([here], itertools.repeat(there))
    monkeypatch.setattr(probe, "facts", lambda: next(answers))
    with pytest.raises(
        probe.ProbeError,
        match=r"^worker \S+: has keras 3\.14\.0 instead of 3\.15\.1, code def instead of abc: start the workers",
    ):
        check(tmp_path)
    assert not list((tmp_path / ".beam").iterdir())


def test_a_source_that_a_worker_does_not_see_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "pictures")
    with pytest.raises(probe.ProbeError, match=rf"^worker \S+: does not see {missing}: the pictures have to be on a volume"):
        check(tmp_path, (missing,))


def test_an_output_folder_that_a_worker_does_not_see_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_read", lambda path: None)
    with pytest.raises(probe.ProbeError, match=rf"^worker \S+: does not see {tmp_path} as it is here: it has to be on"):
        check(tmp_path)


def test_an_output_folder_that_takes_what_workers_write_elsewhere_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = probe._write
    monkeypatch.setattr(probe, "_write", lambda path, text: None if path.endswith("/7") else real(path, text))
    with pytest.raises(probe.ProbeError, match=rf"^{tmp_path}: what workers write there is not seen here"):
        check(tmp_path)


def test_an_image_without_this_module_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("ModuleNotFoundError: No module named 'pipeline.probe' [while running 'Look']\n\nat java")

    monkeypatch.setattr(probe.beam, "Pipeline", fail)
    with pytest.raises(probe.ProbeError, match=r"a worker's code is not this run's \(ModuleNotFoundError: No module named"):
        check(tmp_path)


def test_other_failures_stay_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(probe.beam, "Pipeline", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        check(tmp_path)
