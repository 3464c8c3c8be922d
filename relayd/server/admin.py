"""The admin socket: serves the admin application with Tornado's HTTP server, on a Unix socket only."""

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
from relayd.proxy.application import DASHBOARD, Application, Handler, LocalRequest
from relayd.proxy.browser_origin import host_of, is_browser, is_cross_site, is_local_host
from relayd.server.admin_views import error_page
from relayd.server.unix_socket import ListeningUnixSocket
from relayd.wire.response import ResponseHead

HIGH = 128 * 1024  # bytes of a request body queued for the application, above which reading stops
MAX_BODY = 1 << 30  # the application applies its own limit to a body


class SocketResponder:
    """The response to one request on the socket. Owned by its handler. `finished` is done once nothing more follows."""

    def __init__(self, handler: RequestHandler) -> None:
        self._handler = handler
        self._has_begun = False
        self.application: Handler | None = None
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._body_resumed: asyncio.Future[None] | None = None  # awaited while the body is paused

    def head(self, response: ResponseHead) -> None:
        """Set the response head, which is sent with the first piece."""
        handler = self._handler
        handler.set_status(response.status)
        handler.clear_header("Content-Type")
        for line in response.keep:
            name, _, value = line.decode("latin-1").partition(":")
            handler.set_header(name, value.strip())
        if response.length is not None:
            handler.set_header("Content-Length", str(response.length))

    def body(self, data: bytes) -> bool:
        """Write a piece. The next one should wait until this one is sent, which `unhold` reports."""
        if not self.finished.done():
            self._has_begun = True
            self._handler.write(data)
            self._handler.flush().add_done_callback(self._on_written)
        return False

    def _on_written(self, future: asyncio.Future[None]) -> None:
        if future.cancelled() or future.exception() is not None:  # closed; `on_connection_close` handles it
            return
        if self.application is not None:
            self.application.unhold()

    def end(self, data: bytes = b"") -> None:
        """Write the last piece and end the response."""
        if self.finished.done():
            return
        if data:
            self._handler.write(data)
        if not self._has_begun and self._handler.request.method == "HEAD":
            self._handler.flush()  # Tornado would derive a Content-Length, which a stream has not
        self._handler.finish()
        self.close()

    def fail(self) -> None:
        """Send an error, or break the connection if the response has begun."""
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
        """Pass on a piece of the request body. The awaitable it returns pauses the reading of the body."""
        application = self.application
        if application is None:
            return None
        application.feed(piece, last)
        if application.queued > HIGH and not last and not self.finished.done():
            self._body_resumed = asyncio.get_running_loop().create_future()
        return self._body_resumed

    def resume_body(self) -> None:
        """Resume reading the request body."""
        resumed, self._body_resumed = self._body_resumed, None
        if resumed is not None:
            resumed.set_result(None)

    def is_superseded(self) -> bool:
        """False: connections of the socket belong to no plan, and end with the process."""
        return False

    def close(self) -> None:
        """Finish: the response has ended, or the client has left."""
        if not self.finished.done():
            self.finished.set_result(None)
        self.resume_body()
        application, self.application = self.application, None
        if application is not None:
            application.close()


@stream_request_body
class SocketRequest(RequestHandler):
    """Handles every path and method."""

    def initialize(self, admin: Application) -> None:
        self._admin = admin
        self._responder = SocketResponder(self)

    def set_default_headers(self) -> None:
        self.set_header("Server", f"relayd/{__version__}")

    def prepare(self) -> None:
        responder, page_fault = self._responder, "wrong_host" if self._is_rebound() else ""
        origin, host = self._field(b"origin"), self._field(b"host") or b""
        cross_site = is_cross_site(self._field(b"sec-fetch-site"), origin, host)
        request = LocalRequest(
            self.request.method or "", self.request.path, True, cross_site, self._field, page_fault=page_fault
        )
        handler = self._admin(request, responder)
        if responder.finished.done():
            handler.close()
        else:
            responder.application = handler

    def _field(self, name: bytes) -> bytes | None:
        value = self.request.headers.get(name.decode())
        return None if value is None else value.encode("latin-1", "replace")

    def _is_rebound(self) -> bool:
        """True for a browser's request to a host that is not this machine: a page of another site has changed the
        address of its own name (DNS rebinding), and the browser takes this socket, behind a forwarded port, for it."""
        is_page = self.request.path.startswith(DASHBOARD) or is_browser(self._field)
        return is_page and not is_local_host(host_of(self.request.headers.get("Host", "")))

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        return self._responder.receive_body(chunk, False)

    async def _whole(self) -> None:
        self._responder.receive_body(b"", True)
        try:
            await self._responder.finished
        except asyncio.CancelledError:  # the loop ends; Tornado before 6.3 would log it
            self._responder.fail()

    get = head = post = put = patch = delete = options = _whole

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Send an error that Tornado or `fail` reports, in the form of the application's errors."""
        code, message = "internal", "The request could not be processed."
        if status_code == 405:  # neither prepared nor known to the application
            code, message = "method_not_allowed", "This method does not exist here."
            self.set_header("Allow", "GET, HEAD, POST")
        _, content_type, body = error_page(status_code, code, message)
        self.set_header("Content-Type", content_type)
        self.finish(body)

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self._responder.close()

    def compute_etag(self) -> None:
        """No ETag: responses show the current state."""


class AdminServer:
    """The admin socket and its HTTP server. Bound in the constructor, serving after `serve`, until `close`."""

    def __init__(self, path: str, mode: str = "0660", owner: str = "", inherited: socket.socket | None = None) -> None:
        """Bind the socket, or use the inherited one of the previous process. Raises OSError."""
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
        self._socket.serve(self._server)

    def close(self, unlink: bool = True) -> None:
        """Stop accepting and remove the socket. The loop finishes responses that are being written."""
        if self._server is not None:
            self._server.stop()
        self._socket.close(unlink)
