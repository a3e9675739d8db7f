"""What a run says of itself, in a database and through ML Metadata's server."""

import datetime
from collections.abc import Iterator
from pathlib import Path

import grpc
import ml_metadata as mlmd
import pytest
import trustme

from kubeflow import folders
from pipeline import journal
from pipeline.ending import Ending, Verdict
from tests.kubeflow import metadata_server

PUBLISHED = Ending(
    pipeline="images",
    run="17",
    verdict=Verdict.PUBLISHED,
    version=1795478357,
    accuracy=0.9,
    accuracy_interval=(0.82, 0.95),
    test_pictures=100,
    baseline_accuracy=0.88,
    look="finetune kubeflow status 17",
)


def failed(node: str, run: str = "17") -> Ending:
    return Ending(pipeline="images", run=run, verdict=Verdict.FAILED, node=node, reason=f"{node} failed: Überlauf, 99 %")


def attempt(reason: str) -> journal.Attempt:
    return journal.Attempt(ended=now(), seconds=9.5, code=1, reason=reason)


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with metadata_server.serving() as address:
        yield address


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def tls_server(authority: trustme.CA) -> Iterator[str]:
    issued = authority.issue_cert("localhost")
    key, chain = issued.private_key_pem.bytes(), b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    with metadata_server.serving(grpc.ssl_server_credentials([(key, chain)])) as address:
        yield address


@pytest.fixture
def trusting(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv(folders.METADATA_CA_VARIABLE, str(tmp_path / "ca.pem"))


@pytest.fixture(params=["sqlite", "grpc", "grpcs"])
def connection(request: pytest.FixtureRequest, tmp_path: Path) -> journal.Connection:
    if request.param == "sqlite":
        return folders.metadata_connection(f"sqlite://{tmp_path}/metadata.db")
    if request.param == "grpcs":
        request.getfixturevalue("trusting")
    address = request.getfixturevalue("tls_server" if request.param == "grpcs" else "server")
    return folders.metadata_connection(f"{request.param}://{address}")


@pytest.fixture
def run(request: pytest.FixtureRequest) -> str:
    """An id of its own for each test: those with a server share its store."""
    return request.node.name


def end_of(connection: journal.Connection, run: str) -> Ending | None:
    found = journal.read_end(connection, run)
    return found.ending if found else None


def test_of_what_has_not_ended_nothing_is_read(connection: journal.Connection, run: str) -> None:
    assert journal.read_node(connection, run, "Trainer") is None
    assert journal.read_end(connection, run) is None
    journal.note_node(connection, run, "Trainer", "done", [])
    journal.note_end(connection, PUBLISHED.model_copy(update={"run": run}), now())
    assert journal.read_node(connection, run, "Tuner") is None
    assert journal.read_node(connection, f"{run}8", "Trainer") is None
    assert journal.read_end(connection, f"{run}8") is None


def test_failures_of_several_pods_add_up_and_the_last_state_counts(connection: journal.Connection, run: str) -> None:
    lost, diverged, full = attempt("killed (SIGKILL)"), attempt("diverged"), attempt("No space left on device: „/mnt“")
    journal.note_node(connection, run, "Trainer", "failed", [lost])
    journal.note_node(connection, run, "Trainer", "failed", [diverged, full])
    journal.note_node(connection, run, "Tuner", "cached", [])
    expected = journal.NodeRecord(state="failed", failures=[lost, diverged, full])
    assert journal.read_node(connection, run, "Trainer") == expected
    journal.note_node(connection, run, "Trainer", "done", [])
    assert journal.read_node(connection, run, "Trainer") == expected.model_copy(update={"state": "done"})
    assert journal.read_node(connection, run, "Tuner") == journal.NodeRecord(state="cached")


def test_a_node_that_a_later_pod_finds_done_took_what_it_took(connection: journal.Connection, run: str) -> None:
    journal.note_node(connection, run, "Transform", "done", seconds=60.0)
    journal.note_node(connection, run, "Transform", "done", seconds=0.3)
    assert journal.read_node(connection, run, "Transform") == journal.NodeRecord(state="done", seconds=60.0)


def test_an_end_is_read_as_it_was_written(connection: journal.Connection, run: str) -> None:
    ending = PUBLISHED.model_copy(update={"run": run})
    assert journal.note_end(connection, ending, now())
    assert end_of(connection, run) == ending


def test_of_nodes_that_failed_in_parallel_the_first_has_the_word(connection: journal.Connection, run: str) -> None:
    begun = now()
    assert journal.note_end(connection, failed("Trainer", run), begun)
    assert not journal.note_end(connection, failed("DataGate", run), begun)
    assert end_of(connection, run) == failed("Trainer", run)


def test_a_later_try_has_the_last_word(connection: journal.Connection, run: str) -> None:
    assert journal.note_end(connection, failed("Trainer", run), now())
    assert journal.note_end(connection, failed("Pusher", run), now())
    assert end_of(connection, run) == failed("Pusher", run)


def test_success_has_the_word_before_failures_whenever_it_began(connection: journal.Connection, run: str) -> None:
    begun = now()
    for verdict in (Verdict.PUBLISHED, Verdict.UP_TO_DATE):
        ending = PUBLISHED.model_copy(update={"run": run, "verdict": verdict})
        journal.note_end(connection, failed("Trainer", run), now())
        assert journal.note_end(connection, ending, begun)
        assert not journal.note_end(connection, failed("Trainer", run), begun)
        assert end_of(connection, run) == ending


def test_a_server_must_be_vouched_for(tls_server: str, monkeypatch: pytest.MonkeyPatch, trusting: None) -> None:
    url = f"grpcs://{tls_server}"
    assert journal.read_end(folders.metadata_connection(url), "17") is None
    with pytest.raises(mlmd.errors.UnavailableError):
        journal.read_end(folders.metadata_connection(f"grpc://{tls_server}"), "17")
    monkeypatch.delenv(folders.METADATA_CA_VARIABLE)
    with pytest.raises(mlmd.errors.UnavailableError):
        journal.read_end(folders.metadata_connection(url), "17")
