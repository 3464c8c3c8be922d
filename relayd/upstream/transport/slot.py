"""A slot: one easy handle with permanently bound callbacks, and the state of its current transfer.

Laws:
1. Callbacks record and return. They never call pycurl and never raise: pycurl answers either with a broken transfer
   or, before 7.46, with a crash.
2. A request body is read once: SEEKFUNCTION fails, so libcurl cannot send a request a second time.
3. Buffering for a client is bounded: one flush delivers about `turn` bytes in at most PIECES pieces, a slow client sets
   `hold`, and a sink with unfinished work sets `unfinished`. In these cases libcurl keeps the rest.
4. `gen` grows with every transfer; a late call with an old number is ignored.
"""

from __future__ import annotations

import collections
from typing import Any, Protocol

import pycurl

from relayd import clock
from relayd.errors import ExchangeError
from relayd.upstream.transport.faults import NO_RESOURCES, code_of, is_unprocessed
from relayd.upstream.transport.kernel_buffer import bound_new_connection, unacknowledged
from relayd.upstream.transport.names import Name, Route
from relayd.wire.key_filter import KeyFilter
from relayd.wire.response import BadResponse, ResponseHead, parse_response

TURN = 128 * 1024
SMALL = 1024
PARSED_TURN = 16 * 1024  # for sinks that parse the body
PIECES = 512
INTERIM_MAX = 32
TRAILER_BYTES, TRAILER_FIELDS = 8 * 1024, 32
FREE, ACTIVE, DONE = range(3)
SETOPT: Any = pycurl.Curl.setopt  # called with the handle first: pycurl looks up an attribute of a handle slowly
GETINFO: Any = pycurl.Curl.getinfo
_NO_HEAD = bytearray()  # of all transfers behind their head; a line of a trailer is in it only while it is handled
_WRITE_PAUSE: int = pycurl.WRITEFUNC_PAUSE
_READ_PAUSE: int = pycurl.READFUNC_PAUSE
_SEEK_FAIL: int = pycurl.SEEKFUNC_FAIL
_RECEIVED: int = getattr(pycurl, "SIZE_DOWNLOAD_T", pycurl.SIZE_DOWNLOAD)  # pycurl before 7.46 lacks SIZE_DOWNLOAD_T


class Sink(Protocol):
    """Receives the events of a transfer; called after libcurl has returned, never from inside it.

    One call does a bounded amount of work. A sink that has not processed all its input sets `slot.unfinished` and
    returns; the driver repeats the call in a later turn, until the sink clears the flag.
    """

    def on_progress(self, slot: Slot) -> None:
        """`interim`, `response` or `chunks` has new content, or the upload queue has capacity."""

    def on_done(self, slot: Slot, errno: int, message: str) -> None:
        """The transfer ended; errno 0 without `response` means a truncated head. The sink releases the slot."""

    def on_broken(self) -> None:
        """One of the calls above raised, and the transfer was cancelled: release everything that depends on it."""


class DriverPort(Protocol):
    """The part of the driver that a slot uses."""

    ready_slots: list[Slot]

    def resume(self, slot: Slot) -> None:
        """Resume a paused transfer."""

    def cancel(self, slot: Slot) -> None:
        """Cancel a transfer at once."""

    def reschedule(self, slot: Slot) -> None:
        """Call the sink again in a later turn."""


class PoolPort(Protocol):
    """The part of the pool that a slot uses."""

    options: list[tuple[int, object]]
    head_limit: int
    origin: bytes
    key_filter: KeyFilter | None
    http2: bool
    name: Name | None

    @property
    def only_http2(self) -> bool:
        """True if no connection to this origin can use HTTP/1.1."""

    def met_http1(self) -> None:
        """The origin answered in HTTP/1.1 although HTTP/2 was offered."""

    def release(self, slot: Slot) -> None:
        """Release a slot."""


class Slot:
    """One easy handle; owned by its pool, used by one exchange at a time."""

    __slots__ = (
        "body", "broken", "chunks", "connect_s", "curl", "driver", "ended", "fresh", "gen", "head",
        "head_limit", "hold", "insize", "interim", "kind", "length", "paused", "pool", "position", "protocol_error",
        "queue", "queued", "read_at", "read_paused", "ready", "rescheduled", "response", "route", "sink",
        "state", "target", "trailers", "turn", "unfinished", "upload_done",
    )

    def __init__(self, driver: DriverPort, pool: PoolPort, kind: str) -> None:
        self.driver, self.pool, self.kind, self.state = driver, pool, kind, FREE
        self.gen = self.fresh = 0
        self.length: int | None = -2  # the last value set on the handle
        self.target = b""  # likewise
        self.route: Route | None = None  # likewise
        self.broken = False
        self.head = _NO_HEAD  # received lines of a head that is not complete
        self.chunks: list[bytes] = []
        self.queue: collections.deque[bytes | memoryview] | None = None
        self.curl = curl = pycurl.Curl()
        for option, value in pool.options:
            curl.setopt(option, value)
        curl.setopt(pycurl.HEADERFUNCTION, self._on_header)
        curl.setopt(pycurl.WRITEFUNCTION, self._on_body)
        curl.setopt(pycurl.SOCKOPTFUNCTION, bound_new_connection)
        if kind == "HEAD":
            curl.setopt(pycurl.NOBODY, 1)
        elif kind == "GET":
            curl.setopt(pycurl.HTTPGET, 1)
        elif kind in ("POST", "+"):
            curl.setopt(pycurl.POST if kind == "POST" else pycurl.UPLOAD, 1)
            curl.setopt(pycurl.READFUNCTION, self._on_read)
            curl.setopt(pycurl.SEEKFUNCTION, self._on_seek)
        self.clear()

    def clear(self) -> None:
        """Clear the state of the transfer."""
        self.head = bytearray()
        if self.chunks:
            self.chunks = []
        self.interim: list[ResponseHead] | None = None
        self.trailers: list[bytes] | None = None
        self.response: ResponseHead | None = None
        self.sink: Sink | None = None
        self.body: bytes | None = None
        self.protocol_error = ""
        self.turn = TURN
        self.ended: tuple[int, str] | None = None  # errno and text of the end, until the sink has finished
        self.unfinished = self.rescheduled = False
        self.head_limit = self.pool.head_limit  # bytes that the heads may still have; -1 behind the final head
        self.insize = self.queued = self.position = 0
        self.read_at = self.connect_s = 0.0
        self.ready = self.paused = self.hold = self.read_paused = self.upload_done = False
        self.queue = None

    def close(self) -> None:
        """Close the handle, which releases its callbacks and so ends a reference cycle."""
        self.curl.close()

    # ---- libcurl's callbacks

    def _mark_ready(self) -> None:
        if not self.ready:
            self.ready = True
            self.driver.ready_slots.append(self)

    def _on_header(self, line: bytes) -> int | None:
        head = self.head
        head += line
        if len(line) > 2 and len(head) <= self.head_limit:
            return None
        return self._on_other_line(line)

    def _on_other_line(self, line: bytes) -> int | None:
        """The end of a head, a trailer field, a malformed line, or a line beyond the limit."""
        if self.response is not None:
            self.head.clear()
            return self._on_trailer(line)
        if len(self.head) > self.head_limit:
            self.protocol_error = "response head too large"
            return 0  # any length other than the line's: error 23, and the connection is closed
        return self._on_head() if line in (b"\r\n", b"\n") else None

    def _on_trailer(self, line: bytes) -> int | None:
        if line in (b"\r\n", b"\n"):
            return None
        if self.trailers is None:
            self.trailers = []
        keys = self.pool.key_filter
        if keys is None or (line := keys.line(line)):
            self.trailers.append(line)
        if len(self.trailers) > TRAILER_FIELDS or sum(map(len, self.trailers)) > TRAILER_BYTES:
            self.protocol_error = "trailer section too large"
            return 0
        return None

    def _on_head(self) -> int | None:
        head, pool = bytes(self.head), self.pool
        self.head = _NO_HEAD
        try:
            response = parse_response(head)
        except BadResponse as fault:
            self.protocol_error = str(fault)
            return 0
        if pool.http2 and not head.startswith(b"HTTP/2"):
            pool.met_http1()
        keys = pool.key_filter
        if keys is not None:
            keys.clean(response)
        if response.status == 101:  # upgrades use the tunnel, never a slot
            self.protocol_error = "101 without an Upgrade request"
            return 0
        if response.status >= 200:
            self.response, self.head_limit = response, -1
            if not self.ready:
                self.ready = True
                self.driver.ready_slots.append(self)
            return None
        self.head = bytearray()
        self.head_limit -= len(head)
        if response.status != 100:
            if self.interim is None:
                self.interim = []
            self.interim.append(response)
            self._mark_ready()
            if len(self.interim) > INTERIM_MAX:
                self.protocol_error = "too many interim heads"
                return 0
        return None

    def _on_body(self, data: bytes) -> int | None:
        chunks = self.chunks
        if self.hold or self.unfinished or (chunks and (self.insize > self.turn or len(chunks) >= PIECES)):
            self.paused = True
            self._mark_ready()
            return _WRITE_PAUSE  # libcurl keeps `data` and delivers it again
        chunks.append(data)
        self.insize += len(data)
        if not self.ready:
            self.ready = True
            self.driver.ready_slots.append(self)
        return None

    def _on_read(self, size: int) -> bytes | int:
        self.read_at = clock.monotonic()
        if self.body is not None:
            if self.position == 0 and len(self.body) <= size:
                self.position = len(self.body)
                return self.body
            data = self.body[self.position : self.position + size]
            self.position += len(data)
            return data
        if self.queue:
            piece = self.queue.popleft()
            if len(piece) > size:
                piece = memoryview(piece)  # the rest of a large piece is never copied
                self.queue.appendleft(piece[size:])
                piece = piece[:size]
            self.queued -= len(piece)
            self._mark_ready()
            return bytes(piece)
        if self.upload_done:
            return b""
        self.read_paused = True
        return _READ_PAUSE

    @staticmethod
    def _on_seek(offset: int, origin: int) -> int:
        return _SEEK_FAIL  # a body that libcurl has read is never sent twice: error 65

    # ---- for the exchange, outside callbacks

    def feed(self, data: bytes, last: bool = False) -> None:
        """Queue the next piece of a streamed upload; `last` ends the upload."""
        if data:
            queue = self.queue
            if queue is None:
                queue = self.queue = collections.deque()
            if queue and len(queue[-1]) < SMALL:  # many small pieces would cost much more memory than their bytes
                queue[-1] = bytes(queue[-1]) + data
            else:
                queue.append(data)
            self.queued += len(data)
        self.upload_done = last
        if self.read_paused:
            self.read_paused = False
            self.driver.resume(self)

    def forget_body(self) -> None:
        """The body will not be sent again: drop it if libcurl has read all of it."""
        if self.body is not None and self.position >= len(self.body):
            self.body, self.upload_done = None, True

    def unhold(self) -> None:
        """The client accepts more data: continue to deliver it."""
        self.hold = False
        if self.unfinished:
            self.driver.reschedule(self)
        elif self.paused:
            self.paused = False
            self.driver.resume(self)

    def connect_time(self) -> float:
        """Seconds until the connection was established; call after the transfer has ended or its response has begun."""
        return self.connect_s if self.state == DONE else float(GETINFO(self.curl, pycurl.CONNECT_TIME))

    def unacknowledged(self) -> int:
        """Bytes of the request that the endpoint's kernel has not acknowledged. 0 where that is not known: under HTTP/2
        a connection is shared."""
        descriptor = -1 if self.pool.http2 or self.state == DONE else int(GETINFO(self.curl, pycurl.LASTSOCKET))
        return unacknowledged(descriptor) if descriptor >= 0 else 0

    def received(self) -> int:
        """Bytes of the response body received so far."""
        return int(GETINFO(self.curl, _RECEIVED))

    def fault(self, errno: int, message: str) -> ExchangeError:
        """The error of this transfer, which has failed. `errno` and `message` are what the driver reports."""
        if self.protocol_error:
            return ExchangeError("upstream_malformed", self.protocol_error)
        if self.response is None and self.pool.only_http2 and is_unprocessed(errno, message):
            return ExchangeError("upstream_unprocessed", "GOAWAY or refused stream")
        code = code_of(errno, message) if errno else "upstream_closed"
        if self.response is not None and code == "upstream_closed":
            code = "upstream_cut"
        return ExchangeError(code, message if errno == NO_RESOURCES else f"curl {errno}: {message}")

    def reached(self) -> bool:
        """True if a connection was established, so that a part of the request may have been sent."""
        return self.state == DONE or float(GETINFO(self.curl, pycurl.PRETRANSFER_TIME)) > 0.0
