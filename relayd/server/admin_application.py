"""The admin application: pages that show state, actions that change it, live events. It is the same for the admin
socket and for routes with `upstream: admin`.

1. A page is answered immediately, an action once its request is complete. An action that has started is completed
   even if its client leaves.
2. Actions need `may_write`: the socket has it, a route only with `admin_write`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

from relayd.proxy.application import CompletedHandler, Handler, LocalRequest, Responder, send_answer
from relayd.proxy.respond import answer
from relayd.server.admin_events import EventFeed
from relayd.server.admin_views import AdminViews, Page, ReloadResult, error_page

LOG = logging.getLogger("relayd.admin")
Action = Callable[[], Coroutine[Any, Any, ReloadResult]]

EVENTS = "/events"
MAX_BODY = 64 * 1024
READ = ("GET", "HEAD")


class AdminApplication:
    """One per process. `actions`: the asynchronous actions by path, such as a reload."""

    def __init__(self, views: AdminViews, actions: Mapping[str, Action]) -> None:
        self._views, self._actions = views, actions
        self._events = EventFeed(lambda: views.status()[2], views.is_ending)
        self._running: set[asyncio.Future[ReloadResult]] = set()

    def __call__(self, request: LocalRequest, responder: Responder) -> Handler:
        """Answer a request, or return the handler that will."""
        path = request.path.rstrip("/") or "/"
        refusal = self._refusal(request, path)
        if refusal is not None:
            return respond(responder, refusal, "POST" if self._is_action(path) else "GET, HEAD")
        if self._is_action(path):
            return ActionRequest(responder, partial(self._act, path))
        if path == EVENTS:
            handler = self._events.open(responder, request.method)
            if handler is None:
                message = "Too many clients read the events."
                return respond(responder, error_page(503, "too_many_clients", message))
            return handler
        return respond(responder, self._views.pages[path]())

    def _is_action(self, path: str) -> bool:
        return path in self._actions or path.startswith("/upstreams/")

    def _refusal(self, request: LocalRequest, path: str) -> Page | None:
        if self._is_action(path):
            if not request.may_write:
                return error_page(403, "forbidden", "Actions are not available here.")
            if request.method != "POST":
                return error_page(405, "method_not_allowed", "An action needs the method POST.")
        elif path not in self._views.pages and path != EVENTS:
            return error_page(404, "not_found", "No such page.", pages=sorted([*self._views.pages, EVENTS]))
        elif request.method not in READ:
            return error_page(405, "method_not_allowed", "This page is read-only.")
        return None

    def _act(self, path: str, on_done: Callable[[Page | None], None]) -> None:
        action = self._actions.get(path)
        if action is None:
            on_done(self._views.act(path))
            return
        task = asyncio.get_running_loop().create_task(action())
        self._running.add(task)
        task.add_done_callback(partial(self._on_action_done, path, on_done))

    def _on_action_done(
        self, path: str, on_done: Callable[[Page | None], None], task: asyncio.Future[ReloadResult]
    ) -> None:
        self._running.discard(task)
        if task.cancelled():
            on_done(None)
        elif (fault := task.exception()) is not None:
            LOG.error("admin action %s", path, exc_info=fault)
            on_done(None)
        else:
            on_done(task.result().page())


class ActionRequest(CompletedHandler):
    """A requested action, which runs once the whole request has been read. The body is ignored."""

    def __init__(self, responder: Responder, act: Callable[[Callable[[Page | None], None]], None]) -> None:
        self._responder: Responder | None = responder
        self._act = act
        self._size = 0

    def feed(self, piece: bytes, last: bool) -> None:
        """Count the body, and run the action at its end."""
        responder = self._responder
        self._size += len(piece)
        if responder is None:
            return
        if self._size > MAX_BODY:
            respond(responder, error_page(413, "body_too_large", "An action needs no body."))
        elif last:
            self._act(self._on_action_done)

    def _on_action_done(self, outcome: Page | None) -> None:
        if self._responder is None:  # the client has left
            return
        if outcome is None:
            self._responder.fail()
        else:
            respond(self._responder, outcome)

    def close(self) -> None:
        """The client has left: the outcome is not sent."""
        self._responder = None


def respond(responder: Responder, page: Page, allow: str = "") -> Handler:
    """Send a page. A 405 lists the allowed methods (RFC 9110 15.5.6)."""
    status, content_type, body = page
    fields = [("Cache-Control", "no-store")]
    if status == 405:
        fields.append(("Allow", allow))
    return send_answer(responder, answer(status, content_type, body, tuple(fields)))
