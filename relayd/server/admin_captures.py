"""Captured exchanges for the admin application: begin a capture, list, show, delete and replay.

1. Only requests that may change state see anything of them: bodies are private.
2. A capture belongs to the request that began it: it ends when its client leaves.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from relayd import clock
from relayd.proxy.application import CompletedHandler, Responder
from relayd.proxy.capture import (
    ENDED,
    MAX_BODY_BYTES,
    MAX_BYTES,
    MAX_EXCHANGES,
    MAX_S,
    CaptureRefused,
    Captures,
    CaptureSettings,
    RunningCapture,
)
from relayd.proxy.captured import CapturedExchange
from relayd.proxy.exchange import Exchange
from relayd.proxy.gateway import Gateway
from relayd.proxy.replay import ReplayRefused, prepare
from relayd.proxy.respond import answer
from relayd.proxy.steps import Work
from relayd.server.admin_views import JSON, Page, error_page, to_json
from relayd.server.capture_document import document_steps, summary
from relayd.telemetry.record_filter import NAMED, RecordFilter
from relayd.wire.json_steps import Steps, write_steps

PATH = "/captures"
MAX_BODY = 64 * 1024
POSTS = {
    f"{PATH}/start": "Capture exchanges. The answer is a line for each, until the capture or its client ends.",
    f"{PATH}/replay": "Send a captured request again to an upstream. The answer is the exchange of the replay.",
    f"{PATH}/delete": "Delete a captured exchange, or all of them.",
}
GETS = {
    PATH: "The captured exchanges.",
    f"{PATH}/{{id}}": "A captured exchange with its heads and bodies. Keys and credentials are masked.",
}
BOUNDS: dict[str, tuple[float, float]] = {
    "for_s": (0.1, MAX_S), "exchanges": (1, MAX_EXCHANGES), "body_bytes": (0, MAX_BODY_BYTES), "bytes": (1, MAX_BYTES),
    "keep_s": (0.1, MAX_S),
}
_TEXT: dict[str, Any] = {"type": "string"}
_TEXTS: dict[str, Any] = {"type": "array", "items": _TEXT, "maxItems": 100}
# The schemas of the bodies of POSTS, as the functions below check them.
BODIES: dict[str, dict[str, Any]] = {
    f"{PATH}/start": {
        "type": "object", "additionalProperties": False,
        "properties": {
            **dict.fromkeys((*NAMED, "status"), _TEXTS), "errors": {"type": "boolean"}, "id": _TEXT,
            "slow_s": {"type": "number", "minimum": 0},
            **{name: {"type": "number", "minimum": least, "maximum": most} for name, (least, most) in BOUNDS.items()},
        },
    },
    f"{PATH}/replay": {
        "type": "object", "required": ["id"],
        "properties": {"id": _TEXT, "upstream": _TEXT, "model": _TEXT, "dry_run": {"type": "boolean"}},
    },
    f"{PATH}/delete": {
        "oneOf": [
            {"type": "object", "additionalProperties": False, "required": [name], "properties": {name: schema}}
            for name, schema in {"id": _TEXT, "all": {"const": True}}.items()
        ],
    },
}


def is_captures(path: str) -> bool:
    """True if a path of the admin application concerns captured exchanges."""
    return path == PATH or path.startswith(f"{PATH}/")


class BadRequest(Exception):
    """The body of a request cannot be used; the text says why."""


class CaptureRequest(CompletedHandler):
    """One request; it is answered once its body has been read. Owned by its exchange."""

    def __init__(self, captures: Captures, gateway: Gateway, path: str, consumer: str, responder: Responder) -> None:
        self._captures, self._gateway, self._path, self._consumer = captures, gateway, path, consumer
        self._responder: Responder | None = responder
        self._body = bytearray()
        self._work: Work | None = None
        self._stream: CaptureStream | None = None
        self._exchange: Exchange | None = None  # of a replay

    def feed(self, piece: bytes, last: bool) -> None:
        """Collect the body, and answer at its end."""
        if self._responder is None or self._work is not None or self._stream is not None or self._exchange is not None:
            return
        self._body += piece
        if len(self._body) > MAX_BODY:
            self._respond(error_page(413, "body_too_large", "The request body is too large."))
        elif last:
            try:
                self._answer()
            except BadRequest as bad:
                self._respond(error_page(400, "bad_request", str(bad)))
            except CaptureRefused as refused:
                self._respond(error_page(409, "not_possible", str(refused)))

    def _answer(self) -> None:
        captures, path = self._captures, self._path
        if path == PATH:
            self._send(list_steps(captures))
        elif path == f"{PATH}/start":
            self._start(settings_of(members(bytes(self._body))))
        elif path == f"{PATH}/replay":
            self._replay(members(bytes(self._body)))
        elif path == f"{PATH}/delete":
            self._respond(delete(captures, members(bytes(self._body))))
        else:
            found = one_of(captures, path.removeprefix(f"{PATH}/"))
            if isinstance(found, CapturedExchange):
                self._send(document_steps(found, clock.monotonic()))
            else:
                self._respond(found)

    def _start(self, settings: CaptureSettings) -> None:
        assert self._responder is not None
        self._stream = CaptureStream(self._captures, self._gateway, self._responder, self._consumer)
        try:
            self._stream.begin(settings)
        except CaptureRefused:
            self._stream = None
            raise

    def _replay(self, asked: dict[str, Any]) -> None:
        names = {name: asked.get(name, "") for name in ("id", "upstream", "model")}
        if wrong := [name for name, value in names.items() if not isinstance(value, str)]:
            raise BadRequest(f"`{wrong[0]}` is not a text.")
        found = one_of(self._captures, names["id"])
        if not isinstance(found, CapturedExchange):
            self._respond(found)
            return
        try:
            replayed = prepare(self._gateway.current(), found, names["upstream"], names["model"])
        except ReplayRefused as refused:
            self._respond(error_page(409, "not_possible", str(refused)))
            return
        if asked.get("dry_run") is True:
            self._respond((200, JSON, to_json({
                "id": found.id, "upstream": replayed.target.upstream.name, "model": replayed.target.model or "",
                "method": replayed.head.method.decode("latin-1"), "target": replayed.head.target.decode("latin-1"),
                "fields": [line.decode("latin-1") for line in replayed.head.lines],
                "body_bytes": len(replayed.body or b""),
            })))
            return
        self._exchange = self._captures.replay(replayed, found, self._on_replayed)

    def _on_replayed(self, captured: CapturedExchange | None) -> None:
        self._exchange = None
        if captured is None:
            self._respond(error_page(500, "internal", "The replay failed."))
        elif self._responder is None:  # the client has left
            captured.drop()
        else:
            self._send(document_steps(captured, clock.monotonic()), captured.drop)

    def _send(self, steps: Steps[bytes], then: Callable[[], None] = lambda: None) -> None:
        """Send the page that these steps make; `then` is called when they have ended or are cancelled."""
        pages: list[bytes] = []

        def run() -> Steps[None]:
            try:
                pages.append((yield from steps))
            finally:
                then()

        def done() -> None:
            self._respond((200, JSON, pages[0]))

        self._work = Work(run(), self._gateway.call_later, done)
        if self._work.turn():
            done()

    def _respond(self, page: Page) -> None:
        responder, self._responder = self._responder, None
        if responder is not None:
            status, content_type, body = page
            whole = answer(status, content_type, body, (("Cache-Control", "no-store"),))
            responder.head(whole.response)
            responder.end(whole.body)

    def unhold(self) -> None:
        """The client can receive more."""
        if self._stream is not None:
            self._stream.unhold()

    def close(self) -> None:
        """The client has left."""
        self._responder = None
        if self._work is not None:
            self._work.cancel()
        if self._exchange is not None:
            self._exchange.client_gone()
        if self._stream is not None:
            self._stream.close()


class CaptureStream:
    """The answer to `start`: one JSON object per line, `captured` for each exchange, and `capture_ended` at the end."""

    def __init__(self, captures: Captures, gateway: Gateway, responder: Responder, consumer: str) -> None:
        self._captures, self._gateway, self._responder, self._consumer = captures, gateway, responder, consumer
        self._lines: list[bytes] = []  # that wait for a slow client; bounded by the number of exchanges
        self._is_behind = self._has_ended = self._is_over = False
        self._running: RunningCapture | None = None

    def begin(self, settings: CaptureSettings) -> None:
        """Begin the capture. Raises CaptureRefused."""
        self._running = self._captures.start(settings, self._on_recorded, self._on_end, self._responder.is_superseded)
        whole = answer(200, "application/x-ndjson", b"", (("Cache-Control", "no-store"),))
        whole.response.length = None
        self._responder.head(whole.response)
        self._write({"event": "capture_started", "for_s": settings.for_s, "exchanges": settings.exchanges})
        by = self._consumer or "an operator"
        self._gateway.telemetry.journal.info(
            "capture_started", "Requests and responses are kept in memory.", by=by, seconds=settings.for_s,
            exchanges=settings.exchanges,
        )

    def _on_recorded(self, captured: CapturedExchange) -> None:
        self._write({"event": "captured", **summary(captured, clock.monotonic())})

    def _on_end(self, reason: str) -> None:
        recorded = 0 if self._running is None else self._running.recorded
        self._gateway.telemetry.journal.info("capture_ended", ENDED[reason].capitalize() + ".", exchanges=recorded)
        self._has_ended = True
        self._write({"event": "capture_ended", "reason": reason, "why": ENDED[reason], "exchanges": recorded})

    def _write(self, event: dict[str, object]) -> None:
        self._lines.append(to_json(event))
        self._flush()

    def _flush(self) -> None:
        if self._is_behind or self._is_over:
            return
        lines, self._lines = b"".join(self._lines), []
        if self._has_ended:
            self._is_over = True
            self._responder.end(lines)
        elif lines:
            self._is_behind = not self._responder.body(lines)

    def unhold(self) -> None:
        """The client has read what was written."""
        self._is_behind = False
        if self._lines or self._has_ended:
            self._flush()

    def close(self) -> None:
        """The client has left: the capture ends."""
        self._is_over = True
        if self._running is not None and not self._running.end_reason:
            self._captures.stop("client")


def list_steps(captures: Captures) -> Steps[bytes]:
    """The page of all captured exchanges."""
    now_s = clock.monotonic()
    summaries = [summary(one, now_s) for one in captures.exchanges()]
    return (yield from write_steps({**captures.describe(), "captures": summaries})) + b"\n"


def one_of(captures: Captures, prefix: str) -> CapturedExchange | Page:
    """The one captured exchange whose id begins like this, or the error."""
    found = captures.find(prefix)
    if not found:
        return error_page(404, "not_found", f"No captured exchange has the id {prefix[:128]}; it may have expired.")
    if len(found) > 1:
        return error_page(409, "ambiguous", f"The ids of {len(found)} captured exchanges begin like this.")
    return found[0]


def delete(captures: Captures, asked: dict[str, Any]) -> Page:
    """Delete what a request names. Raises BadRequest."""
    if len(asked) == 1 and asked.get("all") is True:
        chosen = list(captures.exchanges())
    elif len(asked) == 1 and isinstance(asked.get("id"), str):
        found = one_of(captures, asked["id"])
        if not isinstance(found, CapturedExchange):
            return found
        chosen = [found]
    else:
        raise BadRequest("Name a captured exchange, or all.")
    for one in chosen:
        captures.delete(one)
    return 200, JSON, to_json({"deleted": len(chosen)})


def members(body: bytes) -> dict[str, Any]:
    """The members of a body. Raises BadRequest."""
    try:
        value = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise BadRequest("The body is not JSON.") from None
    if not isinstance(value, dict):
        raise BadRequest("The body is not an object.")
    return value


def settings_of(asked: dict[str, Any]) -> CaptureSettings:
    """The settings of a capture. Raises BadRequest."""
    known = {*NAMED, *BOUNDS, "status", "errors", "id", "slow_s"}
    if unknown := sorted(set(asked) - known):
        raise BadRequest(f"Unknown: {', '.join(unknown)[:200]}.")
    slow_s, request_id = asked.get("slow_s"), asked.get("id", "")
    if slow_s is not None and (not isinstance(slow_s, (int, float)) or isinstance(slow_s, bool) or not slow_s >= 0):
        raise BadRequest("`slow_s` is not a number of seconds.")
    if not isinstance(request_id, str):
        raise BadRequest("`id` is not a text.")
    texts = {name: _texts(asked, name) for name in (*NAMED, "status")}
    chosen = RecordFilter(
        {name: texts[name] for name in NAMED}, texts["status"], slow_s, asked.get("errors") is True, request_id
    )
    defaults = CaptureSettings(chosen)
    numbers: dict[str, float] = {}
    for name, (least, most) in BOUNDS.items():
        value = asked.get(name, getattr(defaults, name))
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not least <= value <= most:
            raise BadRequest(f"`{name}` is not a number from {least:g} to {most:g}.")
        numbers[name] = value
    return CaptureSettings(
        chosen, numbers["for_s"], int(numbers["exchanges"]), int(numbers["body_bytes"]), int(numbers["bytes"]),
        numbers["keep_s"],
    )


def _texts(asked: dict[str, Any], name: str) -> tuple[str, ...]:
    value = asked.get(name, [])
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value) or len(value) > 100:
        raise BadRequest(f"`{name}` is not a list of texts.")
    return tuple(value)


