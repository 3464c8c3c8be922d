"""A Responses endpoint on loopback with a function as its model; real clients connect to it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from relayd.protocols.canon import Event, Failure, Request
from relayd.protocols.dialect import EncodedResponse, Refused, RequestContext
from relayd.protocols.openai_responses import DIALECT
from relayd.protocols.openai_responses.renderer import ResponsesRenderer
from relayd.protocols.openai_responses.websocket import write_error
from relayd.stores.memory import Store
from relayd.wire.http1 import parse_head
from relayd.wire.websocket import Closed, Decoder, Message, accept, close_frame, text_frame
from tests.aids.memories import Kept
from tests.unit.protocols.openai_responses.harness import KEY

Model = Callable[[Request], list[Event]]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    model: Model
    store: Store

    def log_message(self, *_: Any) -> None:
        pass

    def context(self, socket: Any = None) -> RequestContext:
        path, _, query = self.path.partition("?")
        consumer = self.headers.get("Authorization", "")
        headers = {name.lower(): value for name, value in self.headers.items()}
        return RequestContext(self.command, path, query, headers, "req_1", self.store.space(consumer), socket, KEY)

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        context = self.context()
        assert DIALECT.local is not None and DIALECT.read_request is not None and DIALECT.renderer is not None
        local = DIALECT.local(context, body)
        if local is not None:
            self.rendered(local)
            return
        try:
            request = DIALECT.read_request(body, context)
        except Refused as refused:
            failure = Failure(refused.status, refused.message, refused.code, param=refused.param)
            self.rendered(DIALECT.render_error(failure, context.request_id))
            return
        renderer = DIALECT.renderer(request, context)
        events = self.model(request)
        if not request.stream:
            renderer.render(events)
            self.rendered(renderer.response())
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for event in events:
            self.wfile.write(renderer.keepalive() + renderer.render([event]))
        self.close_connection = True

    def rendered(self, answer: EncodedResponse) -> None:
        self.send_response(answer.status)
        fields = {"Content-Type": answer.content_type, "Content-Length": str(len(answer.body)), **dict(answer.headers)}
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)

    do_POST = do_DELETE = answer

    def do_GET(self) -> None:
        if self.headers.get("Upgrade") is None:
            self.answer()
            return
        lines = [self.requestline, *(f"{name}: {value}" for name, value in self.headers.items()), "", ""]
        self.wfile.write(accept(parse_head("\r\n".join(lines).encode())))
        self.turns(self.context(socket=Kept()))
        self.close_connection = True

    def turns(self, context: RequestContext) -> None:
        decoder = Decoder()
        while data := self.connection.recv(65536):
            for event in decoder.feed(data):
                if isinstance(event, Closed):
                    self.wfile.write(close_frame(event.code))
                    return
                if isinstance(event, Message):
                    for frame in self.turn(event.data, context):
                        self.wfile.write(text_frame(frame))

    def turn(self, body: bytes, context: RequestContext) -> list[bytes]:
        assert DIALECT.read_request is not None
        try:
            request = DIALECT.read_request(body, context)
        except Refused as refused:
            return [write_error(Failure(refused.status, refused.message, refused.code, param=refused.param))]
        renderer = ResponsesRenderer(request, context)
        return [frame for event in self.model(request) for frame in renderer.messages([event])]


@contextlib.contextmanager
def endpoint(model: Model) -> Iterator[str]:
    """Run an endpoint with this model; yields its base URL."""
    handler = type("Handler", (_Handler,), {"model": staticmethod(model), "store": Store(1000, 1 << 24, 60)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
