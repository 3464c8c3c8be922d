"""The upstream `sessions`: reads and changes the JSON document of the client's session.

1. A change replaces the document that it was made from, in one atomic step of the store. With If-Match it fails if the
   document is another one (412); without, it is repeated with the new one.
2. PUT and PATCH create a session if the client has none. PATCH is a merge patch (RFC 7396).
3. Only the path of the route itself is a document.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from typing import Any

from relayd.errors import ExchangeError
from relayd.lazy_regex import lazy_regex
from relayd.plan.plan import PlannedRoute
from relayd.proxy.client_session import ClientSession
from relayd.proxy.exchange import Exchange
from relayd.proxy.respond import WAIT, Answer, Wait, answer
from relayd.wire.json_scanner import MAX_DEPTH
from relayd.wire.json_steps import Steps, is_deeper_steps, parse_document_steps
from relayd.wire.path import normalise

JSON, MERGE_PATCH = "application/json", "application/merge-patch+json"
METHODS = "GET, HEAD, PUT, PATCH, DELETE"
MOST_TRIES = 50  # of a change without If-Match
_TAG = lazy_regex(rb'(W/)?("[^"]*")')


def answer_document(exchange: Exchange, resume: Callable[[Exchange], None]) -> Answer | Wait:
    """Answer a request for the document. With a result of WAIT, `resume` is called later. Raises ExchangeError."""
    session, route, head, body = exchange.client_session, exchange.route, exchange.head, exchange.body
    assert session is not None and route is not None
    if session.result is None:
        check_request(exchange, route)
        if session.is_uncertain:
            raise ExchangeError("store_unavailable")
        if head.method in (b"PUT", b"PATCH") and not body.whole:
            body.start_buffering(route.body_limit, partial(resume, exchange), exchange, head.length)
            return WAIT
        if not exchange.work(_result_steps(exchange, session), partial(resume, exchange)):
            return WAIT
    result = session.result
    if isinstance(result, ExchangeError):
        raise result
    assert isinstance(result, Answer)
    return result


def check_request(exchange: Exchange, route: PlannedRoute) -> None:
    """Check path, method and media type. Raises ExchangeError."""
    head, match = exchange.head, route.config.match
    if match.prefix is not None:
        rest = normalise(head.path)[len(match.prefix) :]
        if rest not in (b"", b"/"):
            raise ExchangeError("no_session", "not the path of the document", message="No document has this path.")
    if head.method.decode("latin-1") not in METHODS.split(", "):
        raise ExchangeError("method_not_allowed", headers=(("Allow", METHODS),))
    kind = (head.get(b"content-type") or b"").partition(b";")[0].strip().lower().decode("latin-1")
    if head.method == b"PATCH" and kind not in ("", JSON, MERGE_PATCH):
        raise ExchangeError("unsupported_media_type", kind[:64], (("Accept-Patch", MERGE_PATCH),))


def _result_steps(exchange: Exchange, session: ClientSession) -> Steps[None]:
    """Set the result of the session: an Answer or an ExchangeError, because steps must not raise."""
    head = exchange.head
    request = DocumentRequest(
        head.method, exchange.body.data or b"", b", ".join(head.get_all(b"if-match")),
        b", ".join(head.get_all(b"if-none-match")), int(exchange.plan.config.sessions.size),
    )
    was_new = session.is_new
    try:
        session.result = yield from request.answer_steps(session)
        if was_new and session.text is not None:
            session.record(exchange.record)
    except ExchangeError as refused:
        session.result = refused


class DocumentRequest:
    """One request for a document; owned by its exchange. `size` is the bound of a document in bytes."""

    __slots__ = ("_body", "_if_match", "_if_none_match", "_method", "_size")

    def __init__(self, method: bytes, body: bytes, if_match: bytes, if_none_match: bytes, size: int) -> None:
        self._method, self._body, self._size = method, body, size
        self._if_match, self._if_none_match = if_match, if_none_match

    def answer_steps(self, session: ClientSession) -> Steps[Answer]:
        """The response, in steps. Raises ExchangeError."""
        if self._method in (b"GET", b"HEAD"):
            return self._read(session)
        value = None if self._method == b"DELETE" else (yield from self._value())
        for _ in range(MOST_TRIES):
            self._check_preconditions(session.text)
            if self._method == b"DELETE" and session.text is None:
                raise ExchangeError("no_session")
            text = yield from self._new_text(session.text, value)
            if (yield from session.space.swap_steps(session.key, session.text, text)):
                return _changed(session, text)
            if session.space.lost(session.key):
                raise ExchangeError("session_not_stored", session.space.lost(session.key))
            was_there = session.text is not None
            session.text = yield from session.space.text_steps(session.key)
            if was_there and session.text is None:
                raise ExchangeError("no_session", "it was deleted meanwhile")  # its id is not used again
        raise ExchangeError("session_conflict")

    def _read(self, session: ClientSession) -> Answer:
        if session.text is None:
            raise ExchangeError("no_session")
        tag = tag_of(session.text)
        if self._if_match and not _matches(self._if_match, tag, weak=False):
            raise ExchangeError("precondition_failed")
        if self._if_none_match and _matches(self._if_none_match, tag, weak=True):
            return answer(304, "", b"", _fields(session, tag))
        return answer(200, JSON, session.text.encode("ascii"), _fields(session, tag))

    def _check_preconditions(self, text: str | None) -> None:
        """RFC 9110 13.2.2. Raises ExchangeError."""
        tag = b"" if text is None else tag_of(text)
        if self._if_match and not (tag and _matches(self._if_match, tag, weak=False)):
            raise ExchangeError("precondition_failed")
        if self._if_none_match and tag and _matches(self._if_none_match, tag, weak=True):
            raise ExchangeError("precondition_failed")

    def _value(self) -> Steps[Any]:
        """The value of the body. Raises ExchangeError."""
        try:
            value = yield from parse_document_steps(self._body)
        except ValueError:
            raise ExchangeError("bad_body", "no JSON", message="The request body is not JSON.") from None
        if (yield from is_deeper_steps(value, MAX_DEPTH)):
            raise ExchangeError("bad_body", "nested too deeply", message="The document is nested too deeply.")
        return value

    def _new_text(self, text: str | None, value: Any) -> Steps[str | None]:
        """The text of the changed document; None to delete it. Raises ExchangeError."""
        if self._method == b"DELETE":
            return None
        if self._method == b"PATCH":
            value = merged({} if text is None else (yield from parse_document_steps(text.encode("ascii"))), value)
        return text_of(value, self._size)


def text_of(value: Any, size: int) -> str:
    """A document as it is stored: compact JSON in ASCII of at most `size` bytes. Raises ExchangeError."""
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    except (ValueError, RecursionError):
        raise ExchangeError("bad_body", "number or depth", message="A number of the document is too large.") from None
    if len(text) > size:
        raise ExchangeError("body_too_large", f"{len(text)} bytes", message="The document is too large.")
    return text


def merged(target: Any, patch: Any) -> Any:
    """The result of a merge patch (RFC 7396 2)."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def tag_of(text: str) -> bytes:
    """The entity tag of a document."""
    return b'"' + hashlib.sha256(text.encode("ascii")).hexdigest()[:32].encode() + b'"'


def _matches(condition: bytes, tag: bytes, *, weak: bool) -> bool:
    """Whether a list of entity tags contains this one (RFC 9110 8.8.3.2)."""
    if condition.strip() == b"*":
        return True
    return any(found == tag and (weak or not is_weak) for is_weak, found in _TAG.findall(condition))


def _fields(session: ClientSession, tag: bytes) -> tuple[tuple[str, str], ...]:
    return (*session.fields(), ("ETag", tag.decode("ascii")), ("Cache-Control", "no-store"))


def _changed(session: ClientSession, text: str | None) -> Answer:
    """The response to a change that was made."""
    if text is None:
        session.forget_endpoints()
        return answer(204, "", b"", (*session.ending_fields(), ("Cache-Control", "no-store")))
    is_created = session.is_new
    if is_created:
        session.created()
    session.text = text
    return answer(201 if is_created else 200, JSON, text.encode("ascii"), _fields(session, tag_of(text)))
