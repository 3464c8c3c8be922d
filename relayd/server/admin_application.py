"""The admin application: pages that show state, actions that change it, live events. It is the same for the admin
socket and for routes with `upstream: admin`.

1. A page is answered immediately, a large one over several turns of the loop; an action once its request is complete.
   An action that has started is completed even if its client leaves.
2. Actions, and the access records, need `may_write`: the socket has it, a route only with `admin_write`. A page of
   another site cannot cause an action in the browser of somebody who may.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Mapping
from functools import partial
from typing import Any

from relayd.lazy_regex import lazy_regex
from relayd.proxy.application import CompletedHandler, Handler, LocalRequest, Responder, send_answer
from relayd.proxy.respond import Answer, answer
from relayd.server import admin_cache, admin_state
from relayd.server.admin_captures import POSTS as CAPTURE_POSTS
from relayd.server.admin_captures import CaptureRequest, is_captures
from relayd.server.admin_events import EventFeed
from relayd.server.admin_records import RecordFeed
from relayd.server.admin_sessions import POSTS as SESSION_POSTS
from relayd.server.admin_sessions import SessionRequest, is_sessions
from relayd.server.admin_state import StatePage
from relayd.server.admin_views import AdminViews, Page, ReloadResult, error_page
from relayd.server.api_documents import PATHS, ApiDocuments
from relayd.server.dashboard import ACTIONS, Dashboard, is_dashboard, lacks_token
from relayd.server.dashboard_feed import DashboardFeed
from relayd.server.dashboard_state import DashboardState
from relayd.server.stepped_answer import SteppedAnswer
from relayd.server.stream_places import TooManyStreams, owner_of
from relayd.wire.json_steps import Steps

LOG = logging.getLogger("relayd.admin")
Action = Callable[[], Coroutine[Any, Any, ReloadResult]]

EVENTS, RECORDS, METRICS = "/events", "/records", "/metrics"
MAX_BODY = 64 * 1024
READ = ("GET", "HEAD")
PREFIXES = ("/upstreams/", "/streams/", "/certs/", "/generations/", admin_state.PREFIX, admin_cache.PREFIX)
GENERATION, NUMBER = lazy_regex(r"/generations/([^/]+)/(restore|compare)"), lazy_regex(r"[0-9]{1,15}")
PAGE_FAULTS = {
    "wrong_host": "Browsers use an address or localhost here; for a name, use TLS, or write it into the route's match.",
    "cross_site": "A page of another site requested this.",
}


class AdminApplication:
    """One per process. `actions`: the asynchronous actions by path, such as a reload."""

    def __init__(self, views: AdminViews, actions: Mapping[str, Action]) -> None:
        self._views, self._actions = views, actions
        state = DashboardState(views.gateway, views.telemetry, views.state)
        self._dashboard = Dashboard(DashboardFeed(state.read, views.is_ending, views.gateway.call_later))
        self._feeds: dict[str, EventFeed | RecordFeed] = {
            EVENTS: EventFeed(views.status_steps, views.is_ending, views.gateway.call_later),
            RECORDS: RecordFeed(views.telemetry, views.is_ending),
        }
        self._documents = ApiDocuments(views, actions)
        self._running: set[asyncio.Future[ReloadResult | StatePage]] = set()

    def __call__(self, request: LocalRequest, responder: Responder) -> Handler:
        """Answer a request, or return the handler that will."""
        if request.page_fault:
            return respond(responder, error_page(403, request.page_fault, PAGE_FAULTS[request.page_fault]))
        if is_dashboard(request.path):
            return self._dashboard(request, responder)
        if is_sessions(request.path):
            return self._private(request, responder, SESSION_POSTS, "Sessions") or SessionRequest(
                self._views.gateway, request.path.rstrip("/"), responder
            )
        if is_captures(request.path):
            return self._private(request, responder, CAPTURE_POSTS, "Captured exchanges") or CaptureRequest(
                self._views.captures, self._views.gateway, request.path.rstrip("/"), request.consumer, responder
            )
        path = request.path.removeprefix(ACTIONS).rstrip("/") or "/"
        if request.path.startswith(ACTIONS) and not self._is_action(path):
            return respond(responder, error_page(404, "not_found", "There is no such action."))
        refusal = self._refusal(request, path)
        if refusal is not None:
            return respond(responder, refusal, "POST" if self._is_action(path) else "GET, HEAD")
        if self._is_action(path):
            return ActionRequest(responder, partial(self._act, path, request.consumer))
        feed = self._feeds.get(path)
        if feed is not None:
            try:
                return feed.open(responder, request.method, owner_of(request))
            except TooManyStreams as refused:
                status, readers = (429, "streams of this client") if refused.of_owner else (503, "clients")
                return respond(responder, error_page(status, "too_many_clients", f"Too many {readers} are open."))
        call_later = self._views.gateway.call_later
        if path in PATHS:
            return SteppedAnswer(responder, self._documents.steps(path), call_later)
        if path == METRICS:
            accept = (request.field(b"accept") or b"").decode("latin-1")
            return SteppedAnswer(responder, answer_steps(self._views.metrics(accept)), call_later)
        return SteppedAnswer(responder, answer_steps(self._views.pages[path].steps()), call_later)

    def _private(
        self, request: LocalRequest, responder: Responder, posts: Collection[str], subject: str
    ) -> Handler | None:
        """The refusal of a request for pages that only those see who may change state; `posts` are the actions among
        their paths. None if the request is permitted."""
        is_change = request.path.rstrip("/") in posts
        if not request.may_write:
            return respond(responder, error_page(403, "forbidden", f"{subject} are not available here."))
        if is_change and request.cross_site:
            return respond(responder, error_page(403, "cross_site", "A page of another site requested this action."))
        if is_change and lacks_token(request):
            return respond(responder, error_page(403, "token_required", "This action needs the token of its session."))
        if request.method not in (("POST",) if is_change else READ):
            message = "An action needs the method POST." if is_change else "This page is read-only."
            return respond(
                responder, error_page(405, "method_not_allowed", message), "POST" if is_change else "GET, HEAD"
            )
        return None

    def _is_action(self, path: str) -> bool:
        return path in self._actions or path.startswith(PREFIXES)

    def _refusal(self, request: LocalRequest, path: str) -> Page | None:
        if self._is_action(path):
            if not request.may_write:
                return error_page(403, "forbidden", "Actions are not available here.")
            if request.cross_site:
                return error_page(403, "cross_site", "A page of another site requested this action.")
            if lacks_token(request):
                return error_page(403, "token_required", "This action needs the token of its session.")
            if request.method != "POST":
                return error_page(405, "method_not_allowed", "An action needs the method POST.")
        elif path not in self._views.pages and path not in self._feeds and path not in PATHS:
            known = sorted([*self._views.pages, *self._feeds, *PATHS])
            return error_page(404, "not_found", "No such page.", pages=known)
        elif request.method not in READ:
            return error_page(405, "method_not_allowed", "This page is read-only.")
        elif path == RECORDS and not request.may_write:
            return error_page(403, "forbidden", "Access records are not available here.")
        return None

    def _act(self, path: str, consumer: str, on_done: Callable[[Page | None], None]) -> None:
        action: Callable[[], Coroutine[Any, Any, ReloadResult | StatePage]] | None = self._actions.get(path)
        if path.startswith(admin_state.PREFIX):
            action = partial(admin_state.act, self._views.gateway, path)
        elif path.startswith(admin_cache.PREFIX):
            action = partial(admin_cache.act, self._views.gateway, path)
        elif (found := GENERATION.fullmatch(path)) is not None:
            rollback = self._views.state.rollback
            if rollback is None or NUMBER.fullmatch(found[1]) is None or not rollback.has(int(found[1])):
                on_done(error_page(404, "not_found", "No saved generation has this number."))
                return
            action = partial(rollback.restore, int(found[1]), found[2] == "compare")
        if action is None:
            on_done(self._views.act(path, consumer))
            return
        task = asyncio.get_running_loop().create_task(action())
        self._running.add(task)
        task.add_done_callback(partial(self._on_action_done, path, on_done))

    def _on_action_done(
        self, path: str, on_done: Callable[[Page | None], None], task: asyncio.Future[ReloadResult | StatePage]
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


def answer_steps(steps: Steps[Page]) -> Steps[Answer]:
    """The answer with a page."""
    return answer_of((yield from steps))


def respond(responder: Responder, page: Page, allow: str = "") -> Handler:
    """Send a page. A 405 lists the allowed methods (RFC 9110 15.5.6)."""
    return send_answer(responder, answer_of(page, allow))


def answer_of(page: Page, allow: str = "") -> Answer:
    status, content_type, body = page
    fields = [("Cache-Control", "no-store")]
    if status == 405:
        fields.append(("Allow", allow))
    return answer(status, content_type, body, tuple(fields))
