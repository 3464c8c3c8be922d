"""The interface between the source of a response and the client's protocol.

The interface carries structure, never framed bytes: a response head, pieces of the body, the end. Every source (an
attempt, an error, the admin application) writes to it, independently of HTTP/1.1.

1. The writer owns the commit point: only `committed` decides if the client may still get another response.
2. The head is sent together with the data that follows it in the same turn: `head` buffers it until `body`, `flush` or
   `end`.
3. A response without `end` ends visibly incomplete (RFC 9112 8).
"""

from __future__ import annotations

import functools
from typing import Protocol

from relayd import clock
from relayd.access.cors import response_fields
from relayd.plan.plan import Plan, PlannedRoute
from relayd.proxy.downstream import Downstream
from relayd.proxy.response_head import CHUNKED, NONE, UNTIL_CLOSE, framing_of, interim_head, render_head, trailer_lines
from relayd.telemetry.outcome import Record
from relayd.wire.http1 import RequestHead
from relayd.wire.response import ResponseHead


@functools.lru_cache(maxsize=4096)
def chunk_start(size: int) -> bytes:
    """The line before a chunk of this size (RFC 9112 7.1)."""
    return b"%x\r\n" % size


class ResponseWriter(Protocol):
    """The writer of one exchange's response.

    `started`: the head of the final response was sent, so that an error cannot have its own status. `committed`:
    content was sent, so that no other attempt may follow. A keep-alive comment starts a response without committing it.
    The exchange sets `route`, `request_id` and `adds_cors` (add the route's CORS fields) when they become known.
    """

    started: bool
    committed: bool
    route: PlannedRoute | None
    request_id: bytes
    adds_cors: bool

    def interim(self, heads: list[ResponseHead]) -> None:
        """Send informational (1xx) heads."""

    def head(self, response: ResponseHead) -> None:
        """Set the head of the final response; once."""

    def comment(self, data: bytes) -> None:
        """Send a piece of the body without content. The head must be set."""

    def body(self, data: bytes) -> bool:
        """Send a piece of the body. Returns False if the client is slow: the source should pause."""

    def flush(self) -> bool:
        """Send a buffered head. Returns False if the client is slow."""

    def end(self, data: bytes = b"", trailers: list[bytes] | None = None) -> None:
        """Send the last piece of the body, which may be empty, and end the message."""

    def close(self) -> None:
        """The response is complete: reuse the connection, or close it normally."""

    def abort(self, explained: bool = False) -> None:
        """End an incomplete response so that it does not look complete. `explained`: its content reports the error."""

    def switch(self, head: bytes) -> None:
        """Send a 101 head; the connection is a tunnel from now on."""

    def raw(self, data: bytes) -> bool:
        """Send bytes of the tunnel. Returns False if the client is slow."""

    def buffered(self) -> int:
        """Bytes that are not sent to the client yet."""


class Http1Writer:
    """Writes to an HTTP/1.1 or HTTP/1.0 connection. Owned by its exchange; sets the response members of its record.
    `pending_head` is the rendered head until it is sent."""

    __slots__ = (
        "_down", "_framing", "_head", "_keep_alive", "_plan", "_record", "adds_cors", "committed", "pending_head",
        "request_id", "route", "started",
    )

    def __init__(self, down: Downstream, head: RequestHead, record: Record, plan: Plan) -> None:
        self._down, self._head, self._record, self._plan = down, head, record, plan
        self.route: PlannedRoute | None = None
        self.request_id = b""
        self.adds_cors = True
        self.started = self.committed = self._keep_alive = False
        self._framing = NONE
        self.pending_head = b""

    def interim(self, heads: list[ResponseHead]) -> None:
        """Send 1xx heads, but not to an HTTP/1.0 client (RFC 9110 15.2)."""
        if self._head.version == 11 and not self.started:
            self._down.send(b"".join([interim_head(one) for one in heads]))

    def head(self, response: ResponseHead) -> None:
        """Choose the framing, and buffer the head until the next piece."""
        head, record, down, route = self._head, self._record, self._down, self.route
        framing = self._framing = framing_of(response, head.method, head.version)
        keep = framing != UNTIL_CLOSE and down.reusable()
        self._keep_alive, self.started = keep, True
        record.status = response.status
        record.first_byte_s = clock.monotonic() - record.started
        cors = None
        if route is not None and route.cors is not None and self.adds_cors:
            origin = head.get(b"origin")
            cors = response_fields(route.cors, origin.decode("latin-1") if origin is not None else None)
        self.pending_head = render_head(
            response, framing, head.version, keep, route, self._plan.header_names, self.request_id,
            record.first_byte_s, cors,
        )

    def comment(self, data: bytes) -> None:
        """Like `body`, without committing."""
        self._down.send(self._frame(data))

    def body(self, data: bytes) -> bool:
        """Frame and send a piece of the body."""
        self.committed = True
        out = self._frame(data)
        return self._down.send(out) if out else True

    def flush(self) -> bool:
        """Send the buffered head."""
        self.committed = True
        pending, self.pending_head = self.pending_head, b""
        return self._down.send(pending) if pending else True

    def end(self, data: bytes = b"", trailers: list[bytes] | None = None) -> None:
        """Send the last piece and the end of the framing in one write."""
        self.committed = True
        out = self._frame(data)
        if self._framing == CHUNKED:
            if trailers:
                out += b"0\r\n" + trailer_lines(trailers) + b"\r\n"
            else:
                out += b"0\r\n\r\n"
        if out:
            self._down.send(out)

    def close(self) -> None:
        """Return the connection."""
        self._down.finished(self._keep_alive)

    def abort(self, explained: bool = False) -> None:
        """End an incomplete response. A body without framing needs a reset, which may lose the last bytes sent."""
        self._down.abort(self.started and self._framing == UNTIL_CLOSE and not explained)

    def switch(self, head: bytes) -> None:
        """Send a 101 head; `raw` bytes follow."""
        record = self._record
        record.status = 101
        record.first_byte_s = clock.monotonic() - record.started
        self.started = self.committed = True
        self._framing = UNTIL_CLOSE
        self._down.send(head)

    def raw(self, data: bytes) -> bool:
        """Send bytes of a tunnel. Returns False if the client is slow."""
        self._record.bytes_out += len(data)
        return self._down.send(data)

    def buffered(self) -> int:
        """Bytes that the connection has not sent yet."""
        return self._down.buffered()

    def _frame(self, data: bytes) -> bytes:
        head, self.pending_head = self.pending_head, b""
        framing = self._framing
        if not data or framing == NONE:
            return head
        size = len(data)
        self._record.bytes_out += size
        return b"".join((head, chunk_start(size), data, b"\r\n")) if framing == CHUNKED else head + data


class NullWriter:
    """Discards a response: of a mirrored request, and of an exchange that finishes without its client."""

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
