"""The client of a running TensorFlow Serving, by gRPC or REST."""

from __future__ import annotations

from configs import endpoints
from configs.endpoints import shown
from serving.contract import AVAILABLE, INPUTS, Answer, Client, Options, ServingError

__all__ = ["AVAILABLE", "INPUTS", "Answer", "Client", "Options", "ServingError", "connect", "shown"]


def connect(endpoint: str, options: Options = Options()) -> Client:  # noqa: B008 immutable
    """Return a client.

    Args:
      endpoint: as `configs.endpoints.parse` reads it.
      options: how to speak to the server.

    Raises:
      ValueError: that is no endpoint; the message shows no password.
    """
    try:
        found = endpoints.parse(endpoint)
    except ValueError as error:
        raise ValueError(f"{shown(endpoint)}: {error}") from None
    # What either needs is imported for it alone.
    if found.is_rest:
        from serving import by_rest

        version = "" if found.version is None else f"/versions/{found.version}"
        url = f"{found.scheme}://{found.host}/v1/models/{found.name}{version}"
        return by_rest.RestClient(url, found.login, options)
    from serving import by_grpc

    return by_grpc.GrpcClient(found.host, found.name, found.version, found.is_secure, options)
