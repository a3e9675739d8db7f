"""Where things lie in the cluster, and how nodes reach ML Metadata."""

from __future__ import annotations

import os
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from ml_metadata.proto import metadata_store_pb2

from configs import schema
from pipeline.outcome import Connection

METADATA_VARIABLE = "FINETUNE_METADATA_URL"
"""Environment variable with the metadata store: `mysql://`, `postgresql://`, `sqlite:///` or `grpc://HOST:PORT`."""

_SERVICE_VARIABLES = ("METADATA_GRPC_SERVICE_SERVICE_HOST", "METADATA_GRPC_SERVICE_SERVICE_PORT")
_SERVICE = ("metadata-grpc-service.kubeflow", 8080)
_PORTS = {"mysql": 3306, "postgresql": 5432}


class Folders(NamedTuple):
    """Folders of one pipeline: artifacts, what TensorFlow Serving watches, and what outlives an interrupted training."""

    pipeline_root: str
    serving_dir: str
    work_dir: str


def folders(config: schema.Config) -> Folders:
    """Return the folders of a configuration, as the containers see them."""
    own = os.path.join(config.kubeflow.volume.path, config.name)
    root = config.kubeflow.pipeline_root or os.path.join(own, "pipeline_root")
    return Folders(root, os.path.join(own, "serving"), os.path.join(own, "work"))


def metadata_connection(url: str | None) -> Connection:
    """Return the connection of a metadata store.

    Args:
      url: `mysql://USER:PASSWORD@HOST:PORT/DATABASE`, `postgresql://…` likewise, `sqlite:///PATH`, `grpc://HOST:PORT`; None
        takes the service of the cluster, from the environment variables that Kubernetes sets for it in its own namespace,
        else where Kubeflow has it.

    Raises:
      ValueError: that is no such URL.
    """
    if url is None:
        host, service_port = (os.environ.get(name) for name in _SERVICE_VARIABLES)
        return metadata_store_pb2.MetadataStoreClientConfig(host=host or _SERVICE[0], port=int(service_port or _SERVICE[1]))
    parts = urlsplit(url)
    # What can be wrong is said without the password.
    shown = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
    database, user, password = parts.path.strip("/"), unquote(parts.username or ""), unquote(parts.password or "")
    connection = metadata_store_pb2.ConnectionConfig()
    if parts.scheme == "grpc" and parts.hostname and parts.port:
        return metadata_store_pb2.MetadataStoreClientConfig(host=parts.hostname, port=parts.port)
    if parts.scheme == "sqlite" and database:
        connection.sqlite.filename_uri = parts.path
        connection.sqlite.connection_mode = metadata_store_pb2.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
        return connection
    if parts.scheme in _PORTS and parts.hostname and database:
        port = parts.port or _PORTS[parts.scheme]
        if parts.scheme == "mysql":
            server = connection.mysql
            server.host, server.port, server.database = parts.hostname, port, database
            server.user, server.password = user, password
        else:
            other = connection.postgresql
            other.host, other.port, other.dbname = parts.hostname, str(port), database
            other.user, other.password = user, password
        return connection
    raise ValueError(
        f"{shown}: no metadata store; expected mysql://USER:PASSWORD@HOST:PORT/DATABASE, postgresql://…, sqlite:///PATH or"
        " grpc://HOST:PORT"
    )
