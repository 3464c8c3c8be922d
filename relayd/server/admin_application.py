"""The admin application: the pages that tell, the actions that change something, the live events. The same for the
admin socket and for routes with `upstream: admin`.

1. A page is answered at once, an action when its request is whole. An action that has begun is finished, whoever
   leaves.
2. Actions need `may_write`: the socket has it, a route only with `admin_write`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

from relayd.proxy.application import Answered, Handler, LocalRequest, Responder, answered
from relayd.proxy.respond import answer
from relayd.server.admin_events import EventFeed
from relayd.server.admin_views import AdminViews, Answer, ReloadResult, refused

LOG = logging.getLogger("relayd.admin")
Action = Callable[[], Coroutine[Any, Any, ReloadResult]]

EVENTS = "/events"
MAX_BODY = 64 * 1024
READ = ("GET", "HEAD")


class AdminApplication:
    """One per process. `actions` are those that take their time, by their path: a reload."""

    def __init__(self, views: AdminViews, actions: Mapping[str, Action]) -> None:
        self._views, self._actions = views, actions
        self._events = EventFeed(lambda: views.status()[2], views.is_ending)
        self._running: set[asyncio.Future[ReloadResult]] = set()

    def __call__(self, request: LocalRequest, responder: Responder) -> Handler:
        """Begin to answer."""
        path = request.path.rstrip("/") or "/"
        refusal = self._refusal(request, path)
        if refusal is not None:
            return respond(responder, refusal, "POST" if self._is_action(path) else "GET, HEAD")
        if self._is_action(path):
            return ActionRequest(responder, partial(self._act, path))
        if path == EVENTS:
            handler = self._events.open(responder, request.method)
            return handler or respond(responder, refused(503, "too_many_clients", "Too many clients read the events."))
        return respond(responder, self._views.pages[path]())

    def _is_action(self, path: str) -> bool:
        return path in self._actions or path.startswith("/upstreams/")

    def _refusal(self, request: LocalRequest, path: str) -> Answer | None:
        if self._is_action(path):
            if not request.may_write:
                return refused(403, "forbidden", "Actions are not shown here.")
            if request.method != "POST":
                return refused(405, "method_not_allowed", "An action is asked for by POST.")
        elif path not in self._views.pages and path != EVENTS:
            return refused(404, "not_found", "There is no such page.", pages=sorted([*self._views.pages, EVENTS]))
        elif request.method not in READ:
            return refused(405, "method_not_allowed", "This page is only read.")
        return None

    def _act(self, path: str, then: Callable[[Answer | None], None]) -> None:
        action = self._actions.get(path)
        if action is None:
            then(self._views.act(path))
            return
        task = asyncio.get_running_loop().create_task(action())
        self._running.add(task)
        task.add_done_callback(partial(self._acted, path, then))

    def _acted(self, path: str, then: Callable[[Answer | None], None], task: asyncio.Future[ReloadResult]) -> None:
        self._running.discard(task)
        if task.cancelled():
            then(None)
        elif (fault := task.exception()) is not None:
            LOG.error("admin action %s", path, exc_info=fault)
            then(None)
        else:
            then(task.result().answer())


class ActionRequest(Answered):
    """An action that is asked for: done when the request is whole, however its body came. The body says nothing."""

    def __init__(self, responder: Responder, act: Callable[[Callable[[Answer | None], None]], None]) -> None:
        self._responder: Responder | None = responder
        self._act = act
        self._size = 0

    def feed(self, piece: bytes, last: bool) -> None:
        """Count the body; act at its end."""
        responder = self._responder
        self._size += len(piece)
        if responder is None:
            return
        if self._size > MAX_BODY:
            respond(responder, refused(413, "body_too_large", "An action needs no body."))
        elif last:
            self._act(self._acted)

    def _acted(self, outcome: Answer | None) -> None:
        if self._responder is None:  # the client has left
            return
        if outcome is None:
            self._responder.fail()
        else:
            respond(self._responder, outcome)

    def close(self) -> None:
        """Nobody waits for the outcome."""
        self._responder = None


def respond(responder: Responder, told: Answer, allow: str = "") -> Handler:
    """Give a page. RFC 9110 15.5.6: a 405 says which methods are allowed."""
    status, content_type, body = told
    fields = [("Cache-Control", "no-store")]
    if status == 405:
        fields.append(("Allow", allow))
    return answered(responder, answer(status, content_type, body, tuple(fields)))
