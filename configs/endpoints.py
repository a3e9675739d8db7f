"""The address of a model at a running TensorFlow Serving."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import unquote, urlsplit

_EXPECTED = "expected grpc://HOST:8500/NAME or http://HOST:8501/v1/models/NAME"
_REST = {"http", "https"}


class Endpoint(NamedTuple):
    """Where a model is asked."""

    scheme: str
    """`http`, `https`, `grpc` or `grpcs`."""
    host: str
    """With its port, if one was given."""
    name: str
    """Of the model."""
    version: int | None
    """That is asked; None takes what the server does."""
    login: tuple[str, str] | None
    """User and password, if they were given; by HTTP alone."""

    @property
    def is_rest(self) -> bool:
        """Whether it is spoken to by HTTP."""
        return self.scheme in _REST

    @property
    def is_secure(self) -> bool:
        """Whether TLS is spoken."""
        return self.scheme in {"https", "grpcs"}


def parse(endpoint: str) -> Endpoint:
    """Read an endpoint.

    Args:
      endpoint: `grpc://HOST:8500/NAME` or `http://HOST:8501/v1/models/NAME`, with TLS `grpcs://` or `https://`;
        `/versions/N` at its end asks one version. By HTTP `user:password@` may stand before the host, and `:predict` at the
        end.

    Raises:
      ValueError: that is no endpoint; the message does not show it.
    """
    refusal = ValueError(f"not an endpoint; {_EXPECTED}")
    try:
        parts = urlsplit(endpoint)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise refusal from None
    rest = parts.scheme in _REST
    path = parts.path.strip("/").removesuffix(":predict" if rest else "").split("/")
    names = path[2:] if rest and path[:2] == ["v1", "models"] else path if parts.scheme in {"grpc", "grpcs"} else []
    well_formed = len(names) == 1 or (len(names) == 3 and names[1] == "versions" and names[2].isdecimal())
    if not has_host or not well_formed or not names[0]:
        raise refusal
    login, at, host = parts.netloc.rpartition("@")
    if at and not rest:
        raise ValueError("gRPC knows no user:password@; give --metadata authorization=… where a command takes it")
    user, _, password = login.partition(":")
    version = int(names[2]) if len(names) == 3 else None
    return Endpoint(parts.scheme, host, names[0], version, (unquote(user), unquote(password)) if at else None)


def shown(endpoint: str) -> str:
    """Return an endpoint, well formed or not, without whatever may be a user and a password."""
    scheme, separator, _ = endpoint.rpartition("@")[0].partition("://")
    return f"{scheme}://{endpoint.rpartition('@')[2]}" if separator else endpoint.rpartition("@")[2]
