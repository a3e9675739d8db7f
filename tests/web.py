"""JSON over HTTP on a free port, for what stands in for a server."""

import contextlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from email.message import Message
from typing import Any

Answer = Callable[[str, str, bytes, Message], tuple[int, Any]]
"""From method, path with query, body and headers to a status and a value; ConnectionAbortedError gives no answer at all."""


@contextlib.contextmanager
def serving(answer: Answer) -> Iterator[str]:
    """Serve until the context ends; yields `http://localhost:PORT`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                status, found = answer(self.command, self.path, body, self.headers)
            except ConnectionAbortedError:
                self.close_connection = True
                return
            content = json.dumps(found).encode()
            # Who asked may have gone.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        do_GET = do_POST = do_PATCH = do_DELETE = _handle  # noqa: N815

        def log_message(self, *arguments: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("localhost", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://localhost:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
