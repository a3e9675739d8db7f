"""TensorFlow Serving by gRPC."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import grpc

from modules import signatures
from serving import protocol_pb2, tensors
from serving.contract import ATTEMPTS, INPUTS, Answer, Options, ServingError, reading

_OF_ONE_BATCH = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}


class GrpcClient:
    """One model, or one of its versions.

    Args:
      host: with its port.
      name: of the model.
      version: that is asked; None takes what the server does.
      secure: whether TLS is spoken.
      options: how to speak to the server.
    """

    def __init__(self, host: str, name: str, version: int | None, secure: bool, options: Options):
        self._options, self._where = options, f"{host}, model {name}"
        self._spec = protocol_pb2.ModelSpec(
            name=name, version=None if version is None else protocol_pb2.Version(value=version)
        )
        retry = {
            "maxAttempts": ATTEMPTS,
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
            self._channel = grpc.secure_channel(host, grpc.ssl_channel_credentials(certificates), options=channel_options)
        else:
            self._channel = grpc.insecure_channel(host, options=channel_options)

    def status(self) -> dict[int, str]:
        """Return the state of each version."""
        request = protocol_pb2.GetModelStatusRequest(model_spec=self._spec)
        answer = self._call("ModelService/GetModelStatus", request, protocol_pb2.GetModelStatusResponse)
        states = protocol_pb2.ModelVersionStatus.State
        with reading(self._where):
            return {status.version: states.Name(status.state) for status in answer.model_version_status}

    def signature_names(self) -> set[str]:
        """Return the signatures of the version that answers."""
        request = protocol_pb2.GetModelMetadataRequest(model_spec=self._spec, metadata_field=["signature_def"])
        answer = self._call("PredictionService/GetModelMetadata", request, protocol_pb2.GetModelMetadataResponse)
        with reading(self._where):
            return set(protocol_pb2.Signatures.FromString(answer.metadata["signature_def"].value).signature_def)

    def ask(self, values: Sequence[bytes], signature: str = signatures.SERVING_DEFAULT) -> Answer:
        """Return the answer to a batch."""
        request = protocol_pb2.PredictRequest(model_spec=self._spec, inputs={INPUTS[signature]: tensors.of_strings(values)})
        request.model_spec.signature_name = signature
        outputs = self._call("PredictionService/Predict", request, protocol_pb2.PredictResponse).outputs
        with reading(self._where):
            names = tensors.to_array(outputs[signatures.ALL_CLASSES])[0]
            answer = Answer(tensors.to_array(outputs[signatures.PROBABILITIES]), [name.decode() for name in names])
            return answer.checked(len(values))

    def _call(self, method: str, request: Any, answer: Any) -> Any:
        call = self._channel.unary_unary(f"/tensorflow.serving.{method}", type(request).SerializeToString, answer.FromString)
        try:
            return call(request, timeout=self._options.timeout, metadata=tuple(self._options.metadata.items()))
        except grpc.RpcError as error:
            code = error.code()
            raise ServingError(f"{self._where}: {code.name}: {error.details()}", code not in _OF_ONE_BATCH) from None
