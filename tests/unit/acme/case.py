"""A certificate order against a real directory: pebble, and a server that answers its http-01 requests from the state."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from relayd.acme.spec import CertificateSpec
from relayd.acme.state import State
from relayd.config.acme import Acme
from tests.aids.pebble import Pebble


@contextmanager
def answering(pebble: Pebble, state: State) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *arguments: Any) -> None:
            """Silent."""

        def do_GET(self) -> None:
            found = state.http_response(self.path.encode())
            self.send_response(404 if found is None else 200)
            self.end_headers()
            self.wfile.write(found or b"")

    server = ThreadingHTTPServer(("127.0.0.1", pebble.http_port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def section(pebble: Pebble, *domains: str, **further: Any) -> Acme:
    made = {"domains": domains, "email": "ops@example.org", "directory": (pebble.directory,), "directory_ca": str(pebble.ca)}
    return Acme(**(made | further))


def spec(pebble: Pebble, name: str, *kinds: str, **further: Any) -> CertificateSpec:
    return CertificateSpec(name, section(pebble, name, **further), kinds or ("http-01",))
