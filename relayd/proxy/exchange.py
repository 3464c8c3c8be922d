"""An exchange: one request and its response, from the head's acceptance to the account.

Laws:
1. It is accounted exactly once, in `_leave`, whatever ended it; permit, slot and place are given back in the same turn.
2. The first byte to the client is the commit point: before it a fault becomes an answer, after it a broken end, never
   a clean one (RFC 9112 8).
3. Nothing here waits: the client side calls `upload`, `on_drained`, `client_gone`; the transport calls `on_progress`
   and `on_done`; the sweep calls `check`.
"""

from __future__ import annotations

from relayd import clock
from relayd.access.cors import response_fields
from relayd.errors import KINDS, ExchangeError
from relayd.plan.plan import Plan, PlannedRoute
from relayd.proxy.downstream import Downstream
from relayd.proxy.incoming import CHUNKED, LENGTH, NONE, UNTIL_CLOSE, framing_of, head_of, interim_head, trailer_lines
from relayd.proxy.owner import Owner
from relayd.proxy.respond import Answer, error_answer
from relayd.proxy.upgrade import Upgrade
from relayd.telemetry.outcome import Record
from relayd.upstream.endpoint import Endpoint
from relayd.upstream.transport.faults import code_of
from relayd.upstream.transport.slot import Slot
from relayd.upstream.upstream import Upstream
from relayd.wire.http1 import RequestHead
from relayd.wire.response import ResponseHead

UPLOAD_HIGH = 128 * 1024
UPLOAD_LOW = 64 * 1024


class Exchange:
    """One exchange; owned by its client connection, known to the gateway while it lives."""

    __slots__ = (
        "_answered", "_cors", "_framing", "_head_sent", "_keep", "_last", "_left", "_muted", "_paused_body",
        "_sent_whole", "_silent", "_streamed", "down", "endpoint", "gateway", "head", "phase", "plan", "record",
        "request_id", "route", "slot", "tunnel", "upstream",
    )

    def __init__(self, gateway: Owner, plan: Plan, down: Downstream, head: RequestHead, started: float) -> None:
        self.gateway, self.plan, self.down, self.head = gateway, plan, down, head
        self.phase = "accept"
        self.request_id = b""
        self.route: PlannedRoute | None = None
        self.upstream: Upstream | None = None
        self.endpoint: Endpoint | None = None
        self.slot: Slot | None = None
        self.tunnel: Upgrade | None = None
        self._framing = NONE
        self._head_sent = self._keep = self._left = self._paused_body = self._silent = self._streamed = False
        self._sent_whole = self._answered = self._muted = False
        self._cors: list[tuple[str, str]] | None = None
        self._last = started
        record = self.record = Record()
        record.started, record.started_wall = started, clock.wall()
        record.generation = plan.generation
        record.listener, record.peer = down.listener, down.peer
        record.version = head.version
        gateway.exchanges.add(self)

    @property
    def over(self) -> bool:
        """Whether it has been accounted."""
        return self._left

    # ---- what status shows

    def age_s(self) -> float:
        """Seconds since the request began."""
        return clock.monotonic() - self.record.started

    def buffered(self) -> int:
        """Bytes of this exchange that wait inside relayd, both ways."""
        slot = self.slot
        waiting = self.down.buffered()
        return waiting if slot is None else waiting + slot.insize + slot.queued

    # ---- the attempt (called by the pipeline)

    def attempt(self, endpoint: Endpoint, target: bytes, fields: list[bytes], body: bytes | None) -> None:
        """Send the request to this endpoint. `body` is the whole body, None if there is none or it is streamed."""
        pool = endpoint.pool
        assert pool is not None
        self.phase = "attempt"
        self.endpoint = endpoint
        self.record.attempts += 1
        self.record.endpoint = endpoint.label
        head = self.head
        self._last = clock.monotonic()
        slot = self.slot = pool.take(head.method, head.has_body)
        if body is not None:
            self.record.bytes_in = len(body)
            length: int | None = len(body)
            self._sent_whole = True
        elif head.has_body:
            self._streamed = True
            length = -1 if head.length is None else head.length
        else:
            length = None
            self._sent_whole = True
        pool.start(slot, self, head.method, target, fields, length, body)

    def upgrade(self, endpoint: Endpoint, target: bytes, fields: list[bytes]) -> None:
        """Send an Upgrade request to this endpoint, over a connection of its own."""
        assert self.upstream is not None
        self.phase = "attempt"
        self.endpoint = endpoint
        self.record.attempts += 1
        self.record.endpoint = endpoint.label
        self._sent_whole = True
        self.tunnel = Upgrade(self, self.upstream.spec, endpoint, target, fields)

    def switch(self, head: bytes) -> None:
        """The endpoint has agreed: the client is told, and the two sides become a tunnel."""
        self.phase = self.record.room = "tunnel"
        self.record.status = 101
        self.record.first_byte_s = clock.monotonic() - self.record.started
        self._head_sent, self._framing = True, UNTIL_CLOSE
        self.down.send(head)
        if not self._left:
            self.down.start_tunnel()

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

    def complete(self) -> None:
        """The end of a tunnel, or of an answer to a refused upgrade."""
        if self._left:
            return
        if self._framing == CHUNKED:
            self.down.send(b"0\r\n\r\n")
        self.record.room = self.phase
        self.record.ended_by = "upstream"
        self._drop_slot()
        self._leave()
        self.down.finished(self._keep and self.phase != "tunnel")

    # ---- the client's side

    def upload(self, data: bytes, last: bool) -> None:
        """The next piece of a streamed request body."""
        if self._left:
            return
        self.record.bytes_in += len(data)
        if self.tunnel is not None:
            self.tunnel.upload(data)
            return
        limit = self.route.body_limit if self.route is not None else 0
        if limit and self.record.bytes_in > limit:
            self.fail(ExchangeError("body_too_large"))
            return
        slot = self.slot
        if slot is None or self._answered:
            return
        self._sent_whole = last
        slot.feed(data, last)
        if not self.over and not last and not self._paused_body and slot.queued > UPLOAD_HIGH:
            self._paused_body = True
            self.down.pause_body()

    def client_fault(self, fault: ExchangeError) -> None:
        """The request body cannot be read to its end: malformed, or not sent in time."""
        if not self._left:
            self.fail(fault)

    def client_gone(self, code: str = "client_gone") -> None:
        """The client left, or does not read any more."""
        if self._left or self._silent:
            return
        route = self.route
        if route is not None and route.finish and self._sent_whole and self.slot is not None and code == "client_gone":
            self._silent = True  # let the upstream finish; throw the rest away
            self.record.code, self.record.ended_by, self.record.room = code, "client", self.phase
            if not self._head_sent:
                self.record.status = 499
            self.slot.unhold()
            return
        record = self.record
        record.code, record.ended_by, record.room = code, "client", self.phase
        if not self._head_sent:
            record.status = 499
        self._drop_slot()
        self._leave()
        self.down.abort(False)

    def on_drained(self) -> None:
        """The client has taken what waited for it."""
        self._last = clock.monotonic()
        if self._left:
            return
        if self.slot is not None:
            self.slot.unhold()
        elif self.tunnel is not None:
            self.tunnel.unhold()

    # ---- the transport's side

    def on_progress(self, slot: Slot) -> None:
        """New bytes from the endpoint, or room for more of the request body."""
        if slot is not self.slot or self._left:
            return
        self._last = clock.monotonic()
        if self._paused_body and slot.queued < UPLOAD_LOW:
            self._paused_body = False
            self.down.resume_body()
            if self.over:
                return
        if self._silent:
            slot.chunks.clear()
            return
        out = b""
        if slot.interim:
            out = self._interims(slot)
        if slot.response is not None and not self._head_sent:
            out += self._begin(slot.response, slot)
        if slot.chunks:
            out += self._framed(slot)
        if out and not self.down.send(out):
            slot.hold = True

    def on_done(self, slot: Slot, errno: int, message: str) -> None:
        """The transfer has ended, well or not."""
        if slot is not self.slot or self._left:
            return
        if errno or slot.response is None or slot.bad:
            self._failed(slot, errno, message)
            return
        if self._silent:
            self._drop_slot()
            self._leave()
            return
        out = self._interims(slot) if slot.interim else b""
        if not self._head_sent:
            out += self._begin(slot.response, slot)
        if slot.chunks:
            out += self._framed(slot)
        if self._framing == CHUNKED:
            out += self._last_chunk(slot)
        self._drop_slot()
        record = self.record
        record.room, record.ended_by = "transfer", "upstream"
        if out:
            self.down.send(out)
        if not self._left:  # sending may have found the client gone
            self._leave()
            self.down.finished(self._keep)

    def on_broken(self) -> None:
        """A fault of relayd's own."""
        self.fail(ExchangeError("internal"))

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
        route = self.route
        if route is not None and route.cors is not None and not self._muted:
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

    def mute_cors(self) -> None:
        """The answer brings its own cross-origin fields."""
        self._muted = True

    # ---- endings

    def respond(self, answer: Answer, code: str = "") -> None:
        """Send a whole answer of relayd's own and end the exchange."""
        record = self.record
        record.room, record.code = self.phase, code
        if not code:
            record.ended_by = "relayd"
        if not self._head_sent:
            self._answered = True
            out = self._begin(answer.response, None)
            if self._framing != NONE:
                out += answer.body
                record.bytes_out = len(answer.body)
            self.down.send(out)
        if not self._left:
            self._leave()
            self.down.finished(self._keep)

    def fail(self, fault: ExchangeError) -> None:
        """End the exchange with an error: as an answer while nothing was sent, else as a broken end."""
        if self._left:
            return
        kind, record = fault.kind, self.record
        record.code, record.detail, record.room = kind.code, fault.detail, self.phase
        record.ended_by = kind.fault.value
        self._drop_slot()
        if self._silent:
            self._leave()
            return
        if self._head_sent:
            self._leave()
            self.down.abort(self._framing == UNTIL_CLOSE)
            return
        if kind.status == 499:
            record.status = 499
            self._leave()
            self.down.abort(False)
            return
        answer = error_answer(fault, self.route, self.head, self.request_id.decode("latin-1"))
        self._answered = True
        if kind.close:
            self.head.keep_alive = False
        out = self._begin(answer.response, None)
        if self._framing != NONE:
            out += answer.body
            record.bytes_out = len(answer.body)
        self.down.send(out)
        if not self._left:
            self._leave()
            self.down.finished(self._keep)

    def _failed(self, slot: Slot, errno: int, message: str) -> None:
        """The transfer broke: what has come is delivered, then the end is a broken one."""
        if slot.response is not None:
            self.phase = "transfer"
        if slot.bad:
            code = "upstream_malformed"
        elif errno == 0:
            code = "upstream_closed"
        else:
            code = code_of(errno)
        if self._head_sent and slot.chunks and not self._silent:
            self.down.send(self._framed(slot))
            if self._left:
                return
        if self._head_sent and KINDS[code].code == "upstream_closed":
            code = "upstream_cut"
        self.fail(ExchangeError(code, slot.bad or f"curl {errno}: {message}"))

    def check(self, now: float) -> None:
        """The sweep: end what waits longer than it may."""
        slot, route = self.slot, self.route
        if route is None or self._left:
            return
        timeouts = route.timeouts
        if self.tunnel is not None:
            self.tunnel.check(now, timeouts)
            return
        if slot is None:
            return
        if timeouts.total_s and now - self.record.started > timeouts.total_s:
            self.fail(ExchangeError("total_timeout", f"{timeouts.total_s:g} s"))
        elif slot.response is None:
            since = max(self._last, slot.read_at)
            if timeouts.first_byte_s and not slot.read_paused and now - since > timeouts.first_byte_s:
                self.fail(ExchangeError("first_byte_timeout", f"{timeouts.first_byte_s:g} s"))
        elif slot.hold:
            self._last = now  # the client is the slow side
        elif timeouts.idle_s and now - max(self._last, slot.read_at) > timeouts.idle_s:
            self.fail(ExchangeError("idle_timeout", f"{timeouts.idle_s:g} s"))

    def _drop_slot(self) -> None:
        slot, self.slot = self.slot, None
        if slot is not None:
            slot.driver.cancel(slot)
            slot.pool.give(slot)
        if self.tunnel is not None:
            self.tunnel.close()

    def _leave(self) -> None:
        """Account once, give everything back."""
        if self._left:
            return
        self._left = True
        gateway = self.gateway
        gateway.exchanges.discard(self)
        if self.upstream is not None and self.endpoint is not None:
            self.upstream.leave(self.endpoint)
        record = self.record
        record.total_s = clock.monotonic() - record.started
        gateway.account(record)


__all__ = ["LENGTH", "Exchange"]
