"""A stand-in for TensorFlow Serving, whose binary can't run here.

It speaks the same protocols, built on the official protos: PredictionService and ModelService by gRPC, and the REST paths.
It reads `models.config` again and again, loads the versions that it names with TensorFlow, answers with them, and refuses
as the server does. What it does not imitate is the server's batching, its scheduling, and its speed.
"""

from __future__ import annotations

import base64
import collections
import contextlib
import json
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import tensorflow as tf
from google.protobuf import json_format, text_format
from tensorflow.core.protobuf import error_codes_pb2, saved_model_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.config import model_server_config_pb2

from tests import web

State = get_model_status_pb2.ModelVersionStatus.State
Code = grpc.StatusCode
HTTP_CODES = {
    Code.NOT_FOUND: 404,
    Code.INVALID_ARGUMENT: 400,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.UNAUTHENTICATED: 401,
}


class RefusalError(Exception):
    """An error answer."""

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(message)
        self.code, self.message = code, message


class StandIn:
    """The versions that `models.config` names, loaded, and how requests fare.

    Args:
      config: path of `models.config`.
      poll_seconds: how often it is read again.

    Attributes:
      refusals: errors for the next requests of answers, one each.
      seconds: that each answer takes.
      received: metadata of each request of answers, by lower-case key.
      failures: what the server found that it could not load; a real one logs it and keeps what it has.
    """

    def __init__(self, config: Path, poll_seconds: float = 0.1):
        self._config, self._poll_seconds = config, poll_seconds
        self.refusals: collections.deque[RefusalError] = collections.deque()
        self.seconds = 0.0
        self.received: list[dict[str, str]] = []
        self.failures: list[str] = []
        self.name = ""
        self._loaded: dict[int, Any] = {}
        self._graphs: dict[int, Any] = {}
        self.states: dict[int, int] = {}
        self._ended = threading.Event()
        self.poll()
        self._poller = threading.Thread(target=self._poll_on, daemon=True)
        self._poller.start()

    def close(self) -> None:
        """Stop polling."""
        self._ended.set()
        self._poller.join()

    def poll(self) -> None:
        """Read the configuration, load what is new in it, then unload what is no longer there."""
        config = text_format.Parse(self._config.read_text(), model_server_config_pb2.ModelServerConfig())
        (model,) = config.model_config_list.config
        self.name = model.name
        wanted = set(model.model_version_policy.specific.versions)
        for version in sorted(wanted - self._loaded.keys()):
            folder = Path(model.base_path) / str(version)
            try:
                loaded = tf.saved_model.load(str(folder))
                graph = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
            except (OSError, ValueError, tf.errors.OpError) as error:
                self.failures.append(f"version {version}: {error}")
                return
            self._loaded[version], self._graphs[version] = loaded, graph.meta_graphs[0].signature_def
            self.states[version] = State.AVAILABLE
        for version in self._loaded.keys() - wanted:
            self.unload(version)

    def unload(self, version: int) -> None:
        """Unload a version; it is still named for a while."""
        self.states[version] = State.END
        del self._loaded[version], self._graphs[version]

    def _poll_on(self) -> None:
        while not self._ended.wait(self._poll_seconds):
            try:
                self.poll()
            except (OSError, text_format.ParseError, ValueError) as error:
                self.failures.append(f"models.config: {error}")

    def version_of(self, spec: Any) -> int:
        """The version that a request is about."""
        if spec.name != self.name:
            raise RefusalError(Code.NOT_FOUND, f"Servable not found for request: Latest({spec.name})")
        if spec.HasField("version"):
            if self.states.get(spec.version.value) != State.AVAILABLE:
                number = spec.version.value
                raise RefusalError(Code.NOT_FOUND, f"Servable not found for request: Specific({spec.name}, {number})")
            return spec.version.value
        available = [version for version, state in self.states.items() if state == State.AVAILABLE]
        if not available:
            raise RefusalError(Code.NOT_FOUND, f"Servable not found for request: Latest({spec.name})")
        return max(available)

    def status(self, request: Any) -> Any:
        """Answer a GetModelStatusRequest."""
        if request.model_spec.name != self.name:
            raise RefusalError(Code.NOT_FOUND, f"Could not find any versions of model {request.model_spec.name}")
        response = get_model_status_pb2.GetModelStatusResponse()
        for version, state in sorted(self.states.items(), reverse=True):
            if not request.model_spec.HasField("version") or request.model_spec.version.value == version:
                one = response.model_version_status.add(version=version, state=state)
                one.status.error_code = error_codes_pb2.OK
        if not response.model_version_status:
            number = request.model_spec.version.value
            raise RefusalError(Code.NOT_FOUND, f"Could not find version {number} of model {self.name}")
        return response

    def metadata(self, request: Any) -> Any:
        """Answer a GetModelMetadataRequest."""
        if list(request.metadata_field) != ["signature_def"]:
            raise RefusalError(Code.INVALID_ARGUMENT, f"Metadata field {list(request.metadata_field)} is not supported")
        version = self.version_of(request.model_spec)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name, response.model_spec.version.value = self.name, version
        found = get_model_metadata_pb2.SignatureDefMap()
        for name, signature in self._graphs[version].items():
            found.signature_def[name].CopyFrom(signature)
        response.metadata["signature_def"].Pack(found)
        return response

    def predict(self, request: Any, received: dict[str, str]) -> Any:
        """Answer a PredictRequest."""
        self.received.append(received)
        if self.refusals:
            raise self.refusals.popleft()
        time.sleep(self.seconds)
        version = self.version_of(request.model_spec)
        loaded, name = self._loaded[version], request.model_spec.signature_name or "serving_default"
        if name not in loaded.signatures:
            raise RefusalError(Code.INVALID_ARGUMENT, f'Serving signature name: "{name}" not found in signature def')
        expected = set(self._graphs[version][name].inputs)
        if set(request.inputs) != expected:
            sent = ", ".join(sorted(request.inputs))
            raise RefusalError(
                Code.INVALID_ARGUMENT, f"input tensor alias not found in signature: {sent}; expected {expected}"
            )
        inputs = {key: tf.constant(tf.make_ndarray(value)) for key, value in request.inputs.items()}
        try:
            answer = loaded.signatures[name](**inputs)
        except (tf.errors.OpError, ValueError, TypeError) as error:
            raise RefusalError(Code.INVALID_ARGUMENT, str(error)) from None
        response = predict_pb2.PredictResponse()
        response.model_spec.name, response.model_spec.signature_name = self.name, name
        response.model_spec.version.value = version
        for key, value in answer.items():
            response.outputs[key].CopyFrom(tf.make_tensor_proto(value))
        return response


class _Grpc(prediction_service_pb2_grpc.PredictionServiceServicer, model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, server: StandIn):
        self._server = server

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        received = {key: str(value) for key, value in context.invocation_metadata()}
        return self._answered(context, lambda: self._server.predict(request, received))

    def GetModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._answered(context, lambda: self._server.metadata(request))

    def GetModelStatus(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._answered(context, lambda: self._server.status(request))

    def _answered(self, context: grpc.ServicerContext, answer: Any) -> Any:
        try:
            return answer()
        except RefusalError as refusal:
            context.abort(refusal.code, refusal.message)


@contextlib.contextmanager
def by_grpc(server: StandIn, credentials: grpc.ServerCredentials | None = None, max_bytes: int = -1) -> Iterator[str]:
    """Serve by gRPC; yields `localhost:PORT`.

    Args:
      server: what answers.
      credentials: for TLS.
      max_bytes: of a message; -1 is no limit.
    """
    serving = grpc.server(
        futures.ThreadPoolExecutor(8),
        options=[("grpc.max_receive_message_length", max_bytes), ("grpc.max_send_message_length", -1)],
    )
    servicer = _Grpc(server)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(servicer, serving)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(servicer, serving)
    address = "localhost:0"
    port = serving.add_secure_port(address, credentials) if credentials else serving.add_insecure_port(address)
    serving.start()
    try:
        yield f"localhost:{port}"
    finally:
        serving.stop(None).wait()


def _rest_answer(server: StandIn, path: Sequence[str], body: bytes | None, received: dict[str, str]) -> Any:
    """Answer a request to /v1/models/`path`, as a JSON value."""
    name, _, action = path[-1].partition(":")
    names = [*path[:-1], name]
    request: Any
    if names[-1] == "metadata" and body is None:
        names = names[:-1]
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        answer = server.metadata
    elif action == "predict" and body is not None:
        return _rest_predict(server, names, body, received)
    elif not action and body is None:
        request, answer = get_model_status_pb2.GetModelStatusRequest(), server.status
    else:
        raise RefusalError(Code.INVALID_ARGUMENT, "Malformed request")
    _fill_spec(request.model_spec, names)
    return json_format.MessageToDict(
        answer(request), preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _fill_spec(spec: Any, names: Sequence[str]) -> None:
    spec.name = names[0]
    if names[1:2] == ["versions"]:
        spec.version.value = int(names[2])


def _rest_predict(server: StandIn, names: Sequence[str], body: bytes, received: dict[str, str]) -> Any:
    try:
        content = json.loads(body)
        rows = [{key: base64.b64decode(value["b64"]) for key, value in row.items()} for row in content["instances"]]
    except (ValueError, KeyError, TypeError) as error:
        raise RefusalError(Code.INVALID_ARGUMENT, f"JSON Parse error: {error}") from None
    request = predict_pb2.PredictRequest()
    _fill_spec(request.model_spec, names)
    request.model_spec.signature_name = content.get("signature_name", "")
    for key in rows[0]:
        request.inputs[key].CopyFrom(tf.make_tensor_proto([row[key] for row in rows], shape=[len(rows)]))
    answer = server.predict(request, received)
    outputs = {key: tf.make_ndarray(value).tolist() for key, value in answer.outputs.items()}

    def shown(value: Any) -> Any:
        if isinstance(value, bytes):
            return value.decode()
        return [shown(item) for item in value] if isinstance(value, list) else value

    return {"predictions": [{key: shown(value[row]) for key, value in outputs.items()} for row in range(len(rows))]}


@contextlib.contextmanager
def by_rest(server: StandIn) -> Iterator[str]:
    """Serve by REST; yields `http://localhost:PORT/v1/models`."""

    def answer(method: str, path: str, body: bytes, headers: Any) -> tuple[int, Any]:
        parts = path.strip("/").split("/")
        try:
            if parts[:2] != ["v1", "models"]:
                raise RefusalError(Code.NOT_FOUND, f"Malformed request: {path}")
            received = {key.lower(): value for key, value in headers.items()}
            return 200, _rest_answer(server, parts[2:], body if method == "POST" else None, received)
        except RefusalError as refusal:
            return HTTP_CODES[refusal.code], {"error": refusal.message}

    with web.serving(answer) as url:
        yield f"{url}/v1/models"
