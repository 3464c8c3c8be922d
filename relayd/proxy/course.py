"""The course of one exchange that waits for room, may be tried more than once, or is translated.

    admit (consumer, route, upstream) -> attempt -> judged: the answer | again | another upstream | the last error

Laws:
1. Permits and places are held from admission to the last byte, and given back in the turn in which the exchange ends.
2. There is never more than one attempt under way; the one before it has ended, and its endpoint was told how.
3. Nothing is tried again once content of an attempt was shown to the client, and a request of which an endpoint may
   have read something is sent again only where the operator calls it idempotent, or the endpoint itself refused it.
"""

from __future__ import annotations

from collections.abc import Callable

from relayd import clock
from relayd.errors import ExchangeError
from relayd.limits.gate import Gate
from relayd.limits.ticket import WAITING, Ticket, retry_after
from relayd.limits.ticket import Refused as NoRoom
from relayd.plan.plan import PlannedRoute, Target, merged_timeouts
from relayd.protocols.canon import Failure
from relayd.protocols.dialect import Refused
from relayd.proxy.account import more_of, tell_model, tell_observed, tell_pace, tell_translated
from relayd.proxy.attempt import Attempt, stream_head
from relayd.proxy.call import Call, FormFilter, failure_answer, refused_answer
from relayd.proxy.exchange import Exchange
from relayd.proxy.judgement import Judgement
from relayd.proxy.message import message_for
from relayd.proxy.verdict import (
    Outcome,
    error_of,
    field_of,
    key_refused,
    room_refused,
)
from relayd.upstream.classify import Blame
from relayd.upstream.endpoint import Endpoint
from relayd.upstream.fallback import class_of, following
from relayd.upstream.hint import Hint
from relayd.upstream.retry import Circumstances
from relayd.wire.response import ResponseHead

KEEPALIVE = b": keep-alive\n\n"
REFUSED_UNREAD = (401, 402, 403, 429)
Failed = tuple[ExchangeError, ResponseHead | None, bytes, Failure | None]


class Course(Judgement):
    """Owned by its exchange; ends with it."""

    __slots__ = (
        "_attempt", "_boundary", "_failure", "_first_said_s", "_gates", "_held", "_hint", "_last", "_per_attempt_s",
        "_priority", "_queue", "_route", "_said_s", "_timer", "_trail", "_waiting_s", "timeouts",
    )

    def __init__(
        self, exchange: Exchange, route: PlannedRoute, targets: tuple[Target, ...], call: Call | None,
        body: bytes | None, whole: bool, gates: list[Gate], priority: int, key: int | None,
    ) -> None:
        """`targets` in the order in which they are tried; `gates` are those before the first target's own.

        `key` is what consistent_hash chooses by.
        """
        super().__init__(exchange, targets, call, body, whole)
        self._route = route
        self._gates, self._priority = gates, priority
        self._held, exchange.held = list(exchange.held), ()
        self._hint = Hint(key)
        self._trail: list[str] = []
        self._queue = ""  # what X-Relayd-Queue says of the last queue met, where the route tells
        self._timer: Callable[[], None] | None = None
        self._attempt: Attempt | None = None
        self._failure: Failure | None = None
        self._last: Failed | None = None
        self._waiting_s = self._first_said_s = -1.0
        self._said_s = clock.monotonic()
        self._boundary = True
        self.timeouts = route.timeouts
        self._per_attempt_s = 0.0

    def take_over(self, endpoint: Endpoint, attempt: Attempt) -> None:
        """Go on with an attempt that was made without a course."""
        upstream = self.target.upstream
        self._tries, self._attempt, self._auth = 1, attempt, upstream.spec.auth
        self._hint.tried.append(endpoint)
        self._hint.permit = endpoint.loose.pop() if endpoint.loose else 0

    def resume(self, first_said_s: float, last_said: bytes) -> None:
        """Of an answer that was passing already: when the client first got something of it, and what it got last."""
        if last_said:
            self.said(last_said)
            self._first_said_s = first_said_s

    # ---- admit

    def begin(self) -> None:
        """Enter the gates, then attempt. Raises ExchangeError."""
        self._to_target(0)

    def _to_target(self, place: int) -> None:
        self._at, self._tries = place, 0
        target = self.target
        self.timeouts = merged_timeouts(self._route.config.timeouts, target.upstream.spec.timeouts)
        self._per_attempt_s = target.upstream.retries.spec.per_attempt_s
        self._exchange.record.upstream = target.upstream.name
        if target.gate is not None:
            self._gates.append(target.gate)
        self._admit()

    def _admit(self) -> None:
        exchange = self._exchange
        exchange.phase = "admit"
        while self._gates:
            gate = self._gates.pop(0)
            room = self.target.upstream.has_room if gate is self.target.gate else None
            try:
                ticket = gate.enter(
                    exchange.consumer or exchange.down.peer, self._priority, self._deadline_s(),
                    self._granted, self._turned_away, room,
                )
            except NoRoom as refused:
                if self._route.config.tells_queue:
                    self._queue = f"depth={gate.depth}"
                self._no_room(refused.reason, refused.retry_after_s)
                return
            self._held.append((gate, ticket))
            if ticket.state == WAITING:
                self._waiting_s = clock.monotonic()
                exchange.phase = "queue"
                if self._route.config.tells_queue:
                    self._queue = f"place={gate.place(ticket)}, depth={gate.depth}"
                return
        self._go()

    def _deadline_s(self) -> float | None:
        total_s = self.timeouts.total_s
        return self._exchange.record.started + total_s if total_s else None

    def _granted(self, ticket: Ticket) -> None:
        """The place in the queue has become a permit."""
        self._waited()
        self._step(self._admit)

    def _turned_away(self, ticket: Ticket, reason: str, retry_after_s: float) -> None:
        """Waited too long, or gave way to a higher priority."""
        self._waited()
        self._step(lambda: self._no_room(reason, retry_after_s))

    def _waited(self) -> None:
        if self._waiting_s >= 0:
            self._exchange.record.queue_s += clock.monotonic() - self._waiting_s
            self._waiting_s = -1.0

    def _step(self, what: Callable[[], None]) -> None:
        """Go on from a callback; what is refused there becomes the answer, as it would have in the pipeline."""
        if self._exchange.over:
            return
        try:
            what()
        except ExchangeError as refused:  # the rescue door of the path, once more
            self._exchange.fail(refused)

    def _no_room(self, reason: str, retry_after_s: float) -> None:
        at_upstream = not self._gates and self.target.gate is not None
        self._trail.append(f"{self.target.upstream.name} {reason}")
        if at_upstream and self._fall_back("overloaded"):
            return
        raise room_refused(reason, retry_after_s, at_upstream=at_upstream, fields=self._queue_fields())

    # ---- attempt

    def _go(self) -> None:
        """Pick an endpoint and send the request there."""
        exchange, target = self._exchange, self.target
        self._timer = None
        exchange.phase = "attempt"
        upstream = target.upstream
        endpoint = upstream.pick(self._hint)
        if endpoint is None:
            self._trail.append(f"{upstream.name} no_endpoint")
            if not self._fall_back("unavailable"):
                if self._last is not None:
                    self._give_up(*self._last)
                    return
                why, after_s = upstream.unavailable()
                raise ExchangeError("no_endpoint", why, (("Retry-After", retry_after(after_s)),))
            return
        exchange.upstream, exchange.endpoint = upstream, endpoint
        self._tries += 1
        auth = self._auth = upstream.key()
        self._request = None
        try:
            wire, fields, body, self._request = message_for(
                exchange, self._route, target, endpoint, auth, self._call, self.body if self.whole else None
            )
        except Refused as refused:
            self._leave_endpoint(None)
            exchange.respond(refused_answer(self._route, refused, exchange.request_id.decode()), "bad_body")
            return
        if not self.whole and self.body:
            exchange.withhold(self.body)
            self.body = None
            if self._call is not None and target.model is not None and target.model != self._call.model:
                exchange.upload_filter = FormFilter(exchange.head, target.model)
                if exchange.head.length is not None:
                    exchange.head.length += len(target.model.encode()) - exchange.form_model_bytes
        if exchange.head.upgrade is not None and self._route.upgrade and not exchange.head.has_body:
            exchange.upgrade(endpoint, wire, fields)
            return
        attempt = self._attempt = Attempt(exchange, self)
        exchange.attempt(endpoint, wire, fields, body, attempt)

    # ---- told by the attempt

    def accepted(self) -> None:
        """A sign of life of the endpoint."""
        endpoint, upstream = self._exchange.endpoint, self._exchange.upstream
        if endpoint is not None and upstream is not None:
            upstream.answered(endpoint, self._hint)

    def committed(self) -> None:
        """There will be no other attempt: what one would need is let go."""
        self.body = self._request = None
        if self._call is not None:
            self._call.let_go()
        if self._exchange.slot is not None:
            self._exchange.slot.forget_body()

    def mark(self, head: ResponseHead) -> None:
        """Which queue was met and which endpoints were tried, where the route tells."""
        self._mark_queue(head)
        resilience, endpoint = self._route.resilience, self._exchange.endpoint
        if resilience is not None and resilience.tells_attempts:
            trail = [*self._trail, f"{endpoint.label} {head.status}"] if endpoint is not None else self._trail
            head.keep.append(f"X-Relayd-Attempts: {', '.join(trail)}\r\n".encode("latin-1", "replace"))

    def _mark_queue(self, head: ResponseHead) -> None:
        head.keep += [f"{name}: {value}\r\n".encode() for name, value in self._queue_fields()]

    def _queue_fields(self) -> list[tuple[str, str]]:
        """A dictionary in the grammar of RFC 9651; nothing of who met no queue, or where the route does not tell."""
        if not self._queue:
            return []
        waited_s = self._exchange.record.queue_s
        if self._waiting_s >= 0:
            waited_s += clock.monotonic() - self._waiting_s
        return [("X-Relayd-Queue", f"{self._queue}, waited={waited_s:.3f}")]

    def said_whole(self) -> None:
        """The client has whole frames to read."""
        self._said_s = clock.monotonic()
        if self._first_said_s < 0:
            self._first_said_s = self._said_s
        self._boundary = True

    def said(self, data: bytes) -> None:
        """The client has something new to read."""
        self.said_whole()
        self._boundary = data.endswith((b"\n\n", b"\r\n\r\n"))
        self._done = b"[DONE]" in data[-64:]

    def ended(self, attempt: Attempt) -> None:
        """A whole answer."""
        exchange = self._exchange
        response = exchange.slot.response if exchange.slot is not None else None
        self._leave_endpoint(Outcome("", 200 if response is None else response.status, ""))

    def _tell(self, attempt: Attempt) -> None:
        """What the account says beyond a plain exchange; also of an answer that was cut."""
        call = self._call
        if call is None:
            return
        record = self._exchange.record
        if attempt.tap is not None:
            tell_observed(record, attempt.tap.observed, call)
        if attempt.translation is not None:
            tell_translated(record, attempt.translation)
        if call.stream and self._first_said_s >= 0:
            tell_pace(record, self._first_said_s)

    # ---- failed

    def attempt_failed(self, fault: ExchangeError) -> None:
        """A limit of time has run out."""
        attempt = self._attempt
        if attempt is None or attempt.shown or self._exchange.slot is None:
            self._exchange.fail(fault)
        else:
            self.failed(fault, None, b"", None)

    def failed(self, fault: ExchangeError, response: ResponseHead | None, body: bytes, failure: Failure | None) -> None:
        """An attempt of which the client has seen nothing: again, elsewhere, or the last word."""
        self._step(lambda: self._failed(fault, response, body, failure))

    def _failed(
        self, fault: ExchangeError, response: ResponseHead | None, body: bytes, failure: Failure | None
    ) -> None:
        exchange, target = self._exchange, self.target
        refused = response is not None and response.status >= 400
        if response is not None and refused and failure is None:
            failure = error_of(target.dialect, response, body)
        if failure is not None:
            outcome = Outcome("", failure.status, "", failure.retry_after_s, failure.code, in_stream=not refused)
        elif refused and response is not None:
            outcome = Outcome("", response.status, field_of(response, b"retry-after"))
        else:
            outcome = Outcome(fault.kind.code, 0, "")
        assert exchange.endpoint is not None
        self._trail.append(f"{exchange.endpoint.label} {fault.kind.code if not refused else outcome.status}")
        slot = exchange.slot
        sent = not fault.kind.retryable and not (slot is not None and exchange.head.has_body and not slot.read_at)
        self._last = (fault, response, body, failure)
        unseen = exchange.take_back()
        if unseen is not None and not self.whole:
            exchange.withhold(b"".join(unseen))
        upstream = target.upstream
        verdict = outcome.verdict(self._auth is not None)
        if self._auth is not None and outcome.status in REFUSED_UNREAD and verdict.blame in (Blame.KEY, Blame.REST):
            sent = False  # it is about relayd's key: nothing of the request was acted on
        self._leave_endpoint(outcome)
        case = Circumstances(
            attempt=self._tries, method=exchange.head.method, verdict=verdict, sent=sent,
            replayable=self.whole or unseen is not None, another=upstream.has_another(self._hint, verdict),
            remaining_s=self._remaining_s(),
        )
        wait_s = upstream.retries.decide(case, clock.monotonic())
        if wait_s is not None:
            self._again(wait_s)
            return
        if (self.whole or unseen is not None) and self._fall_back(class_of(verdict, body)):
            return
        self._give_up(fault, response, body, failure)

    def _remaining_s(self) -> float | None:
        deadline_s = self._deadline_s()
        return None if deadline_s is None else deadline_s - clock.monotonic()

    def _again(self, wait_s: float) -> None:
        exchange = self._exchange
        exchange.phase = "attempt"
        if wait_s <= 0:
            self._go()
        else:
            self._timer = exchange.gateway.later(wait_s, lambda: self._step(self._go))

    def _fall_back(self, fault_class: str) -> bool:
        """Go on to the next target that takes this class of fault; its gate has to be entered."""
        place = following(self._targets[1:], self._at, fault_class)
        if place is None:
            return False
        gate = self.target.gate
        for held in [held for held in self._held if held[0] is gate]:
            self._held.remove(held)
            held[0].leave(held[1])
        self._hint = Hint(self._hint.key)
        self._to_target(place + 1)
        return True

    def _give_up(
        self, fault: ExchangeError, response: ResponseHead | None, body: bytes, failure: Failure | None
    ) -> None:
        """The last attempt's failure becomes the answer, in the client's dialect where there is one."""
        exchange, call = self._exchange, self._call
        record = exchange.record
        if call is not None and call.is_socket and call.crosses(self.target):
            # The dialect itself says it, because it forgets the response that this one should have continued.
            record.code, record.detail = fault.kind.code, fault.detail
            told = failure or Failure(fault.kind.status, fault.kind.message, fault.kind.code)
            exchange.deliver(stream_head(None), None, call.renderer.feed([told]))
            if not exchange.over:
                exchange.finish()
            return
        if call is None and response is not None and response.status >= 400:
            self._answer(response, body)  # opaque bytes: the endpoint's own answer
            return
        if failure is None or call is None:
            exchange.fail(fault)
            return
        if response is None or response.status < 400:
            record.code, record.detail = fault.kind.code, fault.detail
        elif self._auth is not None and failure.status in (401, 403):
            record.code, failure = "upstream_key_refused", key_refused(response.status)
        elif self._request is None and response.media.is_json and body and not exchange.begun:
            head = response  # the same dialect: its own words, byte for byte
            self._answer(head, body)
            return
        if exchange.begun:
            self._failure = failure
            exchange.fail(fault)
            return
        made = failure_answer(self._route, failure, exchange.request_id.decode("latin-1"))
        self._answer(made.response, made.body)

    def _answer(self, head: ResponseHead, body: bytes) -> None:
        exchange = self._exchange
        if exchange.head.method != b"HEAD":
            head.length = len(body)
        exchange.phase = "transfer"
        self.mark(head)
        exchange.deliver(head, None, body)
        if not exchange.over:
            exchange.finish()

    # ---- the exchange's side

    def last_words(self, fault: ExchangeError) -> tuple[bytes, bool] | None:
        """A stream that has begun ends in its dialect's own words; of OpenAI's Chat only the broken end is an end."""
        call = self._call
        if call is None or not call.stream or fault.kind.status == 499:
            return None
        attempt, slot = self._attempt, self._exchange.slot
        translation = None if attempt is None else attempt.translation
        failure = self._failure or Failure(fault.kind.status, fault.kind.message, code=fault.kind.code)
        whole = call.dialect.error_ends_stream
        if translation is not None and attempt is not None and translation.failure is not None and attempt.shown:
            return b"", whole  # they have been said
        if call.crosses(self.target) or call.rendering is not None:
            return call.renderer.feed([failure]), whole
        response = None if slot is None else slot.response
        if response is not None and not response.media.is_stream:
            return None
        words = call.dialect.error_frame(failure, self._exchange.request_id.decode("latin-1"))
        return (words if self._boundary else b"\n\n" + words), False

    def check(self, now_s: float) -> None:
        """The sweep: an attempt that takes too long is given up, a reader who waits is told that it still does."""
        attempt, slot, limit_s = self._attempt, self._exchange.slot, self._per_attempt_s
        if limit_s and attempt is not None and slot is not None and attempt.is_late(slot, now_s - limit_s):
            code = "first_byte_timeout" if slot.reached() else "connect_timeout"
            self.attempt_failed(ExchangeError(code, f"{limit_s:g} s for one attempt"))
            return
        self._comfort(now_s)

    def _comfort(self, now_s: float) -> None:
        """A comment for a reader who has waited long."""
        resilience, call, exchange = self._route.resilience, self._call, self._exchange
        if resilience is None or call is None or not call.stream or not call.translates or exchange.muted:
            return
        crossing = call.crosses(self.target)
        every_s = resilience.keepalive_s if crossing else resilience.keepalive_passing_s
        if not every_s or now_s - self._said_s < every_s or not self._boundary or exchange.head.version != 11:
            return
        slot, attempt = exchange.slot, self._attempt
        if slot is not None and slot.response is not None and not slot.response.media.is_stream and not crossing:
            return
        if slot is not None and slot.hold:
            return
        self._said_s = now_s
        translation = None if attempt is None else attempt.translation
        comment = KEEPALIVE
        if crossing and translation is not None and attempt is not None and attempt.shown:
            comment = call.renderer.comment()
        head = stream_head(None)
        self._mark_queue(head)
        exchange.deliver(head, slot, comment)

    def leave(self) -> None:
        """The exchange is over: permits, places, timers and the endpoint are given back."""
        if self._timer is not None:
            timer, self._timer = self._timer, None
            timer()
        held, self._held = self._held, []
        self._gates = []
        self._waited()
        record = self._exchange.record
        if self._attempt is not None:
            self._tell(self._attempt)
            self._attempt = None  # a ring, which would wait for the collector
        if self._trail and record.attempts > 1:
            more_of(record)["trail"] = ", ".join(self._trail)
        if self._call is not None:
            tell_model(more_of(record), self._call, self.target.model)
        if record.code:
            self._leave_endpoint(Outcome(record.code, 0, ""))
        else:
            self._leave_endpoint(Outcome("", record.status) if self._exchange.tunnel is not None else None)
        for gate, ticket in held:
            gate.leave(ticket)

    def _leave_endpoint(self, outcome: Outcome | None) -> None:
        """Tell the endpoint how the attempt ended, and give back its place."""
        exchange = self._exchange
        endpoint, upstream = exchange.endpoint, exchange.upstream
        if endpoint is None or upstream is None:
            return
        exchange.endpoint = exchange.upstream = None
        if outcome is not None:
            upstream.report(endpoint, outcome.verdict(self._auth is not None), self._hint, self._auth)
        upstream.leave(endpoint, self._hint)
