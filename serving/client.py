"""The client of a running TensorFlow Serving, by gRPC or REST."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import grpc
import numpy as np
import requests
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from urllib3.util import Retry

from modules import signatures

AVAILABLE = "AVAILABLE"
"""State of a version that answers."""

_ATTEMPTS = 5
INPUTS = {signatures.SERVING_DEFAULT: "image", signatures.EXAMPLES: "examples"}
"""Name of the one input of each signature."""


class ServingError(RuntimeError):
    """An answer that is none.

    Attributes:
      fatal: whether every other request would fare the same, as when there is no server or no such model.
    """

    def __init__(self, message: str, fatal: bool):
        super().__init__(message)
        self.fatal = fatal


class Options(NamedTuple):
    """How a server is spoken to."""

    timeout: float = 30.0
    """Seconds for a request, all attempts together."""
    metadata: Mapping[str, str] = {}
    """Sent along with each request, e.g. `authorization`."""
    certificates: Path | None = None
    """PEM file with the authorities that may vouch for the server; None takes the system's."""
    max_message_bytes: int = 256 * 2**20
    """Of a request and of an answer by gRPC."""


class Answer(NamedTuple):
    """What a model says of a batch."""

    probabilities: np.ndarray
    """float32 `[batch, n]`."""
    labels: list[str]
    """`n`, in the order of the probabilities."""

    def ranked(self) -> list[dict[str, float]]:
        """Return for each picture its labels with their probabilities, most probable first."""
        return [
            {self.labels[index]: float(row[index]) for index in np.argsort(-row, kind="stable")}
            for row in self.probabilities
        ]


class Client(Protocol):
    """One model at a server."""

    def status(self) -> dict[int, str]:
        """Return the state of each version, e.g. `AVAILABLE`."""

    def signature_names(self) -> set[str]:
        """Return the signatures of the version that answers."""

    def ask(self, values: Sequence[bytes], signature: str = signatures.SERVING_DEFAULT) -> Answer:
        """Return the answer to a batch.

        Args:
          values: encoded pictures, or serialised tf.Examples for the signature `examples`.
          signature: of the model.

        Raises:
          ServingError: the server can't be reached, or refuses.
        """


def connect(endpoint: str, options: Options = Options()) -> Client:  # noqa: B008 immutable
    """Return a client.

    Args:
      endpoint: `grpc://HOST:8500/NAME` or `http://HOST:8501/v1/models/NAME`, with TLS `grpcs://` or `https://`;
        `/versions/N` at its end asks one version.
      options: how to speak to the server.

    Raises:
      ValueError: that is no endpoint.
    """
    parts = urlsplit(endpoint)
    expected = "expected grpc://HOST:8500/NAME or http://HOST:8501/v1/models/NAME"
    path = parts.path.strip("/").split("/")
    rest = parts.scheme in {"http", "https"}
    names = path[2:] if rest and path[:2] == ["v1", "models"] else path if parts.scheme in {"grpc", "grpcs"} else []
    well_formed = len(names) == 1 or (len(names) == 3 and names[1] == "versions" and names[2].isdigit())
    if not parts.netloc or not names or not names[0] or not well_formed:
        raise ValueError(f"{endpoint}: not an endpoint; {expected}")
    if rest:
        return _RestClient(endpoint.rstrip("/"), options)
    return _GrpcClient(parts.netloc, names[0], int(names[2]) if len(names) == 3 else None, parts.scheme == "grpcs", options)


class _GrpcClient:
    def __init__(self, host: str, name: str, version: int | None, secure: bool, options: Options):
        self._name, self._version, self._options, self._where = name, version, options, f"{host}, model {name}"
        retry = {
            "maxAttempts": _ATTEMPTS,
            "initialBackoff": "0.2s",
            "maxBackoff": "5s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        channel_options = [
            ("grpc.max_send_message_length", options.max_message_bytes),
            ("grpc.max_receive_message_length", options.max_message_bytes),
            ("grpc.enable_retries", 1),
            ("grpc.service_config", json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": retry}]})),
        ]
        if secure:
            certificates = options.certificates.read_bytes() if options.certificates else None
            channel = grpc.secure_channel(host, grpc.ssl_channel_credentials(certificates), options=channel_options)
        else:
            channel = grpc.insecure_channel(host, options=channel_options)
        self._predictions = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(channel)

    def status(self) -> dict[int, str]:
        request = get_model_status_pb2.GetModelStatusRequest()
        self._name_in(request.model_spec)
        answer = self._call(self._models.GetModelStatus, request)
        states = get_model_status_pb2.ModelVersionStatus.State
        return {status.version: states.Name(status.state) for status in answer.model_version_status}

    def signature_names(self) -> set[str]:
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        self._name_in(request.model_spec)
        answer = self._call(self._predictions.GetModelMetadata, request)
        found = get_model_metadata_pb2.SignatureDefMap()
        answer.metadata["signature_def"].Unpack(found)
        return set(found.signature_def)

    def ask(self, values: Sequence[bytes], signature: str = signatures.SERVING_DEFAULT) -> Answer:
        request = predict_pb2.PredictRequest()
        self._name_in(request.model_spec)
        request.model_spec.signature_name = signature
        request.inputs[INPUTS[signature]].CopyFrom(tf.make_tensor_proto(list(values), shape=[len(values)]))
        outputs = self._call(self._predictions.Predict, request).outputs
        names = tf.make_ndarray(outputs[signatures.ALL_CLASSES])[0]
        return Answer(tf.make_ndarray(outputs[signatures.PROBABILITIES]), [name.decode() for name in names])

    def _name_in(self, spec: Any) -> None:
        spec.name = self._name
        if self._version is not None:
            spec.version.value = self._version

    def _call(self, method: Any, request: Any) -> Any:
        try:
            return method(request, timeout=self._options.timeout, metadata=tuple(self._options.metadata.items()))
        except grpc.RpcError as error:
            code = error.code()
            one_batch = {
                grpc.StatusCode.INVALID_ARGUMENT,
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                grpc.StatusCode.DEADLINE_EXCEEDED,
            }
            raise ServingError(f"{self._where}: {code.name}: {error.details()}", code not in one_batch) from None


class _RestClient:
    def __init__(self, url: str, options: Options):
        self._url, self._options = url, options
        self._session = requests.Session()
        self._session.headers.update(options.metadata)
        if options.certificates is not None:
            self._session.verify = str(options.certificates)
        # 503 is what a gateway in front of a server says where gRPC says UNAVAILABLE.
        retry = Retry(
            total=_ATTEMPTS - 1, backoff_factor=0.2, backoff_max=5, status_forcelist=[503], allowed_methods=None, read=False
        )
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=retry))

    def status(self) -> dict[int, str]:
        answer = self._call("GET", "")
        return {int(status["version"]): status["state"] for status in answer["model_version_status"]}

    def signature_names(self) -> set[str]:
        return set(self._call("GET", "/metadata")["metadata"]["signature_def"]["signature_def"])

    def ask(self, values: Sequence[bytes], signature: str = signatures.SERVING_DEFAULT) -> Answer:
        instances = [{INPUTS[signature]: {"b64": base64.b64encode(value).decode()}} for value in values]
        answer = self._call("POST", ":predict", {"signature_name": signature, "instances": instances})["predictions"]
        probabilities = np.array([row[signatures.PROBABILITIES] for row in answer], np.float32)
        return Answer(probabilities, answer[0][signatures.ALL_CLASSES])

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        try:
            answer = self._session.request(method, self._url + path, json=body, timeout=self._options.timeout)
        except requests.Timeout:
            raise ServingError(f"{self._url}: no answer within {self._options.timeout:g} s", fatal=False) from None
        except requests.RequestException as error:
            raise ServingError(f"{self._url}: {error}", fatal=True) from None
        try:
            found = answer.json()
        except requests.JSONDecodeError:
            found = {"error": answer.text[:200]}
        if not answer.ok:
            message = found.get("error", answer.reason)
            raise ServingError(f"{self._url}: HTTP {answer.status_code}: {message}", answer.status_code not in {400, 413})
        return found
