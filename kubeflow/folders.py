"""Where things lie in the cluster, and how nodes reach ML Metadata."""

from __future__ import annotations

import os
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from ml_metadata.proto import metadata_store_pb2

from configs import schema
from pipeline import place
from pipeline.journal import Connection

METADATA_VARIABLE = "FINETUNE_METADATA_URL"
"""Environment variable with the URL of the metadata store."""
METADATA_CA_VARIABLE = "FINETUNE_METADATA_CA"
"""Environment variable with a PEM file of the authorities that vouch for a `grpcs://` store, if not the well-known ones."""
METADATA_URLS = "mysql://USER:PASSWORD@HOST:PORT/DATABASE, postgresql://… likewise, sqlite:///PATH, grpc://HOST:PORT or grpcs://HOST:PORT"

SERVICE = ("metadata-grpc-service.kubeflow", 8080)
"""Host and port of ML Metadata where Kubeflow Pipelines is installed as it comes."""
_SERVICE_VARIABLES = (
    # What Kubeflow's own components are told, then what Kubernetes tells of the service in the pod's namespace.
    ("METADATA_GRPC_SERVICE_HOST", "METADATA_GRPC_SERVICE_PORT"),
    ("METADATA_GRPC_SERVICE_SERVICE_HOST", "METADATA_GRPC_SERVICE_SERVICE_PORT"),
)
_PORTS = {"mysql": 3306, "postgresql": 5432}
_SCHEMES = {"grpc", "grpcs", "sqlite", *_PORTS}
_LONGEST_ANSWER = 2**29
"""Bytes."""
_CALL_SECONDS = 120.0
"""After which a call to a service that does not answer has failed."""


class Folders(NamedTuple):
    """Folders of one pipeline: artifacts, what TensorFlow Serving watches, and what outlives an interrupted training."""

    pipeline_root: str
    serving_dir: str
    work_dir: str


def folders(config: schema.Config) -> Folders:
    """Return the folders of a configuration, as processes see them that work in the volume's folder (`place.inside`)."""
    volume = config.kubeflow.volume.path
    root = config.kubeflow.pipeline_root or place.pipeline_root(config, volume, config.name)
    return Folders(root, os.path.join(volume, config.name, "serving"), os.path.join(config.name, place.WORK))


def cache_dir(config: schema.Config) -> str:
    """Return the folder for pretrained weights, on the volume, for all pipelines that share it.

    Args:
      config: of a pipeline.
    """
    return os.path.join(config.kubeflow.volume.path, ".cache")


class MetadataAddress(NamedTuple):
    """A metadata store's URL in its parts."""

    scheme: str
    host: str
    port: int | None
    path: str
    user: str = ""
    password: str = ""


def metadata_address(url: str | None) -> MetadataAddress:
    """Return the parts of a metadata store's URL.

    Args:
      url: as `METADATA_URLS` says; the password may hold any character, `%` only as `%25`. None takes the service of the
        cluster: from the environment, else where Kubeflow has it.

    Raises:
      ValueError: that is no such URL; the message shows nothing of it but its scheme.
    """
    if url is None:
        for names in _SERVICE_VARIABLES:
            given, given_port = (os.environ.get(name) for name in names)
            # Kubernetes sets tcp://IP:PORT under the second name where a service is called metadata-grpc.
            if given and (not given_port or given_port.isdigit()):
                return MetadataAddress("grpc", given, int(given_port or SERVICE[1]), "")
        return MetadataAddress("grpc", *SERVICE, "")
    scheme, _, rest = url.strip().partition("://")
    shown = f"{scheme}://" if scheme in _SCHEMES else "this"
    refusal = ValueError(f"{shown} is no metadata store's URL; expected {METADATA_URLS}")
    if scheme == "sqlite" and rest.startswith("/") and rest.strip("/"):
        return MetadataAddress(scheme, "", None, rest)
    # The last @ ends the password, whatever is in that.
    login, _, place = rest.rpartition("@")
    user, _, password = login.partition(":")
    try:
        parts = urlsplit(f"//{place}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise refusal from None
    on_grpc = scheme in {"grpc", "grpcs"}
    complete = (port and not login) if on_grpc else (scheme in _PORTS and parts.path.strip("/"))
    if not host or not complete or parts.query or parts.fragment:
        raise refusal
    return MetadataAddress(scheme, host, port or _PORTS[scheme], parts.path, unquote(user), unquote(password))


def metadata_connection(url: str | None) -> Connection:
    """Return the connection of a metadata store.

    Args:
      url: as for `metadata_address`.

    Raises:
      ValueError: that is no such URL, or the file in METADATA_CA_VARIABLE can't be read.
    """
    return connection_to(metadata_address(url))


def connection_to(address: MetadataAddress) -> Connection:
    """Return the connection of a metadata store.

    Args:
      address: of it.

    Raises:
      ValueError: the file in METADATA_CA_VARIABLE can't be read.
    """
    if address.scheme in {"grpc", "grpcs"}:
        host = f"[{address.host}]" if ":" in address.host else address.host
        client = metadata_store_pb2.MetadataStoreClientConfig(host=host, port=address.port, client_timeout_sec=_CALL_SECONDS)
        # All runs of years in one answer; gRPC itself takes 4 MiB.
        client.channel_arguments.max_receive_message_length = _LONGEST_ANSWER
        if address.scheme == "grpcs":
            client.ssl_config.SetInParent()
            if path := os.environ.get(METADATA_CA_VARIABLE):
                client.ssl_config.custom_ca = _read(path)
        return client
    connection = metadata_store_pb2.ConnectionConfig()
    if address.scheme == "sqlite":
        connection.sqlite.filename_uri = address.path
        connection.sqlite.connection_mode = metadata_store_pb2.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
    elif address.scheme == "mysql":
        server = connection.mysql
        server.host, server.port, server.database = address.host, address.port, address.path.strip("/")
        server.user, server.password = address.user, address.password
    else:
        other = connection.postgresql
        other.host, other.port, other.dbname = address.host, str(address.port), address.path.strip("/")
        other.user, other.password = address.user, address.password
    return connection


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as opened:
            return opened.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{METADATA_CA_VARIABLE} = {path}: {getattr(error, 'strerror', None) or error}") from None
