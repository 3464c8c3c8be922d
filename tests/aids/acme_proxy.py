"""A proxy in front of a pebble that a test lets fail: limits of rate, silence, and renewal information (RFC 9773)."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import ssl
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from tests.aids.pebble import Pebble

RENEWAL_INFO = "/renewal-info"


def base64url(text: str) -> bytes:
    """The bytes of text in the base64 of JOSE."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class AcmeProxy:
    """Forwards requests to the directory of a pebble. `limited` and `silent` are beginnings of paths: those of `limited` are answered with
    429 and this Retry-After, those of `silent` never, those of `huge` with 2 MiB; in those of `dripping` each byte of head and body comes after
    a pause, those of `broken` end in the body. `refuses_replacement`: 409 for an order that names a replaced certificate. `orders` are the payloads of new orders. `windows` are the suggested windows of the certificates, in the order in which
    they are asked for; the last one stays. With any, the directory offers renewal information."""

    def __init__(self, pebble: Pebble) -> None:
        self.pebble, self.asked = pebble, list[str]()
        self.limited: dict[str, str] = {}
        self.silent: tuple[str, ...] = ()
        self.huge: tuple[str, ...] = ()
        self.dripping: tuple[str, ...] = ()
        self.broken: tuple[str, ...] = ()
        self.refuses_replacement = False
        self.orders: list[dict[str, Any]] = []
        self.windows: list[tuple[str, str]] = []
        self._ended = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pebble.ca, pebble.ca.with_suffix(".key"))
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def directory(self) -> str:
        return f"https://127.0.0.1:{self._server.server_port}/dir"

    def count(self, beginning: str) -> int:
        """How many requests had a path with this beginning."""
        return sum(path.startswith(beginning) for path in self.asked)

    def __enter__(self) -> AcmeProxy:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *arguments: Any) -> None:
                """Silent."""

            def forward(self) -> None:
                proxy.forward(self)

            do_GET = do_HEAD = do_POST = forward

        return Handler

    def forward(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append(request.path)
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if request.path.startswith(self.silent or ("\0",)):
            self._ended.wait(120)
            request.close_connection = True
            return
        if request.path.startswith(self.huge or ("\0",)):
            self._respond(request, 200, {"Content-Type": "application/json"}, b" " * (2 << 20) + b"{}")
            return
        if request.path.startswith(self.broken or ("\0",)):
            request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n{")
            request.close_connection = True
            return
        if request.path.startswith(self.dripping or ("\0",)):
            self._drip(request)
            return
        if request.path.startswith("/order-plz"):
            self.orders.append(json.loads(base64url(json.loads(body)["payload"])))
            if self.refuses_replacement and "replaces" in self.orders[-1]:
                problem = {"type": "urn:ietf:params:acme:error:alreadyReplaced", "detail": "it was replaced", "status": 409}
                self._respond(request, 409, {"Content-Type": "application/problem+json"}, json.dumps(problem).encode())
                return
        for beginning, retry_after in self.limited.items():
            if request.path.startswith(beginning):
                problem = {"type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many certificates", "status": 429}
                self._respond(request, 429, {"Content-Type": "application/problem+json", "Retry-After": retry_after}, json.dumps(problem).encode())
                return
        if self.windows and request.path.startswith(RENEWAL_INFO):
            start, end = self.windows[0] if len(self.windows) == 1 else self.windows.pop(0)
            window = {"suggestedWindow": {"start": start, "end": end}}
            self._respond(request, 200, {"Content-Type": "application/json", "Retry-After": "21600"}, json.dumps(window).encode())
            return
        onward = http.client.HTTPSConnection("127.0.0.1", self.pebble.port, context=ssl.create_default_context(cafile=str(self.pebble.ca)), timeout=60)
        fields = {name: value for name, value in request.headers.items() if name.lower() not in ("connection", "accept-encoding")}
        onward.request(request.command, request.path, body or None, fields)
        answer = onward.getresponse()
        content = answer.read()
        onward.close()
        if request.path == "/dir" and self.windows:
            data = json.loads(content)
            data["renewalInfo"] = self.directory.removesuffix("/dir") + RENEWAL_INFO
            content = json.dumps(data).encode()
        kept = {name: value for name, value in answer.getheaders() if name.lower() not in ("connection", "content-length", "transfer-encoding", "link")}
        links = answer.headers.get_all("Link") or []
        self._respond(request, answer.status, kept, content, links)

    def _drip(self, request: BaseHTTPRequestHandler) -> None:
        """A byte now and then: first those of a field without end, or of the body of "/dir"."""
        begin, endless = b"HTTP/1.1 200 OK\r\n", b"x"
        if request.path == "/dir":
            begin += b"Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
        with contextlib.suppress(OSError):
            request.wfile.write(begin)
            while not self._ended.wait(0.05):
                request.wfile.write(endless)
        request.close_connection = True

    def _respond(self, request: BaseHTTPRequestHandler, status: int, fields: dict[str, str], content: bytes, links: Sequence[str] = ()) -> None:
        request.send_response(status)
        for name, value in (*fields.items(), *(("Link", link) for link in links)):
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(content)
