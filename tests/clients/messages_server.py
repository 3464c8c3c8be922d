"""A loopback server that speaks the Messages dialect by relayd's own halves, with answers from a script: a test aid.

A script is a function from the canonical request to a list of events. Between two calls of the renderer the bytes are
flushed, so that clients see frames as they come; what ends in a Failure without `Begin` is a plain error.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from relayd.protocols.anthropic_messages import DIALECT
from relayd.protocols.canon import Event, Failure, Request
from relayd.protocols.dialect import EncodedResponse, Refused, RequestContext
from tests.aids.memories import Forgetful

Script = Callable[[Request], list[Event]]


class MessagesServer:
    """Serves one script; `requests` holds what was asked, `calls` every request line, `raw` the bodies."""

    def __init__(self, script: Script) -> None:
        self.requests: list[Request] = []
        self.raw: list[bytes] = []
        self.calls: list[str] = []
        self.script = script
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_HEAD(self) -> None:
                self._serve()

            def do_GET(self) -> None:
                self._serve()

            def do_POST(self) -> None:
                self._serve()

            def _serve(self) -> None:
                outer.calls.append(f"{self.command} {self.path}")
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                path, _, query = self.path.partition("?")
                headers = {name.lower(): value for name, value in self.headers.items()}
                ask = RequestContext(self.command, path, query, headers, f"req_{len(outer.calls)}", Forgetful())
                assert DIALECT.local and DIALECT.read_request and DIALECT.renderer
                local = DIALECT.local(ask, body)
                if local is not None:
                    self._send(local)
                elif self.command != "POST" or not path.endswith(DIALECT.paths):
                    self._send(DIALECT.render_error(Failure(404, "There is nothing here."), ask.request_id))
                else:
                    self._answer(ask, body)

            def _answer(self, ask: RequestContext, body: bytes) -> None:
                assert DIALECT.read_request and DIALECT.renderer
                try:
                    request = DIALECT.read_request(body, ask)
                except Refused as fault:
                    failure = Failure(fault.status, fault.message, fault.code, param=fault.param)
                    self._send(DIALECT.render_error(failure, ask.request_id))
                    return
                outer.requests.append(request)
                outer.raw.append(body)
                events = outer.script(request)
                if isinstance(events[0], Failure):
                    self._send(DIALECT.render_error(events[0], ask.request_id))
                    return
                renderer = DIALECT.renderer(request, ask)
                if not request.stream:
                    renderer.render(events)
                    self._send(renderer.response())
                    return
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Transfer-Encoding", "chunked")
                self.send_header("request-id", ask.request_id)
                self.end_headers()
                for piece in (renderer.keepalive(), *(p for e in events for p in (renderer.render([e]), renderer.keepalive()))):
                    if piece:
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                        self.wfile.flush()
                self.wfile.write(b"0\r\n\r\n")

            def _send(self, answer: EncodedResponse) -> None:
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.content_type)
                self.send_header("Content-Length", str(len(answer.body)))
                for name, value in answer.headers:
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer.body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> MessagesServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
