"""Where a response goes: the seam between what answers and the client's protocol.

Structure crosses this seam, never framed bytes: a response head, pieces of the body, the end. Whatever answers (an
attempt at an endpoint, an error, the admin application, a cached response) writes here and knows nothing of HTTP/1.1.

1. The writer owns the commit point. `committed` is the one answer to "may the client still get another response?".
2. A head leaves together with what follows it in the same turn: `head` keeps it until `body`, `flush` or `end`.
3. A response that does not end with `end` ends broken, never cleanly (RFC 9112 8).
"""

from __future__ import annotations

from typing import Protocol

from relayd import clock
from relayd.access.cors import response_fields
from relayd.plan.plan import Plan, PlannedRoute
from relayd.proxy.downstream import Downstream
from relayd.proxy.response_head import CHUNKED, NONE, UNTIL_CLOSE, framing_of, interim_head, render_head, trailer_lines
from relayd.telemetry.outcome import Record
from relayd.wire.http1 import RequestHead
from relayd.wire.response import ResponseHead


class ResponseWriter(Protocol):
    """One response of one exchange.

    `started`: the client has been sent the head of a final response, so that an error can no longer have a status of
    its own. `committed`: it has been sent content, so that no other attempt may replace this one. A keep-alive comment
    starts a response without committing it. `route`, `request_id` and `adds_cors` (the route's cross-origin fields are
    added) are set by the exchange as they become known.
    """

    started: bool
    committed: bool
    route: PlannedRoute | None
    request_id: bytes
    adds_cors: bool

    def interim(self, heads: list[ResponseHead]) -> None:
        """Informational (1xx) heads."""

    def head(self, response: ResponseHead) -> None:
        """The head of the final response; once."""

    def comment(self, data: bytes) -> None:
        """A piece of the body that carries no content; the head must have been given."""

    def body(self, data: bytes) -> bool:
        """A piece of the body; False when the client is behind and the source should pause."""

    def flush(self) -> bool:
        """Send a head that is still kept; False when the client is behind."""

    def end(self, data: bytes = b"", trailers: list[bytes] | None = None) -> None:
        """The last piece of the body, which may be empty, and the end of the message."""

    def close(self) -> None:
        """The response has ended: let the connection go on, or end it in good order."""

    def abort(self, explained: bool = False) -> None:
        """The response is incomplete: break it off so that it cannot look complete. `explained`: it says so itself."""

    def switch(self, head: bytes) -> None:
        """A 101 head; from now on the connection is a tunnel."""

    def raw(self, data: bytes) -> bool:
        """Bytes of the tunnel; False when the client is behind."""

    def buffered(self) -> int:
        """Bytes that wait for the client."""


class Http1Writer:
    """A response on an HTTP/1.1 or HTTP/1.0 connection. Owned by its exchange; fills in the response of its record."""

    __slots__ = (
        "_down", "_framing", "_head", "_keep_alive", "_pending_head", "_plan", "_record", "adds_cors", "committed",
        "request_id", "route", "started",
    )

    def __init__(self, down: Downstream, head: RequestHead, record: Record, plan: Plan) -> None:
        self._down, self._head, self._record, self._plan = down, head, record, plan
        self.route: PlannedRoute | None = None
        self.request_id = b""
        self.adds_cors = True
        self.started = self.committed = self._keep_alive = False
        self._framing = NONE
        self._pending_head = b""

    def interim(self, heads: list[ResponseHead]) -> None:
        """RFC 9110 15.2: an HTTP/1.0 client gets none."""
        if self._head.version == 11 and not self.started:
            self._down.send(b"".join([interim_head(one) for one in heads]))

    def head(self, response: ResponseHead) -> None:
        """Decide on the framing and keep the head for the next piece."""
        head, record, down, route = self._head, self._record, self._down, self.route
        framing = self._framing = framing_of(response, head.method, head.version)
        keep = framing != UNTIL_CLOSE and down.reusable() and down.body_complete()
        self._keep_alive, self.started = keep, True
        record.status = response.status
        record.first_byte_s = clock.monotonic() - record.started
        cors = None
        if route is not None and route.cors is not None and self.adds_cors:
            origin = head.get(b"origin")
            cors = response_fields(route.cors, origin.decode("latin-1") if origin is not None else None)
        self._pending_head = render_head(
            response, framing, head.version, keep, route, self._plan.header_names, self.request_id, record.first_byte_s, cors,
        )

    def comment(self, data: bytes) -> None:
        """As `body`, without committing."""
        self._down.send(self._frame(data))

    def body(self, data: bytes) -> bool:
        """Frame and send."""
        self.committed = True
        out = self._frame(data)
        return self._down.send(out) if out else True

    def flush(self) -> bool:
        """Send what is kept."""
        self.committed = True
        pending, self._pending_head = self._pending_head, b""
        return self._down.send(pending) if pending else True

    def end(self, data: bytes = b"", trailers: list[bytes] | None = None) -> None:
        """Frame the rest and the end in one piece."""
        self.committed = True
        out = self._frame(data) if data or self._pending_head else b""
        if self._framing == CHUNKED:
            if trailers and self.route is not None and self.route.trailers:
                out += b"0\r\n" + trailer_lines(trailers) + b"\r\n"
            else:
                out += b"0\r\n\r\n"
        if out:
            self._down.send(out)

    def close(self) -> None:
        """Hand the connection back."""
        self._down.finished(self._keep_alive)

    def abort(self, explained: bool = False) -> None:
        """A body that ends with its connection can only be broken by a reset, which may lose what was sent last."""
        self._down.abort(self.started and self._framing == UNTIL_CLOSE and not explained)

    def switch(self, head: bytes) -> None:
        """A 101 head; from now on `raw` bytes go both ways."""
        record = self._record
        record.status = 101
        record.first_byte_s = clock.monotonic() - record.started
        self.started = self.committed = True
        self._framing = UNTIL_CLOSE
        self._down.send(head)

    def raw(self, data: bytes) -> bool:
        """Bytes of a tunnel; False when the client is behind."""
        self._record.bytes_out += len(data)
        return self._down.send(data)

    def buffered(self) -> int:
        """Bytes that the connection has not sent yet."""
        return self._down.buffered()

    def _frame(self, data: bytes) -> bytes:
        out, self._pending_head = self._pending_head, b""
        if data and self._framing != NONE:
            self._record.bytes_out += len(data)
            out += b"%x\r\n%b\r\n" % (len(data), data) if self._framing == CHUNKED else data
        return out


class NullWriter:
    """Throws a response away: for a mirrored request, and for a client that has left an exchange that is to finish."""

    __slots__ = ("adds_cors", "committed", "request_id", "route", "started")

    def __init__(self) -> None:
        self.route: PlannedRoute | None = None
        self.request_id = b""
        self.adds_cors = False
        self.started = self.committed = False

    def interim(self, heads: list[ResponseHead]) -> None:
        """Nothing."""

    def head(self, response: ResponseHead) -> None:
        """Nothing is sent."""
        self.started = True

    def comment(self, data: bytes) -> None:
        """Nothing."""

    def body(self, data: bytes) -> bool:
        """Never behind."""
        self.committed = True
        return True

    def flush(self) -> bool:
        """Never behind."""
        self.committed = True
        return True

    def end(self, data: bytes = b"", trailers: list[bytes] | None = None) -> None:
        """Nothing."""
        self.committed = True

    def close(self) -> None:
        """Nothing."""

    def abort(self, explained: bool = False) -> None:
        """Nothing."""

    def switch(self, head: bytes) -> None:
        """Nothing."""

    def raw(self, data: bytes) -> bool:
        """Never behind."""
        return True

    def buffered(self) -> int:
        """Nothing waits."""
        return 0
