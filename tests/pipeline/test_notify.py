"""Who is told how a run ended, over real HTTP."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from email.message import Message
from typing import Any, NamedTuple

import pytest

from configs import schema
from pipeline import notify
from pipeline.ending import Ending, Verdict
from tests import web

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


class Told(NamedTuple):
    method: str
    path: str
    kind: str
    content: dict[str, Any]


@contextlib.contextmanager
def listening(*statuses: int | None) -> Iterator[tuple[str, list[Told]]]:
    """Answer with these, one a request; None breaks the connection. Yields the address, and what was told."""
    left, heard = list(statuses), list[Told]()

    def answer(method: str, path: str, body: bytes, headers: Message) -> tuple[int, Any]:
        heard.append(Told(method, path, headers["Content-Type"], json.loads(body)))
        status = left.pop(0)
        if status is None:
            raise ConnectionAbortedError
        return status, {}

    with web.serving(answer) as address:
        yield address, heard


@pytest.fixture(autouse=True)
def no_secret_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(notify.URL_VARIABLE, raising=False)


def test_the_end_is_posted_as_fields_and_as_a_line() -> None:
    with listening(200) as (address, heard):
        assert notify.post(schema.Notify(url=f"{address}/hooks?room=7"), PUBLISHED)
    content = {
        "pipeline": "images",
        "run": "17",
        "verdict": "published",
        "reason": "",
        "node": None,
        "version": 1795478357,
        "accuracy": 0.9,
        "accuracy_interval": [0.82, 0.95],
        "test_pictures": 100,
        "baseline_accuracy": 0.88,
        "baseline_note": "",
        "look": "finetune kubeflow status 17",
        "text": f"{PUBLISHED.text}; see finetune kubeflow status 17",
    }
    assert heard == [Told("POST", "/hooks?room=7", "application/json", content)]


def test_the_line_ends_with_the_end_where_there_is_nowhere_to_look() -> None:
    with listening(200) as (address, heard):
        assert notify.post(schema.Notify(url=address), PUBLISHED.model_copy(update={"look": ""}))
    assert heard[0].content["text"] == PUBLISHED.text


def test_the_address_of_the_environment_goes_before_the_configuration_s(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as (configured, unheard), listening(200, 200) as (secret, heard):
        monkeypatch.setenv(notify.URL_VARIABLE, secret)
        assert notify.post(schema.Notify(url=configured), PUBLISHED)
        assert notify.post(schema.Notify(), PUBLISHED)
    assert (len(unheard), len(heard)) == (0, 2)


def test_an_empty_address_in_the_environment_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(notify.URL_VARIABLE, "")
    with listening(200) as (configured, heard):
        assert notify.post(schema.Notify(url=configured), PUBLISHED)
        assert not notify.post(schema.Notify(), PUBLISHED)
    assert len(heard) == 1


def test_without_an_address_nobody_is_told_and_nothing_is_said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("somebody was told")

    monkeypatch.setattr(notify.requests, "post", refuse)
    assert not notify.post(schema.Notify(), PUBLISHED)
    assert not caplog.records


@pytest.mark.parametrize("first", [503, 404, None])
def test_it_is_told_again_once(first: int | None, caplog: pytest.LogCaptureFixture) -> None:
    with listening(first, 200) as (address, heard):
        assert notify.post(schema.Notify(url=address), PUBLISHED)
    assert len(heard) == 2
    assert heard[0] == heard[1]
    assert not caplog.records


@pytest.mark.parametrize(
    ("statuses", "said"), [((503, 503), "HTTP 503"), ((None, 500), "HTTP 500"), ((None, None), "ConnectionError")]
)
def test_after_two_refusals_it_is_given_up_and_no_secret_is_logged(
    statuses: tuple[int | None, ...], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with listening(*statuses) as (address, heard):
        secret = f"{address.replace('//', '//me:pa55@')}/hooks/T0?token=t0ken"
        assert not notify.post(schema.Notify(url=secret), PUBLISHED)
    assert len(heard) == 2
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == f"how the run ended could not be posted to the address in notify.url: {said}"
    assert record.exc_info is None


def test_where_the_address_holds_no_login_its_host_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with listening(404, 404) as (address, _):
        assert not notify.post(schema.Notify(url=f"{address}/hooks/T0?token=t0ken"), PUBLISHED)
    (record,) = caplog.records
    assert record.getMessage() == "how the run ended could not be posted to http://localhost: HTTP 404"


def test_a_redirect_is_no_ear(caplog: pytest.LogCaptureFixture) -> None:
    with listening(302, 301) as (address, heard):
        assert not notify.post(schema.Notify(url=address), PUBLISHED)
    assert len(heard) == 2
    assert "HTTP 301" in caplog.text


def test_the_line_s_end_of_a_secret_s_file_is_no_part_of_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(200) as (address, heard):
        monkeypatch.setenv(notify.URL_VARIABLE, f"{address}/hook\n")
        assert notify.post(schema.Notify(), PUBLISHED)
    assert [one.path for one in heard] == ["/hook"]


def test_a_number_that_is_none_is_told_as_none() -> None:
    with listening(200) as (address, heard):
        assert notify.post(schema.Notify(url=address), PUBLISHED.model_copy(update={"accuracy": float("nan")}))
    assert [one.content["accuracy"] for one in heard] == [None]


def test_a_listener_that_keeps_silent_is_waited_for_twice_as_long_as_configured(caplog: pytest.LogCaptureFixture) -> None:
    over = threading.Event()

    def answer(*_: Any) -> tuple[int, Any]:
        over.wait(60)
        return 200, {}

    with web.serving(answer) as address:
        begun = time.monotonic()
        assert not notify.post(schema.Notify(url=address, timeout_seconds=0.3), PUBLISHED)
        seconds = time.monotonic() - begun
        over.set()
    assert 0.6 <= seconds < 10
    assert caplog.messages == ["how the run ended could not be posted to http://localhost: ReadTimeout"]


@pytest.mark.parametrize(
    "address",
    [
        "s3cr3t",
        "/s3cr3t",
        "http://",
        "http:///s3cr3t",
        "http://[::1/s3cr3t",
        "http://a..b/s3cr3t",
        "http://*/s3cr3t",
        f"http://{'a' * 300}/s3cr3t",
        "http://localhost:port/s3cr3t",
        "http://localhost:99999/s3cr3t",
        "http://localhost:1/s3cr3t",
        "http://me:s3cr3t@localhost:1",
        "http://me:s3cr3t\N{SNOWMAN}@localhost:1",
        "http://no-such-host.invalid/s3cr3t",
        "ftp://localhost/s3cr3t",
        "mailto:s3cr3t",
    ],
)
def test_an_address_that_nobody_can_post_to_is_a_warning_and_no_error(
    address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(notify.URL_VARIABLE, address)
    assert not notify.post(schema.Notify(timeout_seconds=5.0), PUBLISHED)
    assert len(caplog.records) == 1
    assert "s3cr3t" not in caplog.text


def test_a_link_has_the_run_s_id_and_without_one_there_is_the_command() -> None:
    link = "https://kubeflow.example/#/runs/details/{run}"
    assert notify.look(schema.Notify(link=link), "17", "status 17") == "https://kubeflow.example/#/runs/details/17"
    assert notify.look(schema.Notify(link="https://wiki.example"), "17", "status 17") == "https://wiki.example"
    assert notify.look(schema.Notify(), "17", "status 17") == "status 17"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "images: published; version 1795478357; test accuracy 0.9000, 0.8200 to 0.9500 on 100 pictures"),
        (
            {"verdict": Verdict.UP_TO_DATE, "accuracy_interval": None, "node": "Pusher"},
            "images: up to date; version 1795478357; test accuracy 0.9000 on 100 pictures",
        ),
        (
            {"verdict": Verdict.REFUSED, "version": None, "reason": "accuracy 0.9, asked for: 0.95"},
            "images: refused; accuracy 0.9, asked for: 0.95; test accuracy 0.9000, 0.8200 to 0.9500 on 100 pictures",
        ),
        (
            {"verdict": Verdict.REFUSED, "node": "DataGate", "reason": "2 findings", "version": None, "accuracy": None},
            "images: refused in DataGate; 2 findings",
        ),
        (
            {"verdict": Verdict.FAILED, "node": "Trainer", "reason": "out of memory", "version": None, "accuracy": None},
            "images: failed in Trainer; out of memory",
        ),
        (
            {"verdict": Verdict.FAILED, "reason": "interrupted", "version": None, "accuracy": None},
            "images: failed; interrupted",
        ),
    ],
)
def test_a_line_says_how_a_run_ended(changed: dict[str, Any], said: str) -> None:
    assert PUBLISHED.model_copy(update=changed).text == said


@pytest.mark.parametrize("verdict", Verdict)
def test_only_what_is_published_has_succeeded(verdict: Verdict) -> None:
    ending = PUBLISHED.model_copy(update={"verdict": verdict})
    assert ending.succeeded == (verdict in {Verdict.PUBLISHED, Verdict.UP_TO_DATE})
