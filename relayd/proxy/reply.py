"""The client's half of an exchange: what it has been sent so far, and how the rest is framed for it."""

from __future__ import annotations

from typing import Any, Protocol

from relayd import clock
from relayd.access.cors import response_fields
from relayd.errors import ExchangeError
from relayd.limits.gate import Gate
from relayd.limits.ticket import Ticket
from relayd.plan.plan import Plan, PlannedRoute
from relayd.protocols._retry_after import retry_after_s
from relayd.proxy.collect import Collector
from relayd.proxy.downstream import Downstream
from relayd.proxy.incoming import CHUNKED, NONE, UNTIL_CLOSE, framing_of, head_of, interim_head, trailer_lines
from relayd.proxy.owner import Owner
from relayd.telemetry.outcome import Record
from relayd.upstream.endpoint import Endpoint
from relayd.upstream.spec import Timeouts
from relayd.upstream.transport.slot import Sink, Slot
from relayd.upstream.upstream import Upstream
from relayd.wire.http1 import RequestHead
from relayd.wire.response import ResponseHead


class Course(Protocol):
    """What an exchange needs that waits, tries again or translates (proxy/course.py); most have none."""

    @property
    def timeouts(self) -> Timeouts:
        """The limits of the attempt under way."""

    def check(self, now_s: float) -> None:
        """The sweep."""

    def accepted(self) -> None:
        """The endpoint has agreed to what was asked."""

    def attempt_failed(self, fault: ExchangeError) -> None:
        """A limit of time has run out for the attempt under way."""

    def last_words(self, fault: ExchangeError) -> tuple[bytes, bool] | None:
        """How an answer that has begun says in its own dialect that it failed, and whether that is a whole end."""

    def leave(self) -> None:
        """The exchange is over: give back what is held."""


class Rescue(Protocol):
    """Makes a course for an exchange that began without one (proxy/direct.py)."""

    def __call__(self, exchange: Any) -> Sink:
        """The sink that judges the attempt under way from now on."""


class UploadFilter(Protocol):
    """Changes a streamed request body on its way."""

    def feed(self, data: bytes, last: bool) -> bytes:
        """The bytes to send on. Raises ExchangeError."""


class Tunnel(Protocol):
    """The endpoint's side of an upgraded exchange (proxy/upgrade.py)."""

    def upload(self, data: bytes) -> None: ...
    def end_upload(self) -> bool: ...
    def unhold(self) -> None: ...
    def check(self, now: float, timeouts: Timeouts) -> None: ...
    def close(self) -> None: ...


class Reply:
    """The state of an exchange, and everything of it that writes to the client; Exchange is the only kind.

    `over` says that it has been accounted, `muted` that the client has left and the endpoint is let finish all the
    same.
    """

    __slots__ = (
        "_answered", "_cors", "_cors_muted", "_early", "_framing", "_head_sent", "_keep", "_last", "_paused_body",
        "_rest_s", "_sent_whole", "_streamed", "collector", "consumer", "course", "down", "endpoint",
        "form_model_bytes", "gateway", "head", "held", "muted", "over", "phase", "plan", "record", "request_id",
        "rescue", "route", "slot", "tunnel", "upload_filter", "upstream",
    )

    def __init__(self, gateway: Owner, plan: Plan, down: Downstream, head: RequestHead, started: float) -> None:
        self.gateway, self.plan, self.down, self.head = gateway, plan, down, head
        self.phase = "accept"
        self.request_id = b""
        self.route: PlannedRoute | None = None
        self.upstream: Upstream | None = None
        self.endpoint: Endpoint | None = None
        self.slot: Slot | None = None
        self.tunnel: Tunnel | None = None
        self.consumer: str | None = None
        self.course: Course | None = None
        self.rescue: Rescue | None = None  # who takes over where a direct attempt fails
        self.held: tuple[tuple[Gate, Ticket], ...] = ()  # permits, while there is no course to hold them
        self.collector: Collector | None = None
        self.upload_filter: UploadFilter | None = None
        self.form_model_bytes = 0
        self._rest_s: float | None = None
        self._early: list[bytes] | None = None
        self._framing = NONE
        self._head_sent = self._keep = self.over = self._paused_body = self.muted = self._streamed = False
        self._sent_whole = self._answered = self._cors_muted = False
        self._cors: list[tuple[str, str]] | None = None
        self._last = started
        record = self.record = Record()
        record.started, record.started_wall = started, clock.wall()
        record.generation = plan.generation
        record.listener, record.peer = down.listener, down.peer
        record.version = head.version

    # ---- what status shows

    def age_s(self) -> float:
        """Seconds since the request began."""
        return clock.monotonic() - self.record.started

    def buffered(self) -> int:
        """Bytes of this exchange that wait inside relayd, both ways."""
        slot = self.slot
        waiting = self.down.buffered()
        return waiting if slot is None else waiting + slot.insize + slot.queued

    @property
    def begun(self) -> bool:
        """Whether the client has been sent a head."""
        return self._head_sent

    def _interims(self, slot: Slot) -> bytes:
        interims, slot.interim = slot.interim or [], []
        if self.head.version != 11 or self._head_sent:
            return b""
        return b"".join([interim_head(one) for one in interims])

    def _begin(self, response: ResponseHead, slot: Slot | None) -> bytes:
        """The response head for the client; from here on there is no other answer."""
        head, record, down = self.head, self.record, self.down
        now = clock.monotonic()
        self._framing = framing_of(response, head.method, head.version)
        self._keep = self._framing != UNTIL_CLOSE and down.reusable()
        if not self._sent_whole and not down.body_complete():
            self._keep = False
        self._head_sent = True
        record.status = response.status
        record.first_byte_s = now - record.started
        if slot is not None:
            self.phase = "transfer"
            record.connect_s = slot.connect_time()
            if response.status in (429, 503):
                self._rest_s = retry_after_s({"retry-after": response.get(b"retry-after")})
            endpoint = self.endpoint
            if endpoint is not None and endpoint.loose and response.status < 400:
                assert self.upstream is not None
                self.upstream.answered(endpoint)  # a probe is settled by its head: what follows may last for hours
        route = self.route
        if route is not None and route.cors is not None and not self._cors_muted:
            origin = head.get(b"origin")
            self._cors = response_fields(route.cors, origin.decode("latin-1") if origin is not None else None)
        return head_of(
            response, self._framing, head.version, self._keep, route, self.plan.house, self.request_id,
            record.first_byte_s, self._cors,
        )

    def _framed(self, slot: Slot) -> bytes:
        chunks = slot.chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        slot.chunks = []
        if self._framing == NONE:
            return b""
        self.record.bytes_out += len(data)
        if self._framing == CHUNKED:
            return b"%x\r\n%b\r\n" % (len(data), data)
        return data

    def _last_chunk(self, slot: Slot) -> bytes:
        if slot.trailers and self.route is not None and self.route.trailers:
            return b"0\r\n" + trailer_lines(slot.trailers) + b"\r\n"
        return b"0\r\n\r\n"

    # ---- in pieces, for whoever judges or changes an answer before the client sees it

    def deliver(self, response: ResponseHead, slot: Slot | None, data: bytes) -> bool:
        """Bytes of the answer, behind its head if that was not sent yet; False when the client is behind."""
        out = self._written(response, slot, data)
        return self.down.send(out) if out else True

    def _written(self, response: ResponseHead, slot: Slot | None, data: bytes) -> bytes:
        """The bytes of a piece of the answer as they go to the client."""
        out = b"" if self._head_sent else self._begin(response, slot)
        if self.over or self.muted:
            return b""
        if data and self._framing != NONE:
            self.record.bytes_out += len(data)
            out += b"%x\r\n%b\r\n" % (len(data), data) if self._framing == CHUNKED else data
        return out

    def deliver_slot(self, slot: Slot) -> bool:
        """What the slot has brought, as it is."""
        out = self._interims(slot) if slot.interim else b""
        if slot.response is not None and not self._head_sent:
            out += self._begin(slot.response, slot)
        if slot.chunks:
            out += self._framed(slot)
        return self.down.send(out) if out and not self.muted else True

    def tunnelled(self, data: bytes) -> bool:
        """Bytes from the endpoint for the client; False when the client is behind."""
        self.record.bytes_out += len(data)
        return self.down.send(data)

    def plain_answer(self, response: ResponseHead, body: bytes) -> bool:
        """An upgrade was not agreed to: it stays HTTP. The head first, then pieces of the body."""
        out = b""
        if not self._head_sent:
            self.phase = "transfer"
            out = self._begin(response, None)
        if body and self._framing != NONE:
            self.record.bytes_out += len(body)
            out += b"%x\r\n%b\r\n" % (len(body), body) if self._framing == CHUNKED else body
        return self.down.send(out) if out else True

    def mute_cors(self) -> None:
        """The answer brings its own cross-origin fields."""
        self._cors_muted = True
