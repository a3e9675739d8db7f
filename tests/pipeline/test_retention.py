"""What stays and what goes, night after night, with TFX's own launcher and a real metadata store."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from ml_metadata.proto import metadata_store_pb2

from pipeline import history, needs, retention
from pipeline.ending import Verdict
from tests.pipeline.nights import PICTURES, Nights

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nights:
    monkeypatch.chdir(tmp_path)
    return Nights(tmp_path)


def clean_by_itself(nights: Nights, before: str = "") -> subprocess.Popen:
    """Start a process that cleans as if it were alone; `before` is Python that it runs for each folder that it deleted."""
    code = f"""
        import os, signal, time
        from pathlib import Path
        from tests.pipeline.nights import Nights
        from pipeline import retention
        gone = []
        def on_removed(one, size):
            gone.append(one.path)
            {before or "pass"}
        retention.clean(Nights(Path({str(nights.folder)!r})).project, 2, True, on_removed)
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], env=environment, cwd=nights.folder)


def states(nights: Nights) -> dict[str, int]:
    return {one.uri: one.state for one in nights.store.get_artifacts()}


def test_thirty_nights_take_no_more_than_the_last_ones_and_each_can_still_be_explained(nights: Nights) -> None:
    sizes = []
    for night in range(30):
        nights.run(f"day {night}", rate=str(1 + night // 10))
        nights.clean()
        sizes.append(nights.bytes())
    assert max(sizes[2:]) - min(sizes[2:]) < PICTURES / 100
    assert sizes[-1] < 3 * PICTURES
    lines = history.read(nights.connection, "ours", nights.project.serving_dir)
    by_version = {line.version: line for line in lines}
    assert [*by_version] == nights.served.numbers()
    assert [line.data for line in lines] == [f"day {night}" for night in range(30)]
    for night, line in enumerate(lines):
        assert line.configuration is not None
        assert line.configuration["training"]["batch_size"] == 1 + night // 10
        assert line.verdict == Verdict.PUBLISHED
        assert line.code
        assert line.pictures == 100
    assert [line.live for line in lines] == [False] * 29 + [True]


def test_what_is_kept_is_cached_and_what_is_gone_is_made_again(nights: Nights) -> None:
    runs = [nights.run(f"day {night}") for night in range(4)]
    gone = nights.clean()
    assert sorted(Path(one).parts[1:3] for one in gone if ".system" not in one) == sorted(
        2 * [("Ingest", "examples"), ("Gate", "verdict"), ("Train", "model"), ("Push", "pushed_model")]
    )
    assert [nights.examples(run).exists() for run in runs] == [False, False, True, True]
    nights.run("day 2")
    assert (nights.states["Ingest"], nights.states["Train"]) == ("cached", "cached")
    again = nights.run("day 0")
    assert (nights.states["Ingest"], nights.states["Train"]) == ("done", "done")
    assert nights.examples(again).exists()


def test_what_the_live_model_needs_stays_however_many_are_refused_after_it(nights: Nights) -> None:
    nights.run("old")
    live = nights.run("live")
    for night in range(5):
        nights.run(f"refused {night}", publish=False)
        nights.clean()
    assert nights.examples(live).exists()
    assert nights.model(live).exists()
    nights.run("live")
    assert set(nights.states.values()) <= {"cached", "done"}
    assert nights.states["Train"] == "cached"


def test_after_a_rollback_the_model_that_is_live_stays_and_the_one_that_was_goes(nights: Nights) -> None:
    first, second = nights.run("first"), nights.run("second")
    nights.served.rollback()
    for night in range(3):
        nights.run(f"refused {night}", publish=False)
    nights.clean()
    assert nights.model(first).exists()
    assert not nights.model(second).exists()


def test_the_data_accepted_last_stay_to_compare_with(nights: Nights) -> None:
    accepted = nights.run("accepted")
    (verdict,) = (one for one in nights.store.get_artifacts() if one.type == "DataVerdict")
    # Somebody publishes by hand, so that no run of ours made what is live.
    (nights.folder / "saved_model.pb").write_text("theirs")
    (nights.folder / "theirs").mkdir()
    (nights.folder / "saved_model.pb").rename(nights.folder / "theirs" / "saved_model.pb")
    nights.served.publish(str(nights.folder / "theirs"), lambda folder, number: None, "ours")
    for night in range(3):
        nights.run(f"refused {night}", publish=False)
    nights.clean()
    assert Path(verdict.uri).is_dir()
    assert not nights.model(accepted).exists()


def test_checks_of_data_push_out_no_run_and_do_not_pile_up(nights: Nights) -> None:
    runs = [nights.run(f"day {night}") for night in range(2)]
    for number in range(6):
        nights.check(f"check {number}")
    nights.clean()
    assert all(nights.examples(run).exists() for run in runs)
    assert len([*Path("pipeline_root").glob("Ingest/examples/*")]) == 2 + 2


def killed_in_training(nights: Nights, data: str) -> metadata_store_pb2.Execution:
    """A run that was killed in Train: what ML Metadata and the disk have of it."""
    nights.run(data, ends=False)
    store = nights.store
    (execution,) = (one for one in store.get_executions_by_type("tests.pipeline.nights.Train") if one.id == newest(nights))
    execution.last_known_state = metadata_store_pb2.Execution.RUNNING
    store.put_executions([execution])
    torn = Path("pipeline_root/Train/model", str(execution.id))
    (artifact,) = (one for one in store.get_artifacts() if one.uri == str(torn))
    artifact.uri = "pipeline_root/Train/model/none"
    artifact.state = retention.DELETED
    store.put_artifacts([artifact])
    temporary = Path("pipeline_root/Train/.system/executor_execution", str(execution.id), ".temp")
    temporary.mkdir(parents=True, exist_ok=True)
    (temporary / "half").write_bytes(bytes(1000))
    return execution


def newest(nights: Nights) -> int:
    return max(one.id for one in nights.store.get_executions_by_type("tests.pipeline.nights.Train"))


@pytest.mark.parametrize("alone", [True, False])
def test_what_a_killed_run_left_goes_unless_it_may_be_under_way(
    nights: Nights, alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_SETTLE_SECONDS", 0.0)
    execution = killed_in_training(nights, "killed")
    torn = Path("pipeline_root/Train/model", str(execution.id))
    half = Path("pipeline_root/Train/.system/executor_execution", str(execution.id), ".temp", "half")
    assert torn.is_dir()
    for night in range(3):
        nights.run(f"day {night}")
    nights.clean(alone=alone)
    assert (torn.exists(), half.exists()) == (not alone, not alone)
    # A week later nobody takes it for one that is under way.
    monkeypatch.setattr(needs, "_UNDER_WAY_SECONDS", 0.0)
    nights.clean(alone=False)
    assert not torn.exists()
    assert not half.exists()


def test_what_ml_metadata_does_not_know_is_not_touched(nights: Nights) -> None:
    for night in range(4):
        nights.run(f"day {night}")
    strange = [Path("pipeline_root/Train/model/999/x"), Path("pipeline_root/Train/model/1.orphaned-2026/x")]
    strange += [Path("pipeline_root.orphaned-2026/Train/model/1/x"), Path("pipeline_root/notes/x"), Path("notes")]
    for path in strange:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert nights.clean()
    assert nights.clean() == []
    assert all(path.exists() for path in strange)


def test_nothing_goes_where_the_versions_cannot_be_seen(nights: Nights) -> None:
    for night in range(4):
        nights.run(f"day {night}")
    before = nights.bytes()
    elsewhere = nights.project._replace(serving_dir=str(nights.folder / "elsewhere"))
    with pytest.raises(needs.UnseenError, match="no version is live here"):
        retention.clean(elsewhere, 1, alone=True)
    assert nights.bytes() == before


def test_a_store_of_another_pipeline_deletes_nothing(nights: Nights) -> None:
    for night in range(3):
        nights.run(f"day {night}")
    assert retention.plan(nights.project._replace(name="theirs"), 1, alone=True) == []


def test_one_that_is_killed_is_gone_on_with_and_no_cache_is_fooled_meanwhile(nights: Nights) -> None:
    for night in range(6):
        nights.run(f"day {night}")
    with clean_by_itself(nights, "if len(gone) == 3: os.kill(os.getpid(), signal.SIGKILL)") as process:
        assert process.wait() == -signal.SIGKILL
    live = [uri for uri, state in states(nights).items() if state == retention.LIVE]
    assert all(Path(uri).is_dir() for uri in live)
    for night in range(4):
        nights.run(f"day {night}")
        assert nights.states["Ingest"] == "done"
    nights.clean()
    assert len([*Path("pipeline_root").glob("Ingest/examples/*")]) == 2
    assert {state for uri, state in states(nights).items() if not Path(uri).exists()} == {retention.DELETED}


def test_two_at_once_do_not_disturb_each_other(nights: Nights) -> None:
    for night in range(12):
        nights.run(f"day {night}")
    both = [clean_by_itself(nights, "time.sleep(0.01)") for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert len([*Path("pipeline_root").glob("Ingest/examples/*")]) == 2
    live = [uri for uri, state in states(nights).items() if state == retention.LIVE]
    assert live
    assert all(Path(uri).is_dir() for uri in live)


def test_what_a_run_takes_from_the_cache_meanwhile_stays(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    used, *_ = [nights.run(f"day {night}") for night in range(4)]
    path, store = nights.examples(used), nights.store
    (artifact,) = (one for one in store.get_artifacts() if one.uri == str(path.parent))

    def publish_cached(seconds: float) -> None:
        """What TFX's driver writes down that looked into the cache before anything was marked."""
        (marked,) = store.get_artifacts_by_id([artifact.id])
        assert marked.state == retention.MARKED
        run = metadata_store_pb2.Context(type_id=store.get_context_type("pipeline_run").id, name="meanwhile")
        (run.id,) = store.put_contexts([run])
        ours = store.get_context_by_type_and_name("pipeline", "ours")
        assert ours is not None
        store.put_parent_contexts([metadata_store_pb2.ParentContext(child_id=run.id, parent_id=ours.id)])
        of_ingest = store.get_execution_type("tests.pipeline.nights.Ingest").id
        execution = metadata_store_pb2.Execution(type_id=of_ingest, last_known_state=metadata_store_pb2.Execution.CACHED)
        event = metadata_store_pb2.Event(type=metadata_store_pb2.Event.OUTPUT, artifact_id=artifact.id)
        store.put_execution(execution, [(artifact, event)], [run, ours])

    monkeypatch.setattr(retention.time, "sleep", publish_cached)
    gone = nights.clean(alone=False)
    monkeypatch.undo()
    assert gone
    assert str(path.parent) not in gone
    os.chdir(nights.folder)
    nights.run("day 0")
    assert nights.states["Ingest"] == "cached"


def test_a_new_execution_moves_away_what_is_in_its_folder(nights: Nights, caplog: pytest.LogCaptureFixture) -> None:
    nights.run("day 0")
    before = nights.bytes()
    # ML Metadata is lost, and gives the same numbers again.
    os.rename("metadata.db", "lost.db")
    again = Nights(nights.folder)
    run = again.run("day 1")
    assert again.examples(run).parent.name == "1"
    assert "1 was not empty" in caplog.text
    assert nights.bytes() > 1.9 * before
    assert [*Path("pipeline_root/Ingest/examples").glob("1.orphaned-*/pictures")]


def test_a_failed_night_leaves_nothing_that_stays_for_ever(nights: Nights) -> None:
    for _ in range(8):
        nights.run("broken")
        nights.clean()
    left = [path for path in Path("pipeline_root").glob("*/.system/*/*") if path.is_dir()]
    assert len(left) <= 2, left


def test_sizes_are_for_people() -> None:
    assert [retention.readable(size) for size in (0, 999, 1000, 12_345_678, 3_100_000_000, 2e12)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "12.3 MB",
        "3.1 GB",
        "2.0 TB",
    ]
    assert retention.in_words(retention.Freed(1, 10)) == "1 folder, 10 B"
