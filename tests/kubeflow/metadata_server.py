"""A stand-in for ML Metadata's server: its gRPC service on the store that ml-metadata has within, in memory."""

import contextlib
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
from ml_metadata.metadata_store.pywrap.metadata_store_extension import metadata_store as within
from ml_metadata.proto import metadata_store_pb2, metadata_store_service_pb2

_SERVICE = metadata_store_service_pb2.DESCRIPTOR.services_by_name["MetadataStoreService"]
_CALLS = [method.name for method in _SERVICE.methods if hasattr(within, method.name)]
"""All that the store within knows; the others, which look up by filters and lineage, are UNIMPLEMENTED."""
_STATUS = {status.value[0]: status for status in grpc.StatusCode}


@contextlib.contextmanager
def serving(credentials: grpc.ServerCredentials | None = None) -> Iterator[str]:
    """Serve an empty store until the context ends; yields `localhost:PORT`.

    Args:
      credentials: for TLS.
    """
    empty = metadata_store_pb2.ConnectionConfig(fake_database=metadata_store_pb2.FakeDatabaseConfig())
    store = within.CreateMetadataStore(empty.SerializeToString(), b"")
    # One call at a time, as the store takes them.
    server = grpc.server(futures.ThreadPoolExecutor(1))
    handlers = {name: grpc.unary_unary_rpc_method_handler(_handler(store, name)) for name in _CALLS}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(_SERVICE.full_name, handlers)])
    anywhere = "localhost:0"
    port = server.add_secure_port(anywhere, credentials) if credentials else server.add_insecure_port(anywhere)
    server.start()
    try:
        yield f"localhost:{port}"
    finally:
        server.stop(None).wait()


def _handler(store: Any, name: str) -> Any:
    """Both sides speak in serialised messages, which pass through."""

    def handle(request: bytes, context: grpc.ServicerContext) -> bytes:
        answer, message, code = getattr(within, name)(store, request)
        if code:
            context.abort(_STATUS[code], message.decode())
        return answer

    return handle
