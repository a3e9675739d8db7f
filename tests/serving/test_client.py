"""What the client sends and takes, where that shows without a model behind a server."""

import contextlib
import http.server
import socket
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import numpy as np
import pytest
import requests
import tensorflow as tf
from google.protobuf import descriptor, text_format
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    predict_pb2,
)
from tensorflow_serving.config import model_server_config_pb2

from serving import client, protocol_pb2, server_config, tensors
from tests import web

OFFICIAL = {
    "PredictRequest": predict_pb2.PredictRequest,
    "PredictResponse": predict_pb2.PredictResponse,
    "GetModelStatusRequest": get_model_status_pb2.GetModelStatusRequest,
    "GetModelStatusResponse": get_model_status_pb2.GetModelStatusResponse,
    "GetModelMetadataRequest": get_model_metadata_pb2.GetModelMetadataRequest,
    "GetModelMetadataResponse": get_model_metadata_pb2.GetModelMetadataResponse,
    "Signatures": get_model_metadata_pb2.SignatureDefMap,
    "ModelServerConfig": model_server_config_pb2.ModelServerConfig,
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_our_messages_are_those_of_tensorflow_serving_on_the_wire(name: str) -> None:
    compare(getattr(protocol_pb2, name).DESCRIPTOR, OFFICIAL[name].DESCRIPTOR)


def compare(ours: Any, theirs: Any) -> None:
    for field in ours.fields:
        other = theirs.fields_by_name[field.name]
        assert field.number == other.number, field.full_name
        # An enumeration is a number on the wire.
        numbers = {descriptor.FieldDescriptor.TYPE_ENUM, descriptor.FieldDescriptor.TYPE_INT32}
        assert field.type == other.type or {field.type, other.type} == numbers, field.full_name
        assert field.is_repeated == other.is_repeated, field.full_name
        if field.message_type is not None:
            compare(field.message_type, other.message_type)
        elif field.enum_type is not None:
            assert field.enum_type.values_by_name.keys() == other.enum_type.values_by_name.keys()
            for value in field.enum_type.values:
                assert other.enum_type.values_by_name[value.name].number == value.number


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(0).random((3, 5), np.float32),
        np.full((2, 3), 0.5, np.float32),
        np.zeros((0, 4), np.float32),
        np.array([[b"a", b"\xff"], [b"", b"b"]], object),
    ],
    ids=["numbers", "one number for all", "nothing", "strings"],
)
@pytest.mark.parametrize("packed", [True, False], ids=["as bytes", "as values"])
def test_a_tensor_is_read_as_tensorflow_reads_it(values: np.ndarray, packed: bool) -> None:
    given = tf.make_tensor_proto(values)
    if given.tensor_content and not packed:
        given.float_val.extend(values.ravel())
        given.tensor_content = b""
    found = tensors.to_array(protocol_pb2.Tensor.FromString(given.SerializeToString()))
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, tf.make_ndarray(given))


def test_a_tensor_of_strings_is_what_tensorflow_makes_of_them() -> None:
    pictures = [b"\x89PNG", b"", b"\xff\xd8"]
    ours = predict_pb2.PredictRequest.FromString(
        protocol_pb2.PredictRequest(inputs={"image": tensors.of_strings(pictures)}).SerializeToString()
    )
    assert ours.inputs["image"] == tf.make_tensor_proto(pictures, shape=[3])


def test_the_servers_configuration_is_what_the_server_reads() -> None:
    given = server_config.ServerConfig('a "name"', "/a\\folder", 17)
    (read,) = text_format.Parse(given.to_text(), model_server_config_pb2.ModelServerConfig()).model_config_list.config
    assert (read.name, read.base_path, read.model_platform) == (given.name, given.base_path, "tensorflow")
    assert list(read.model_version_policy.specific.versions) == [17]
    assert server_config.parse(given.to_text()) == given
    with pytest.raises(ValueError, match="does not name one version of one model"):
        server_config.parse("model_config_list {}")


def test_the_time_that_a_call_has_bounds_it_whatever_the_server_asks_for() -> None:
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(503)
            self.send_header("Retry-After", "3600")
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    with listening(Handler) as address:
        begun = time.monotonic()
        with pytest.raises(client.ServingError, match="HTTP 503"):
            client.connect(f"http://{address}/v1/models/m", client.Options(timeout=30)).status()
    assert time.monotonic() - begun < 20, "it does not wait in vain"
    assert asked == ["/v1/models/m"]


def test_an_answer_that_comes_drop_by_drop_ends_with_the_time() -> None:
    ended = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            with contextlib.suppress(OSError):
                while not ended.wait(0.05):
                    self.wfile.write(b" ")

        def log_message(self, *arguments: Any) -> None:
            pass

    with listening(Handler) as address, pytest.raises(client.ServingError, match=r"no answer within 0\.5 s") as error:
        client.connect(f"http://{address}/v1/models/m", client.Options(timeout=0.5)).status()
    ended.set()
    assert not error.value.fatal


@contextlib.contextmanager
def listening(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("localhost", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"localhost:{server.server_address[1]}"
    finally:
        server.shutdown()


def test_user_and_password_reach_the_server_and_no_message() -> None:
    received: list[str] = []

    def answer(method: str, path: str, body: bytes, headers: Any) -> tuple[int, Any]:
        received.append(headers["Authorization"])
        return 401, {"error": "who are you?"}

    with web.serving(answer) as url:
        endpoint = url.replace("http://", "http://me:s3%2Fcr3t@") + "/v1/models/m"
        with pytest.raises(client.ServingError, match="who are you") as error:
            client.connect(endpoint).status()
    assert received == [requests.auth._basic_auth_str("me", "s3/cr3t")]
    assert "cr3t" not in str(error.value)


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://me:s3cr3t@localhost:1/v1/models/m",
        "http://me:s3cr3t@nowhere.invalid/v1/models/m",
        "grpc://me:s3cr3t@localhost:1/m",
        "me:s3cr3t@localhost:1/m",
        "ftp://me:s3cr3t@localhost/m",
        "http://me:s3/cr3t@localhost/v1/models/m",
        "http://me:s3cr3t@localhost:port/v1/models/m",
        "http://me:s3cr3t@[localhost/v1/models/m",
        "http://me:s3cr3t@localhost/models/m",
        "http://me:s3cr3t@loc\u2100alhost/v1/models/m",
    ],
)
def test_no_message_shows_a_password(endpoint: str) -> None:
    with pytest.raises((ValueError, client.ServingError)) as error:
        client.connect(endpoint, client.Options(timeout=1.0)).status()
    assert "cr3t" not in str(error.value)
    assert "me:" not in str(error.value)


@pytest.mark.parametrize("end", ["", "/", ":predict", "/versions/7", "/versions/7:predict"])
def test_an_endpoint_may_be_the_url_of_a_prediction(end: str) -> None:
    asked: list[str] = []

    def answer(method: str, path: str, body: bytes, headers: Any) -> tuple[int, Any]:
        asked.append(path)
        return 200, {"predictions": [{"probabilities": [1.0], "all_classes": ["a"]}]}

    with web.serving(answer) as url:
        assert client.connect(f"{url}/v1/models/m{end}").ask([b"picture"]).labels == ["a"]
    assert asked == [f"/v1/models/m{end.removesuffix(':predict').rstrip('/')}:predict"]


@pytest.mark.parametrize(
    "answer",
    [
        {"status": "ok"},
        {"predictions": []},
        {"predictions": [{"label": "a"}]},
        {"predictions": [{"probabilities": ["much"], "all_classes": ["a"]}]},
        {"predictions": [{"probabilities": [1.0], "all_classes": None}]},
        {"predictions": [{"probabilities": [1.0], "all_classes": ["a"]}] * 2},
        [1],
    ],
    ids=str,
)
def test_an_answer_of_another_form_is_no_answer_by_rest(answer: Any) -> None:
    with web.serving(lambda *request: (200, answer)) as url:
        asked = client.connect(f"{url}/v1/models/m")
        for call in (asked.status, asked.signature_names, lambda: asked.ask([b"picture"])):
            with pytest.raises(client.ServingError, match="not what TensorFlow Serving answers"):
                call()


def test_an_answer_of_another_form_is_no_answer_by_grpc() -> None:
    metadata = get_model_metadata_pb2.GetModelMetadataResponse()
    metadata.metadata["signature_def"].value = b"\xff"
    answers = {"Predict": predict_pb2.PredictResponse(), "GetModelMetadata": metadata}
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(lambda *request, answer=answer: answer.SerializeToString())
        for name, answer in answers.items()
    }
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", handlers)])
    port = server.add_insecure_port("localhost:0")
    server.start()
    asked = client.connect(f"grpc://localhost:{port}/m")
    for call in (asked.signature_names, lambda: asked.ask([b"picture"])):
        with pytest.raises(client.ServingError, match="not what TensorFlow Serving answers"):
            call()
    server.stop(None).wait()


def test_a_connection_that_is_refused_is_tried_again_until_the_server_is_there() -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]

    def come_up_late() -> None:
        time.sleep(0.5)
        server.server_bind()
        server.server_activate()
        server.serve_forever()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"model_version_status": [{"version": "7", "state": "AVAILABLE"}]}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = http.server.HTTPServer(("localhost", port), Handler, bind_and_activate=False)
    threading.Thread(target=come_up_late, daemon=True).start()
    assert client.connect(f"http://localhost:{port}/v1/models/m").status() == {7: "AVAILABLE"}
    server.shutdown()
    server.server_close()
