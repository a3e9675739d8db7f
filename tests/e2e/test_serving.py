"""A published model, behind a stand-in for TensorFlow Serving, through the command and the client."""

import datetime
import functools
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import trustme

from serving import client, files, local, model_info, pictures, versions
from tests import corpus
from tests.e2e.conftest import Finished, Project, finetune
from tests.serving import stand_in
from tests.serving.stand_in import Code, RefusalError

Endpoints = dict[str, str]


@pytest.fixture(scope="session")
def published(project: Project, first: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a server watches, with one version that a run published, and a second one of the same model."""
    assert first.code == 0, first.err
    folder = tmp_path_factory.mktemp("published") / "serving"
    shutil.copytree(project.serving, folder)
    config = folder / versions.CONFIG_FILE
    config.write_text(config.read_text().replace(str(project.serving), str(folder)))
    return folder


@pytest.fixture
def server(published: Path) -> Iterator[stand_in.StandIn]:
    """A server that follows `models.config`."""
    started = stand_in.StandIn(published / versions.CONFIG_FILE)
    yield started
    started.close()


@pytest.fixture
def endpoints(server: stand_in.StandIn) -> Iterator[Endpoints]:
    """Where it listens, by protocol."""
    with stand_in.by_grpc(server) as address, stand_in.by_rest(server) as url:
        yield {"gRPC": f"grpc://{address}/{server.name}", "REST": f"{url}/{server.name}"}


def picture(seed: int = 0) -> bytes:
    return corpus.save(corpus.picture(seed), "PNG")


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def live_of(published: Path) -> int:
    live = versions.Versions(str(published)).live
    assert live is not None
    return live


def test_local_grpc_and_rest_give_the_same_answers_for_every_valid_file(
    published: Path, endpoints: Endpoints, tmp_path: Path
) -> None:
    files = []
    for number, (kind, (make, *_)) in enumerate(corpus.VALID.items()):
        files.append(tmp_path / f"{kind}.bin")
        files[-1].write_bytes(make(number))
    files.append(tmp_path / "no picture.png")
    files[-1].write_bytes(b"no picture")
    found = {}
    for way, arguments in {
        "local": ["--model", str(published)],
        "gRPC": ["--endpoint", endpoints["gRPC"], "--batch-size", "4", "--concurrency", "3"],
        "REST": ["--endpoint", endpoints["REST"], "--batch-size", "1"],
    }.items():
        answer = finetune("predict", *arguments, "--top", "5", *map(str, files))
        assert answer.code == 1, answer.err
        found[way] = [json.loads(line) for line in answer.out.splitlines()]
        assert [line["file"] for line in found[way]] == [str(file) for file in files]
        assert "not a picture" in found[way][-1]["error"]
        assert not any("error" in line for line in found[way][:-1])
    for way in ("gRPC", "REST"):
        for one, other in zip(found["local"][:-1], found[way][:-1], strict=True):
            assert one["label"] == other["label"]
            assert other["score"] == pytest.approx(one["score"], abs=1e-5)
            for ours, theirs in zip(one["top"], other["top"], strict=True):
                assert theirs["score"] == pytest.approx(ours["score"], abs=1e-5)


@pytest.mark.parametrize("way", ["gRPC", "REST"])
def test_a_server_is_asked_for_its_state_its_signatures_and_one_version(
    way: str, published: Path, endpoints: Endpoints
) -> None:
    live = live_of(published)
    asked = client.connect(endpoints[way])
    assert asked.status() == {live: "AVAILABLE"}
    assert asked.signature_names() == {"serving_default", "examples", "__saved_model_init_op"}
    expected = local.LocalModel(published).ask([picture()])
    one_version = client.connect(f"{endpoints[way]}/versions/{live}")
    for answer in (asked.ask([picture()]), one_version.ask([picture()])):
        assert answer.labels == expected.labels
        np.testing.assert_allclose(answer.probabilities, expected.probabilities, atol=1e-5)
    assert one_version.status() == {live: "AVAILABLE"}


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("gRPC", "NOT_FOUND: Servable not found for request: Latest(other)"),
        ("REST", "HTTP 404: Servable not found for request: Latest(other)"),
    ],
)
def test_an_unknown_model_ends_the_command_with_what_the_server_said(
    way: str, said: str, endpoints: Endpoints, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(picture())
    answer = finetune("predict", "--endpoint", endpoints[way].replace("/small", "/other"), str(tmp_path / "a.png"))
    assert answer.code == 1
    assert answer.out == ""
    assert said in answer.err
    assert len(answer.err.splitlines()) == 1


@pytest.mark.parametrize("way", ["gRPC", "REST"])
def test_only_unavailable_is_tried_again(way: str, server: stand_in.StandIn, endpoints: Endpoints) -> None:
    asked = client.connect(endpoints[way])
    server.refusals.extend([RefusalError(Code.UNAVAILABLE, "starting")] * 3)
    assert asked.ask([picture()]).probabilities.shape == (1, 5)
    assert len(server.received) == 4
    server.refusals.extend([RefusalError(Code.UNAVAILABLE, "gone for good")] * 20)
    with pytest.raises(client.ServingError, match=r"gone for good|503") as error:
        asked.ask([picture()])
    assert error.value.fatal
    assert len(server.received) == 9, "five attempts"
    server.refusals.clear()
    for code, fatal in ((Code.INVALID_ARGUMENT, False), (Code.NOT_FOUND, True), (Code.UNAUTHENTICATED, True)):
        before = len(server.received)
        server.refusals.append(RefusalError(code, f"it is {code.name}"))
        with pytest.raises(client.ServingError, match=f"it is {code.name}") as error:
            asked.ask([picture()])
        assert error.value.fatal == fatal
        assert len(server.received) == before + 1
        assert asked.ask([picture()]).labels, "the next request is answered"


@pytest.mark.parametrize("way", ["gRPC", "REST"])
def test_what_the_server_refuses_in_one_batch_spoils_no_other(
    way: str, server: stand_in.StandIn, endpoints: Endpoints, tmp_path: Path
) -> None:
    files = [tmp_path / f"{number}.png" for number in range(4)]
    for number, file in enumerate(files):
        file.write_bytes(picture(number))
    server.refusals.append(RefusalError(Code.INVALID_ARGUMENT, "not of my liking"))
    asked = client.connect(endpoints[way])
    found = list(pictures.answers(asked, map(str, files), {}, top=1, batch_size=2, concurrency=1))
    assert ["error" in record for record in found] == [True, True, False, False]
    assert "not of my liking" in found[0]["error"]


@pytest.mark.parametrize(("way", "said"), [("gRPC", "INVALID_ARGUMENT"), ("REST", "HTTP 400")])
def test_bytes_that_are_no_picture_are_an_invalid_argument(way: str, said: str, endpoints: Endpoints) -> None:
    with pytest.raises(client.ServingError, match=said) as error:
        client.connect(endpoints[way]).ask([b"no picture"])
    assert not error.value.fatal


@pytest.mark.parametrize(("way", "said"), [("gRPC", "DEADLINE_EXCEEDED"), ("REST", r"no answer within 0\.3 s")])
def test_a_deadline_ends_a_request_that_takes_too_long(
    way: str, said: str, server: stand_in.StandIn, endpoints: Endpoints
) -> None:
    asked = client.connect(endpoints[way], client.Options(timeout=0.3))
    server.seconds = 2.0
    with pytest.raises(client.ServingError, match=said) as error:
        asked.ask([picture()])
    assert not error.value.fatal
    server.seconds = 0.0
    time.sleep(0.5)
    assert client.connect(endpoints[way]).ask([picture()]).labels


@pytest.mark.parametrize("way", ["gRPC", "REST"])
def test_without_a_server_the_error_names_where_it_should_be(way: str) -> None:
    endpoint = {"gRPC": "grpc://localhost:1/m", "REST": "http://localhost:1/v1/models/m"}[way]
    with pytest.raises(client.ServingError, match="localhost") as error:
        client.connect(endpoint, client.Options(timeout=5)).ask([picture()])
    assert error.value.fatal


def test_a_message_too_large_is_refused_by_either_side_and_only_that_one(server: stand_in.StandIn) -> None:
    with stand_in.by_grpc(server, max_bytes=20_000) as address:
        asked = client.connect(f"grpc://{address}/{server.name}")
        with pytest.raises(client.ServingError, match=r"RESOURCE_EXHAUSTED.*larger than max") as error:
            asked.ask([bytes(50_000)])
        assert not error.value.fatal
        assert asked.ask([picture()]).labels
        narrow = client.connect(f"grpc://{address}/{server.name}", client.Options(max_message_bytes=100))
        with pytest.raises(client.ServingError, match="RESOURCE_EXHAUSTED"):
            narrow.ask([picture()])


def test_pictures_of_many_megabytes_pass(endpoints: Endpoints) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2000, 2000, 3), dtype=np.uint8)
    large = corpus.save(corpus.PIL.Image.fromarray(noise), "PNG")
    assert len(large) > 10 * 2**20
    for endpoint in endpoints.values():
        assert client.connect(endpoint).ask([large]).probabilities.shape == (1, 5)


@pytest.mark.parametrize(("way", "said"), [("gRPC", "NOT_FOUND"), ("REST", "HTTP 404")])
def test_a_version_that_is_being_unloaded_is_not_found(
    way: str, said: str, published: Path, server: stand_in.StandIn, endpoints: Endpoints
) -> None:
    live = live_of(published)
    server.close()
    server.unload(live)
    asked = client.connect(f"{endpoints[way]}/versions/{live}")
    assert asked.status() == {live: "END"}
    with pytest.raises(client.ServingError, match=said) as error:
        asked.ask([picture()])
    assert error.value.fatal


@pytest.mark.parametrize("way", ["gRPC", "REST"])
def test_metadata_goes_along(way: str, server: stand_in.StandIn, endpoints: Endpoints) -> None:
    client.connect(endpoints[way], client.Options(metadata={"authorization": "Bearer token"})).ask([picture()])
    assert server.received[-1]["authorization"] == "Bearer token"


def test_with_tls_the_server_must_be_vouched_for(server: stand_in.StandIn, tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    key, chain = issued.private_key_pem.bytes(), b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with stand_in.by_grpc(server, grpc.ssl_server_credentials([(key, chain)])) as address:
        endpoint = f"grpcs://{address}/{server.name}"
        trusting = client.Options(certificates=tmp_path / "ca.pem")
        assert client.connect(endpoint, trusting).ask([picture()]).labels
        with pytest.raises(client.ServingError, match="UNAVAILABLE"):
            client.connect(endpoint).ask([picture()])


@pytest.mark.parametrize(
    "endpoint", ["localhost:8500/m", "grpc://localhost:8500", "http://localhost:8501/models/m", "grpc:///m", "ftp://x/m"]
)
def test_what_is_no_endpoint_is_refused_with_what_one_is(endpoint: str) -> None:
    with pytest.raises(ValueError, match="expected grpc://HOST:8500/NAME or http"):
        client.connect(endpoint)


def test_serve_check_finds_what_was_published_and_says_when_it_is_something_else(
    published: Path, endpoints: Endpoints, tmp_path: Path
) -> None:
    check = functools.partial(finetune, "serve-check")
    for endpoint in endpoints.values():
        good = check("--endpoint", endpoint, "--model", str(published))
        assert good.code == 0, good.out + good.err
        assert len(good.out.splitlines()) == 6
    other = tmp_path / "other"
    shutil.copytree(published, other)
    store = versions.Versions(str(other))
    live = live_of(published)
    # What is said to be published answers otherwise, and has another number.
    info = model_info.read(store.path(live))
    assert info is not None
    changed = info.model_copy(update={"version": live + 1, "warmup": [[*row[1:], row[0]] for row in info.warmup]})
    (other / str(live) / model_info.FILE).write_text(changed.model_dump_json())
    bad = check("--endpoint", endpoints["gRPC"], "--model", str(other / str(live)))
    assert bad.code == 1
    assert f"FAIL  version {live + 1} is available: {live} AVAILABLE" in bad.out
    assert bad.out.count("FAIL") == 5
    assert "probabilities differ by" in bad.out


def test_models_are_listed_verified_rolled_back_and_pruned_while_a_server_follows(published: Path, tmp_path: Path) -> None:
    folder = tmp_path / "serving"
    shutil.copytree(published, folder)
    store = versions.Versions(str(folder))
    old = live_of(published)

    exported = tmp_path / "exported"
    shutil.copytree(store.path(old), exported)
    info = model_info.read(store.path(old))
    assert info is not None
    (exported / model_info.FILE).unlink()
    (exported / "assets.extra" / "note").write_text("another model")

    def number_it(version: str, number: int) -> None:
        own = info.model_copy(
            update={"version": number, "model_digest": model_info.digest(version), "files": files.digests(version)}
        )
        Path(version, model_info.FILE).write_text(own.model_dump_json())

    new = store.publish(str(exported), number_it, "small")
    server = stand_in.StandIn(folder / versions.CONFIG_FILE)
    models = functools.partial(finetune, "models")
    try:
        listed = models("list", "--serving-dir", str(folder)).out.splitlines()
        assert [line.split()[0] for line in listed] == ["version", *map(str, store.numbers())]
        assert listed[-1].split()[0] == str(new)
        assert listed[-1].endswith(" live")
        published_at = datetime.datetime.fromisoformat(listed[-1].split()[1])
        assert published_at.tzinfo == datetime.UTC
        assert server.states == {new: stand_in.State.AVAILABLE}

        back = models("rollback", "--serving-dir", str(folder))
        assert back.code == 0, back.err
        assert back.out == f"{old} is live\n"
        until(lambda: server.states.get(old) == stand_in.State.AVAILABLE and server.states[new] == stand_in.State.END)
        assert models("list", "--serving-dir", str(folder)).out.splitlines()[-1].endswith(" withdrawn")

        young = models("prune", "--keep", "1", "--grace", "86400", "--serving-dir", str(folder))
        assert (young.code, young.out) == (0, "")
        pruned = models("prune", "--keep", "1", "--grace", "0", "--serving-dir", str(folder))
        assert pruned.code == 0
        assert f"{new} is deleted" in pruned.out
        assert store.numbers() == [old]
        assert server.states[old] == stand_in.State.AVAILABLE
        assert not server.failures

        assert models("verify", str(old), "--serving-dir", str(folder)).code == 0
        (folder / str(old) / "assets.extra" / "preparation.json").write_text("{}  ")
        damaged = models("verify", str(old), "--serving-dir", str(folder))
        assert damaged.code == 1
        assert "preparation.json was changed" in damaged.out
        missing = models("verify", "7", "--serving-dir", str(folder))
        assert missing.code == 2
        assert f"no version 7; there are [{old}]" in missing.err
    finally:
        server.close()
