"""The short way of a request in a dialect whose bytes pass: one attempt at one endpoint, looked at in a copy.

1. A request takes it when nothing could come of a longer one but after a failure: its permits are free, its endpoint
   speaks its dialect, and nobody has to look for the first content of its stream.
2. As soon as anything unusual happens (an error, an answer that cannot be one, a break, a limit of time), a course
   takes over as if it had been there from the beginning, and everything is decided there.
"""

from __future__ import annotations

from relayd import clock
from relayd.errors import ExchangeError
from relayd.limits.ticket import retry_after
from relayd.plan.plan import PlannedRoute, Resilience, Target, merged_timeouts
from relayd.protocols.dialect import TapFormat
from relayd.protocols.include_usage import UsageChunkRemover
from relayd.protocols.tap import Tap, observed_in
from relayd.proxy.account import more_of, tell_model, tell_observed, tell_pace
from relayd.proxy.attempt import Attempt
from relayd.proxy.call import Call
from relayd.proxy.course import Course
from relayd.proxy.direct import take
from relayd.proxy.exchange import Exchange
from relayd.proxy.message import message_for
from relayd.upstream.spec import Timeouts
from relayd.upstream.transport.slot import Slot
from relayd.wire.response import ResponseHead


def passes(
    exchange: Exchange, route: PlannedRoute, resilience: Resilience, targets: tuple[Target, ...], call: Call
) -> bool:
    """Begin the passage of an exchange whose body is whole; False where it has to take the long way. What permits it
    has got by then it keeps. Raises ExchangeError."""
    target = targets[0]
    if not resilience.passes or len(targets) > 1 or not target.alone or call.crosses_dialects(target):
        return False
    if exchange.head.upgrade is not None or call.is_socket:
        return False
    if call.stream and target.upstream.retries.spec.attempts > 1:
        return False
    consumer = exchange.consumer
    if consumer and not take(exchange, exchange.plan.consumer_gates.get(consumer), None):
        return False
    if not take(exchange, resilience.gate, None) or not take(exchange, target.gate, target.upstream.has_room):
        return False
    Passage(exchange, route, target, call).begin()
    return True


class Passage:
    """The sink of the transfer, and what its exchange has instead of a course; ends with it."""

    __slots__ = (
        "_call", "_calm", "_coding", "_counts", "_exchange", "_first_s", "_last", "_remover", "_route", "_settled",
        "_tap", "_target", "_whole",
    )

    def __init__(self, exchange: Exchange, route: PlannedRoute, target: Target, call: Call) -> None:
        self._exchange, self._route, self._target, self._call = exchange, route, target, call
        self._settled = False  # whether the answer's head is one that passes
        self._counts, self._coding = False, ""
        self._whole = b""  # a small plain answer
        self._tap: Tap | None = None
        self._remover: UsageChunkRemover | None = None
        self._first_s = -1.0
        self._last = b""
        self._calm = False  # whether whole frames have passed so far, so that nobody holds anything back

    def begin(self) -> None:
        """Pick an endpoint and send the request there. Raises ExchangeError."""
        exchange, target = self._exchange, self._target
        upstream = target.upstream
        exchange.phase = "attempt"
        exchange.record.upstream = upstream.name
        exchange.course = self
        endpoint = upstream.pick()
        if endpoint is None:
            why, after_s = upstream.unavailable()
            raise ExchangeError("no_endpoint", why, (("Retry-After", retry_after(after_s)),))
        exchange.upstream, exchange.endpoint = upstream, endpoint
        wire, fields, body, _ = message_for(exchange, self._route, target, endpoint, None, self._call, self._call.body)
        exchange.attempt(endpoint, wire, fields, body, self)

    @property
    def _tap_format(self) -> TapFormat:
        found = self._call.tap_format
        assert found is not None
        return found

    # ---- the transport's side

    def on_progress(self, slot: Slot) -> None:
        """Bytes from the endpoint, or room for more of the request body."""
        exchange = self._exchange
        response = exchange.arrived(slot)
        if response is None:
            return
        if not self._settled and not self._settle(response):
            self._take_over(slot).on_progress(slot)
            return
        chunks, muted = slot.chunks, exchange.muted
        if chunks:
            if self._calm and not muted and len(chunks) == 1 and self._tap is not None and self._tap.skims(chunks[0]):
                self._last = chunks[0]
            else:
                self._look(slot)
        if not muted and not exchange.deliver_slot(slot):
            slot.hold = True

    def on_done(self, slot: Slot, errno: int, message: str) -> None:
        """The transfer has ended, well or not."""
        exchange = self._exchange
        if slot is not exchange.slot or exchange.over:
            return
        response = slot.response
        if errno or response is None or slot.bad or not (self._settled or self._settle(response)):
            self._take_over(slot).on_done(slot, errno, message)
            return
        if response.length is None and not response.chunked and response.media.is_stream:
            self._take_over(slot).on_done(slot, errno, message)  # only its words can tell whether it is whole
            return
        if slot.chunks:
            self._look(slot)
        if self._remover is not None and (rest := self._remover.end()):
            slot.chunks.append(rest)
        exchange.on_done(slot, 0, "")

    def on_broken(self) -> None:
        """A fault of relayd's own."""
        self._exchange.fail(ExchangeError("internal"))

    def _settle(self, response: ResponseHead) -> bool:
        """Whether this head is one that passes."""
        call = self._call
        if response.status >= 300:
            if response.status >= 400:
                return False
        else:
            media = response.media
            if call.translates and (response.length == 0 or (media.text and not (media.is_json or media.is_stream))):
                return False
            self._counts, self._coding = call.counts and call.tap_format is not None, response.coding
            if call.asks_usage and media.is_stream:
                self._remover = UsageChunkRemover()
                response.length = None  # it becomes shorter
        self._settled = True
        return True

    def _look(self, slot: Slot) -> None:
        """Count what is about to pass, and take out what only relayd asked for."""
        chunks = slot.chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        if self._counts:
            self._count(slot, data)
        if self._exchange.muted:
            chunks.clear()
            return
        self._calm = data.endswith(b"\n\n")
        if self._remover is not None:
            data = self._remover.feed(data)
            slot.chunks = [data] if data else []
        if data:
            self._last = data
            if self._first_s < 0:
                self._first_s = clock.monotonic()
                self._call.let_go()
                slot.forget_body()

    def _count(self, slot: Slot, data: bytes) -> None:
        """Keep a whole answer that came at once, to be read at the end; tap everything else."""
        if self._tap is None:
            response = slot.response
            if response is not None and response.length == len(data) and not self._coding:
                self._whole = data
                return
            self._tap = Tap(self._tap_format, self._coding)
        self._tap.feed(data)

    # ---- what is not usual

    def _take_over(self, slot: Slot | None) -> Attempt:
        """Make the course of this exchange; who is the sink of the attempt from now on."""
        exchange, call = self._exchange, self._call
        endpoint = exchange.endpoint
        assert endpoint is not None
        priority = exchange.plan.priorities.get(exchange.consumer or "", 0)
        course = Course(exchange, self._route, (self._target,), call, call.body, True, [], priority, None)
        exchange.course = course
        attempt = Attempt(exchange, course)
        if slot is not None:
            slot.sink = attempt
        course.take_over(endpoint, attempt)
        course.timeouts = self.timeouts
        if self._settled:
            if self._counts and self._tap is None:
                self._tap = Tap(self._tap_format, self._coding)
                self._tap.feed(self._whole)
            attempt.go_on(self._tap, self._remover)
            course.resume(self._first_s, self._last)
        return attempt

    # ---- the exchange's side

    @property
    def timeouts(self) -> Timeouts:
        """The limits of this attempt."""
        return merged_timeouts(self._route.config.timeouts, self._target.upstream.spec.timeouts)

    def check(self, now_s: float) -> None:
        """The sweep: nothing here waits for anything but the exchange's own limits."""

    def accepted(self) -> None:
        """An Upgrade never takes this way."""

    def attempt_failed(self, fault: ExchangeError) -> None:
        """A limit of time has run out."""
        self._take_over(self._exchange.slot)
        course = self._exchange.course
        assert course is not None
        course.attempt_failed(fault)

    def last_words(self, fault: ExchangeError) -> tuple[bytes, bool] | None:
        """How an answer that has begun says in its own dialect that it failed."""
        self._take_over(self._exchange.slot)
        course = self._exchange.course
        assert course is not None
        return course.last_words(fault)

    def leave(self) -> None:
        """The exchange is over: what was seen goes into its account."""
        exchange, call = self._exchange, self._call
        record = exchange.record
        if self._tap is not None:
            tell_observed(record, self._tap.observed, call)
        elif self._whole:
            tell_observed(record, observed_in(self._tap_format, self._whole), call)
        if call.stream and self._first_s >= 0:
            tell_pace(record, self._first_s)
        tell_model(more_of(record), call, self._target.model)
