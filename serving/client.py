"""The client of a running TensorFlow Serving, by gRPC or REST."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit, urlunsplit

from serving.contract import AVAILABLE, INPUTS, Answer, Client, Options, ServingError

__all__ = ["AVAILABLE", "INPUTS", "Answer", "Client", "Options", "ServingError", "connect", "shown"]

_EXPECTED = "expected grpc://HOST:8500/NAME or http://HOST:8501/v1/models/NAME"


def connect(endpoint: str, options: Options = Options()) -> Client:  # noqa: B008 immutable
    """Return a client.

    Args:
      endpoint: `grpc://HOST:8500/NAME` or `http://HOST:8501/v1/models/NAME`, with TLS `grpcs://` or `https://`;
        `/versions/N` at its end asks one version. By HTTP `user:password@` may stand before the host, and `:predict` at the
        end.
      options: how to speak to the server.

    Raises:
      ValueError: that is no endpoint; the message shows no password.
    """
    refusal = ValueError(f"{shown(endpoint)}: not an endpoint; {_EXPECTED}")
    try:
        parts = urlsplit(endpoint)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise refusal from None
    rest = parts.scheme in {"http", "https"}
    path = parts.path.strip("/").removesuffix(":predict" if rest else "").split("/")
    names = path[2:] if rest and path[:2] == ["v1", "models"] else path if parts.scheme in {"grpc", "grpcs"} else []
    well_formed = len(names) == 1 or (len(names) == 3 and names[1] == "versions" and names[2].isdigit())
    if not has_host or not names or not names[0] or not well_formed:
        raise refusal
    if not rest and "@" in parts.netloc:
        raise ValueError(f"{shown(endpoint)}: gRPC knows no user:password@; give --metadata authorization=…")
    # What either needs is imported for it alone.
    if rest:
        from serving import by_rest

        login = (unquote(parts.username or ""), unquote(parts.password or "")) if "@" in parts.netloc else None
        address = parts.netloc.rpartition("@")[2]
        return by_rest.RestClient(urlunsplit((parts.scheme, address, "/".join(["", *path]), "", "")), login, options)
    from serving import by_grpc

    version = int(names[2]) if len(names) == 3 else None
    return by_grpc.GrpcClient(parts.netloc, names[0], version, parts.scheme == "grpcs", options)


def shown(endpoint: str) -> str:
    """Return an endpoint, well formed or not, without whatever may be a user and a password."""
    scheme, separator, _ = endpoint.rpartition("@")[0].partition("://")
    return f"{scheme}://{endpoint.rpartition('@')[2]}" if separator else endpoint.rpartition("@")[2]
