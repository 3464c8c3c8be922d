"""The admin application: health, status, metrics and reload, by Tornado's own server, on a Unix socket only."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from tornado.httpserver import HTTPServer  # noqa: TID251 - on a Unix socket of mode 0660, never for clients
from tornado.web import Application, RequestHandler

from relayd import __version__
from relayd.server.admin_views import AdminViews, Answer, ReloadResult
from relayd.server.unix_socket import OwnSocket

Reload = Callable[[], Awaitable[ReloadResult]]
Waiting = Callable[[], Awaitable[Answer]]  # a further action by its path: POST /upgrade


class AdminHandler(RequestHandler):
    """Every path. What the views cannot do without waiting, a reload, is awaited here."""

    def initialize(self, views: AdminViews, reload: Reload, actions: Mapping[str, Waiting]) -> None:
        self._admin_views = views
        self._admin_reload = reload
        self._admin_actions = actions

    def set_default_headers(self) -> None:
        self.set_header("Server", f"relayd/{__version__}")
        self.set_header("Cache-Control", "no-store")

    def get(self) -> None:
        self._finish(self._admin_views.answer("GET", self.request.path, write=True))

    def head(self) -> None:
        self._finish(self._admin_views.answer("GET", self.request.path, write=True))

    async def post(self) -> None:
        if self.request.path.rstrip("/") == "/reload":
            self._finish((await self._admin_reload()).answer())
        elif (action := self._admin_actions.get(self.request.path)) is not None:
            self._finish(await action())
        else:
            self._finish(self._admin_views.answer("POST", self.request.path, write=True))

    def _finish(self, answer: Answer) -> None:
        status, content_type, body = answer
        self.set_status(status)
        self.set_header("Content-Type", content_type)
        self.finish(body)

    def compute_etag(self) -> None:
        """No ETag: every answer is of this moment."""


class AdminServer:
    """The admin socket and who serves it. Made (bound) by prepare, served from commit, closed by stop."""

    def __init__(self, path: str, mode: str = "0660", owner: str = "", taken: socket.socket | None = None) -> None:
        """Bind the socket, or go on with the one of the process before. Raises OSError."""
        self.path = path
        self._socket = OwnSocket(path, mode, owner, taken)
        self._server: HTTPServer | None = None

    @property
    def socket(self) -> socket.socket:
        return self._socket.socket

    def serve(self, views: AdminViews, reload: Reload, actions: Mapping[str, Waiting] | None = None) -> None:
        settings: dict[str, Any] = {"log_function": lambda handler: None}
        given = {"views": views, "reload": reload, "actions": actions or {}}
        application = Application([(".*", AdminHandler, given)], **settings)
        self._server = HTTPServer(
            application, idle_connection_timeout=60, body_timeout=10, max_body_size=64 * 1024, max_header_size=16 * 1024
        )
        self._server.add_socket(self._socket.socket)

    def close(self, unlink: bool = True) -> None:
        """Stop accepting and remove the socket; an answer that is being written is finished by the loop."""
        if self._server is not None:
            self._server.stop()
        self._socket.close(unlink)
