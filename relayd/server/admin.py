"""The admin socket: the admin application by Tornado's own server, on a Unix socket only."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable
from typing import Any

from tornado.http1connection import HTTP1Connection
from tornado.httpserver import HTTPServer  # noqa: TID251 - on a Unix socket of mode 0660, never for clients
from tornado.web import Application as TornadoApplication
from tornado.web import RequestHandler, stream_request_body

from relayd import __version__
from relayd.proxy.application import Application, Handler, LocalRequest
from relayd.server.unix_socket import ListeningUnixSocket
from relayd.wire.response import ResponseHead

HIGH = 128 * 1024  # bytes of a request body that wait for the application, above which no more is read
MAX_BODY = 1 << 30  # how much an application reads of a body is its own matter


class SocketResponder:
    """The response to one request on the socket; owned by its handler. `over` is done when nothing more will come."""

    def __init__(self, handler: RequestHandler) -> None:
        self._handler = handler
        self._has_begun = False
        self.application: Handler | None = None
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._body_resumed: asyncio.Future[None] | None = None  # awaited while the application has enough of the body

    def head(self, response: ResponseHead) -> None:
        """Keep the head for what follows."""
        handler = self._handler
        handler.set_status(response.status)
        handler.clear_header("Content-Type")
        for line in response.keep:
            name, _, value = line.decode("latin-1").partition(":")
            handler.set_header(name, value.strip())
        if response.length is not None:
            handler.set_header("Content-Length", str(response.length))

    def body(self, data: bytes) -> bool:
        """Write a piece. The next one should wait until it has left, which is told by `unhold`."""
        if not self.finished.done():
            self._has_begun = True
            self._handler.write(data)
            self._handler.flush().add_done_callback(self._on_written)
        return False

    def _on_written(self, future: asyncio.Future[None]) -> None:
        if future.cancelled() or future.exception() is not None:  # it has closed; `on_connection_close` says so
            return
        if self.application is not None:
            self.application.unhold()

    def end(self, data: bytes = b"") -> None:
        """Write the rest and the end."""
        if self.finished.done():
            return
        if data:
            self._handler.write(data)
        if not self._has_begun and self._handler.request.method == "HEAD":
            self._handler.flush()  # Tornado would count the body, which is no stream's length
        self._handler.finish()
        self.close()

    def fail(self) -> None:
        """An error, or a broken end."""
        if self.finished.done():
            return
        if self._has_begun:
            connection = self._handler.request.connection
            assert isinstance(connection, HTTP1Connection)
            connection.close()
        else:
            self._handler.send_error(500)
        self.close()

    def receive_body(self, piece: bytes, last: bool) -> Awaitable[None] | None:
        """A piece of the request body; what is returned is awaited before more of it is read."""
        application = self.application
        if application is None:
            return None
        application.feed(piece, last)
        if application.queued > HIGH and not last and not self.finished.done():
            self._body_resumed = asyncio.get_running_loop().create_future()
        return self._body_resumed

    def resume_body(self) -> None:
        """Read on."""
        resumed, self._body_resumed = self._body_resumed, None
        if resumed is not None:
            resumed.set_result(None)

    def is_superseded(self) -> bool:
        """The socket knows of no plan; its connections end with the process."""
        return False

    def close(self) -> None:
        """Nothing more will come: the response has ended, or the client has left."""
        if not self.finished.done():
            self.finished.set_result(None)
        self.resume_body()
        application, self.application = self.application, None
        if application is not None:
            application.close()


@stream_request_body
class SocketRequest(RequestHandler):
    """Every path and method."""

    def initialize(self, admin: Application) -> None:
        self._admin = admin

    def set_default_headers(self) -> None:
        self.set_header("Server", f"relayd/{__version__}")

    def prepare(self) -> None:
        responder = self._responder = SocketResponder(self)
        handler = self._admin(LocalRequest(self.request.method or "", self.request.path, True), responder)
        if responder.finished.done():
            handler.close()
        else:
            responder.application = handler

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        return self._responder.receive_body(chunk, False)

    async def _whole(self) -> None:
        self._responder.receive_body(b"", True)
        await self._responder.finished

    get = head = post = put = patch = delete = options = _whole

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self._responder.close()

    def compute_etag(self) -> None:
        """No ETag: every answer is of this moment."""


class AdminServer:
    """The admin socket and who serves it. Made (bound) by prepare, served from commit, closed by stop."""

    def __init__(self, path: str, mode: str = "0660", owner: str = "", inherited: socket.socket | None = None) -> None:
        """Bind the socket, or go on with the one of the process before. Raises OSError."""
        self.path = path
        self._socket = ListeningUnixSocket(path, mode, owner, inherited)
        self._server: HTTPServer | None = None

    @property
    def socket(self) -> socket.socket:
        return self._socket.socket

    def serve(self, admin: Application) -> None:
        settings: dict[str, Any] = {"log_function": lambda handler: None}
        application = TornadoApplication([(".*", SocketRequest, {"admin": admin})], **settings)
        self._server = HTTPServer(
            application, idle_connection_timeout=60, body_timeout=10, max_body_size=MAX_BODY, max_header_size=16 * 1024
        )
        self._server.add_socket(self._socket.socket)

    def close(self, unlink: bool = True) -> None:
        """Stop accepting and remove the socket; an answer that is being written is finished by the loop."""
        if self._server is not None:
            self._server.stop()
        self._socket.close(unlink)
