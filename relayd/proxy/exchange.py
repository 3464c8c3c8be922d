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
from relayd.errors import KINDS, ExchangeError
from relayd.plan.plan import Plan
from relayd.proxy.collect import Collector
from relayd.proxy.downstream import Downstream
from relayd.proxy.incoming import CHUNKED, LENGTH, NONE, UNTIL_CLOSE
from relayd.proxy.owner import Owner
from relayd.proxy.reply import Reply
from relayd.proxy.respond import Answer, error_answer
from relayd.proxy.upgrade import Upgrade
from relayd.upstream.classify import GOOD, Verdict, classify
from relayd.upstream.endpoint import Endpoint
from relayd.upstream.transport.faults import code_of
from relayd.upstream.transport.slot import PARSED_TURN, Sink, Slot
from relayd.upstream.upstream import Upstream
from relayd.wire.http1 import RequestHead
from relayd.wire.response import ResponseHead

UPLOAD_HIGH = 128 * 1024
UPLOAD_LOW = 64 * 1024


class Exchange(Reply):
    """One exchange; owned by its client connection, known to the gateway while it lives."""

    __slots__ = ()

    def __init__(self, gateway: Owner, plan: Plan, down: Downstream, head: RequestHead, started: float) -> None:
        super().__init__(gateway, plan, down, head, started)
        gateway.exchanges.add(self)

    # ---- the attempt (called by the pipeline)

    def attempt(
        self, endpoint: Endpoint, target: bytes, fields: list[bytes], body: bytes | None, sink: Sink | None = None
    ) -> None:
        """Send the request to this endpoint. `body` is the whole body, None if there is none or it is streamed.

        `sink` stands in for the exchange where what comes back must be looked at before the client gets it.
        """
        pool = endpoint.pool
        assert pool is not None
        self.phase = "attempt"
        self.endpoint = endpoint
        self.record.attempts += 1
        self.record.endpoint = endpoint.label
        head = self.head
        self._last = clock.monotonic()
        slot = self.slot = pool.take(head.method, body is not None or head.has_body)
        if body is not None:
            length: int | None = len(body)
            self._sent_whole = True
        elif head.has_body:
            self._streamed = True
            length = -1 if head.length is None else head.length
        else:
            length = None
            self._sent_whole = True
        if sink is not None:
            slot.turn = PARSED_TURN
        pool.start(slot, sink or self, head.method, target, fields, length, body)
        if self._early is not None:
            early, self._early = self._early, None
            self._feed(slot, b"".join(early), self._sent_whole)

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
        if self.course is not None:
            self.course.accepted()
        elif self.upstream is not None and self.endpoint is not None:
            self.upstream.answered(self.endpoint)
        self.down.send(head)
        if not self.over:
            self.down.start_tunnel()

    def complete(self) -> None:
        """The end of a tunnel, or of an answer to a refused upgrade."""
        if self.over:
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
        if self.over:
            return
        self.record.bytes_in += len(data)
        if self.tunnel is not None:
            self.tunnel.upload(data)
            return
        limit = self.route.body_limit if self.route is not None else 0
        if limit and self.record.bytes_in > limit:
            self.fail(ExchangeError("body_too_large"))
            return
        if self.collector is not None:
            self._collect(self.collector, data, last)
            return
        if self._answered:
            return
        self._sent_whole = last
        if self.slot is not None:
            self._feed(self.slot, data, last)
        elif self.course is not None:  # it waits for its turn: what comes meanwhile waits here
            self._early = [*(self._early or ()), data]
            if not self._paused_body:
                self._paused_body = True
                self.down.pause_body()

    def collect(self, collector: Collector) -> None:
        """Gather the body before going on."""
        self.collector = collector

    def _collect(self, collector: Collector, data: bytes, last: bool) -> None:
        try:
            if collector.take(data, last):
                self.collector = None
                self._sent_whole = last
                collector.finish(last)
        except ExchangeError as refused:
            self.collector = None
            self.fail(refused)

    def withhold(self, data: bytes) -> None:
        """Pieces of the body that were read before the attempt began, and go first."""
        self._early = [data]

    def _feed(self, slot: Slot, data: bytes, last: bool) -> None:
        if self.upload_filter is not None:
            try:
                data = self.upload_filter.feed(data, last)
            except ExchangeError as refused:
                self.fail(refused)
                return
        slot.feed(data, last)
        if not self.over and not last and not self._paused_body and slot.queued > UPLOAD_HIGH:
            self._paused_body = True
            self.down.pause_body()

    def client_fault(self, fault: ExchangeError) -> None:
        """The request body cannot be read to its end: malformed, or not sent in time."""
        if not self.over:
            self.fail(fault)

    def client_gone(self, code: str = "client_gone") -> None:
        """The client left, or does not read any more."""
        if self.over or self.muted:
            return
        route = self.route
        if route is not None and route.finish and self._sent_whole and self.slot is not None and code == "client_gone":
            self.muted = True  # let the upstream finish; throw the rest away
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
        if self.over:
            return
        if self.slot is not None:
            self._moved(self.slot)
            self.slot.unhold()
        elif self.tunnel is not None:
            self.tunnel.unhold()

    # ---- the transport's side

    def on_progress(self, slot: Slot) -> None:
        """New bytes from the endpoint, or room for more of the request body."""
        if slot is not self.slot or self.over:
            return
        if not self.touch(slot):
            return
        if self.muted:
            slot.chunks.clear()
            return
        if not self._head_sent and slot.response is not None:
            if self.rescue is not None and slot.response.status >= 400:
                self.rescue(self).on_progress(slot)
                return
            out = self._interims(slot) if slot.interim else b""
            out += self._begin(slot.response, slot)
            slot.forget_body()
        else:
            out = self._interims(slot) if slot.interim else b""
        if slot.chunks:
            out += self._framed(slot)
        if out and not self.down.send(out):
            slot.hold = True

    def touch(self, slot: Slot) -> bool:
        """Something has moved; False when the exchange ended by it."""
        self._moved(slot)
        if self._paused_body and slot.queued < UPLOAD_LOW:
            self._paused_body = False
            self.down.resume_body()
        return not self.over

    def _moved(self, slot: Slot) -> None:
        """Silence counts from now on; before the final head it does not: interim heads must not extend first_byte."""
        if slot.response is not None:
            self._last = clock.monotonic()

    def arrived(self, slot: Slot) -> ResponseHead | None:
        """For who judges an answer: its head, as soon as it is there; interim heads go on to the client."""
        if slot is not self.slot or self.over or not self.touch(slot):
            return None
        response = slot.response
        if response is None and slot.interim and not self._head_sent and not self.muted:
            self.deliver_slot(slot)
        return response

    def on_done(self, slot: Slot, errno: int, message: str) -> None:
        """The transfer has ended, well or not."""
        if slot is not self.slot or self.over:
            return
        if self.rescue is not None and not self._head_sent and not self.muted:
            response = slot.response
            if errno or response is None or slot.bad or response.status >= 400:
                self.rescue(self).on_done(slot, errno, message)
                return
        if errno or slot.response is None or slot.bad:
            self._failed(slot, errno, message)
            return
        if self.muted:
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
        self._completed(out)

    def _completed(self, out: bytes) -> None:
        """The last bytes of an answer that is whole."""
        record = self.record
        record.room, record.ended_by = "transfer", "upstream"
        if out:
            self.down.send(out)
        if not self.over:  # sending may have found the client gone
            self._leave()
            self.down.finished(self._keep)

    def on_broken(self) -> None:
        """A fault of relayd's own."""
        self.fail(ExchangeError("internal"))

    # ---- for a course, whose attempts are judged before the client sees them

    def deliver_last(self, response: ResponseHead, slot: Slot | None, data: bytes) -> None:
        """The rest of the answer, and the end of its framing."""
        self.finish(out=self._written(response, slot, data))

    def finish(self, trailer_slot: Slot | None = None, out: bytes = b"") -> None:
        """The delivered answer is whole; `out` is what of it was not sent yet."""
        silent = self.muted
        if self._framing == CHUNKED and not silent:
            out += b"0\r\n\r\n" if trailer_slot is None else self._last_chunk(trailer_slot)
        self._drop_slot()
        if silent:
            self._leave()
        else:
            self._completed(out)

    def take_back(self) -> list[bytes] | None:
        """End the attempt under way. The pieces of a streamed body that it had, if the endpoint has seen none."""
        slot = self.slot
        unseen: list[bytes] | None = None
        if slot is not None and self._streamed and not slot.read_at:
            unseen = list(slot.queue or ())
        self._drop_slot()
        return unseen

    # ---- endings

    def respond(self, answer: Answer, code: str = "") -> None:
        """Send a whole answer of relayd's own and end the exchange."""
        record = self.record
        record.room, record.code = self.phase, code
        record.ended_by = KINDS[code].fault.value if code else "relayd"
        if not self._head_sent:
            self._answered = True
            out = self._begin(answer.response, None)
            if self._framing != NONE:
                out += answer.body
                record.bytes_out = len(answer.body)
            self.down.send(out)
        if not self.over:
            self._leave()
            self.down.finished(self._keep)

    def fail(self, fault: ExchangeError) -> None:
        """End the exchange with an error: as an answer while nothing was sent, else as a broken end."""
        if self.over:
            return
        kind, record = fault.kind, self.record
        record.code, record.detail, record.room = kind.code, fault.detail, self.phase
        record.ended_by = kind.fault.value
        self._drop_slot()
        if self.muted:
            self._leave()
            return
        if self._head_sent:
            words = None if self.course is None else self.course.last_words(fault)
            if words is not None:
                self._say(*words)
                return
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
        if not self.over:
            self._leave()
            self.down.finished(self._keep)

    def _say(self, words: bytes, whole: bool) -> None:
        """A begun answer ends with an error in its own dialect; `whole` where readers take that for an end."""
        self.record.bytes_out += len(words)
        chunked = self._framing == CHUNKED
        out = b"%x\r\n%b\r\n" % (len(words), words) if chunked and words else words
        if whole and chunked:
            out += b"0\r\n\r\n"
        if out:
            self.down.send(out)
        if self.over:
            return
        self._leave()
        if whole:
            self.down.finished(self._keep)
        else:
            self.down.abort(False)

    def _verdict(self, upstream: Upstream, code: str, status: int) -> Verdict:
        """Whom it is about that this did not go well; the status is the endpoint's only where its head has come."""
        return classify(
            code, status if self.record.connect_s >= 0 else 0, own_key=upstream.spec.auth is not None,
            rest_s=self._rest_s, client_key=self.route is not None and self.route.pass_client_key,
        )

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
        if self._head_sent and slot.chunks and not self.muted:
            self.down.send(self._framed(slot))
            if self.over:
                return
        if self._head_sent and KINDS[code].code == "upstream_closed":
            code = "upstream_cut"
        self.fail(ExchangeError(code, slot.bad or f"curl {errno}: {message}"))

    def check(self, now: float) -> None:
        """The sweep: end what waits longer than it may."""
        slot, route = self.slot, self.route
        if route is None or self.over:
            return
        timeouts = route.timeouts if self.course is None else self.course.timeouts
        if self.tunnel is not None:
            self.tunnel.check(now, timeouts)
            return
        if timeouts.total_s and now - self.record.started > timeouts.total_s:
            if slot is not None or self.course is not None:
                self.fail(ExchangeError("total_timeout", f"{timeouts.total_s:g} s"))
            return
        if self.course is not None:
            self.course.check(now)
        if slot is None or slot is not self.slot:
            return
        if slot.response is None:
            since = max(self._last, slot.read_at)
            if timeouts.first_byte_s and not slot.read_paused and now - since > timeouts.first_byte_s:
                self._out_of_time(ExchangeError("first_byte_timeout", f"{timeouts.first_byte_s:g} s"))
        elif slot.hold:
            self._last = now  # the client is the slow side
        elif timeouts.idle_s and now - max(self._last, slot.read_at) > timeouts.idle_s:
            self._out_of_time(ExchangeError("idle_timeout", f"{timeouts.idle_s:g} s"))

    def _out_of_time(self, fault: ExchangeError) -> None:
        if self.rescue is not None and self.course is None and not self._head_sent and not self.muted:
            self.rescue(self)
        if self.course is not None and not self.muted:
            self.course.attempt_failed(fault)
        else:
            self.fail(fault)

    def _drop_slot(self) -> None:
        slot, self.slot = self.slot, None
        if slot is not None:
            slot.driver.cancel(slot)
            slot.pool.give(slot)
        if self.tunnel is not None:
            self.tunnel.close()

    def _leave(self) -> None:
        """Account once, give everything back."""
        if self.over:
            return
        self.over = True
        gateway = self.gateway
        gateway.exchanges.discard(self)
        if self.course is not None:
            self.course.leave()
            self.course = None  # it has the exchange: a ring, which would wait for the collector
        for gate, ticket in self.held:
            gate.leave(ticket)
        if self.upstream is not None and self.endpoint is not None:
            code, status = self.record.code, self.record.status
            verdict = GOOD if not code and status < 400 else self._verdict(self.upstream, code, status)
            self.upstream.report(self.endpoint, verdict, None, self.upstream.spec.auth)
            self.upstream.leave(self.endpoint)
        record = self.record
        record.total_s = clock.monotonic() - record.started
        gateway.account(record)


__all__ = ["LENGTH", "Exchange"]
