"""Sessions for the admin application: list, show, forget and import, in steps, because a store may be large or another
server.

1. A session is named by the digest of its id, or by the beginning of it. Its id is not known to relayd.
2. Only requests that may change state see sessions, because documents are private.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from relayd.errors import ExchangeError
from relayd.proxy.application import CompletedHandler, Responder
from relayd.proxy.client_session import ENDPOINTS, KEY_CHARS, SPACE
from relayd.proxy.gateway import Gateway
from relayd.proxy.respond import answer
from relayd.proxy.session_document import text_of
from relayd.proxy.steps import Work
from relayd.server.admin_live import DESCRIBED
from relayd.server.admin_views import JSON, Page, error_page, to_json, to_json_steps
from relayd.stores import Listed
from relayd.wire.json_steps import Steps

PATH = "/sessions"
MOST = 10_000  # sessions on one page
MAX_BODY = 1024 * 1024
SHORTEST = 6  # characters of a digest that name a session
POSTS = (f"{PATH}/forget", f"{PATH}/import")


def is_sessions(path: str) -> bool:
    """True if a path of the admin application concerns sessions."""
    return path == PATH or path.startswith(f"{PATH}/")


class SessionRequest(CompletedHandler):
    """One request for sessions, which is answered once its body has been read. Owned by its exchange."""

    def __init__(self, gateway: Gateway, path: str, responder: Responder) -> None:
        self._gateway, self._path = gateway, path
        self._responder: Responder | None = responder
        self._body = bytearray()
        self._page: Page | None = None
        self._work: Work | None = None

    def feed(self, piece: bytes, last: bool) -> None:
        """Collect the body, and answer at its end."""
        if self._responder is None or self._work is not None:
            return
        self._body += piece
        if len(self._body) > MAX_BODY:
            self._page = error_page(413, "body_too_large", "The request body is too large.")
            self._respond()
        elif last:
            self._work = Work(self._run(), self._gateway.call_later, self._respond)
            if self._work.turn():
                self._respond()

    def _run(self) -> Steps[None]:
        try:
            self._page = yield from page_steps(self._gateway, self._path, bytes(self._body))
        except BadRequest as bad:
            self._page = error_page(400, "bad_request", str(bad))
        except ExchangeError as refused:
            self._page = error_page(refused.kind.status, refused.kind.code, refused.message)

    def _respond(self) -> None:
        responder, self._responder = self._responder, None
        if responder is not None and self._page is not None:
            status, content_type, body = self._page
            whole = answer(status, content_type, body, (("Cache-Control", "no-store"),))
            responder.head(whole.response)
            responder.end(whole.body)

    def close(self) -> None:
        """The client has left."""
        self._responder = None
        if self._work is not None:
            self._work.cancel()


class BadRequest(Exception):
    """The body of a request cannot be used; the text says why."""


def page_steps(gateway: Gateway, path: str, body: bytes) -> Steps[Page]:
    """The page of a path, in steps. Raises BadRequest."""
    if path == PATH:
        return (yield from _list(gateway))
    if path == f"{PATH}/forget":
        return (yield from _forget(gateway, _members(body)))
    if path == f"{PATH}/import":
        return (yield from _import(gateway, _members(body)))
    return (yield from _show(gateway, path.removeprefix(f"{PATH}/")))


def _list(gateway: Gateway) -> Steps[Page]:
    found = yield from listed_steps(gateway, MOST)
    count = yield from gateway.store.count_steps(SPACE)
    omitted = max(0, count - MOST) if len(found) == MOST else 0
    described = []
    for number, one in enumerate(found, 1):
        described.append(_described(one))
        if not number % DESCRIBED:
            yield
    return 200, JSON, (yield from to_json_steps({"sessions": described, "omitted": omitted}))


def listed_steps(gateway: Gateway, most: int) -> Steps[list[Listed]]:
    """Up to `most` sessions. Raises ExchangeError if the store is a server that cannot be asked now: sessions that only
    this instance knows are not all of them."""
    found = yield from gateway.store.list_steps(SPACE, most)
    if gateway.store.must_fetch and gateway.is_store_degraded():
        message = "The server of the store cannot be reached; try again later."
        raise ExchangeError("store_unavailable", message=message)
    return found


def _show(gateway: Gateway, prefix: str) -> Steps[Page]:
    found = yield from _matching(gateway, prefix)
    if not isinstance(found, Listed):
        return found
    space = gateway.space(found.space, _ttl_s(gateway))
    text = yield from space.text_steps(found.key)
    if text is None:
        return error_page(404, "not_found", "There is no such session.")
    endpoints = yield from gateway.space(_endpoints_of(found.space), _ttl_s(gateway)).get_steps(found.key)
    data = {**_described(found), "document": json.loads(text), "endpoints": endpoints or {}}
    return 200, JSON, to_json(data)


def _matching(gateway: Gateway, prefix: str) -> Steps[Listed | Page]:
    """The one session whose digest begins like this, or the error."""
    if not SHORTEST <= len(prefix) <= KEY_CHARS:
        return error_page(404, "not_found", f"A session is named by at least {SHORTEST} characters.")
    found = yield from listed_steps(gateway, 1 << 30)
    matching = [one for one in found if one.key.startswith(prefix)]
    if not matching:
        return error_page(404, "not_found", "There is no such session.")
    if len(matching) > 1:
        return error_page(409, "ambiguous", f"{len(matching)} sessions begin like this.")
    return matching[0]


def _forget(gateway: Gateway, asked: dict[str, Any]) -> Steps[Page]:
    key, consumer = asked.get("key"), asked.get("consumer")
    if key is not None:
        found = yield from _matching(gateway, str(key))
        if not isinstance(found, Listed):
            return found
        chosen = [found]
    elif consumer is not None or asked.get("all") is True:
        listed = yield from listed_steps(gateway, 1 << 30)
        chosen = [one for one in listed if consumer is None or one.space == SPACE + str(consumer)]
    else:
        raise BadRequest("Name a session, a consumer, or all.")
    for one in chosen:
        gateway.space(one.space, _ttl_s(gateway)).delete(one.key)
        gateway.space(_endpoints_of(one.space), _ttl_s(gateway)).delete(one.key)
        yield
    return 200, JSON, to_json({"forgotten": len(chosen)})


def _import(gateway: Gateway, asked: dict[str, Any]) -> Steps[Page]:
    """Store documents that have no session yet; with `dry_run`, only say what would be stored."""
    size, ttl_s, dry = int(gateway.current().config.sessions.size), _ttl_s(gateway), asked.get("dry_run") is True
    space = gateway.space(SPACE + str(asked.get("consumer", "")), ttl_s)
    skipped: dict[str, str] = {}
    stored = 0
    for key, document in _imported(asked):
        try:
            text = text_of(document, size)
        except ExchangeError as refused:
            skipped[key] = refused.message
            continue
        if dry:
            is_there = (yield from space.text_steps(key)) is not None
            reason = "a session with this id exists" if is_there else ""
        else:
            done = yield from space.swap_steps(key, None, text)
            reason = "" if done else space.lost(key) or "a session with this id exists"
        if reason:
            skipped[key] = reason
        else:
            stored += 1
        yield
    return 200, JSON, to_json({"stored": stored, "skipped": skipped})


def _imported(asked: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The digests and documents of an import. Raises BadRequest."""
    sessions = asked.get("sessions")
    if not isinstance(sessions, dict):
        raise BadRequest("`sessions` is missing.")
    for key, document in sessions.items():
        if len(key) != KEY_CHARS:
            raise BadRequest("A digest has another length.")
        yield key, document


def _members(body: bytes) -> dict[str, Any]:
    """The members of a body. Raises BadRequest."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequest("The body is not JSON.") from None
    if not isinstance(value, dict):
        raise BadRequest("The body is not an object.")
    return value


def _described(one: Listed) -> dict[str, object]:
    return {
        "id": one.key, "consumer": one.space.removeprefix(SPACE), "size_bytes": one.size_bytes,
        "expires_in_s": round(one.expires_in_s, 1),
    }


def _endpoints_of(space: str) -> str:
    return ENDPOINTS + space.removeprefix(SPACE)


def _ttl_s(gateway: Gateway) -> float:
    return float(gateway.current().config.sessions.ttl)
