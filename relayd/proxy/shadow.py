"""A copy of a request for another upstream, whose answer is thrown away; the client never notices.

Laws:
1. A copy is made of whole requests only, never queued, never tried again, and none is made while its upstream is full.
2. Whatever happens to it stays with it: no fault, no delay and no byte of it reaches the exchange it was copied from.
"""

from __future__ import annotations

from collections.abc import Callable

from relayd import clock
from relayd.errors import ExchangeError
from relayd.limits.gate import Gate
from relayd.limits.ticket import WAITING, Ticket
from relayd.limits.ticket import Refused as NoRoom
from relayd.plan.plan import PlannedRoute, Target
from relayd.protocols.dialect import Refused
from relayd.proxy.call import Call
from relayd.proxy.exchange import Exchange
from relayd.proxy.message import message_for
from relayd.proxy.verdict import Outcome
from relayd.upstream.lease import Lease
from relayd.upstream.transport.faults import code_of
from relayd.upstream.transport.pool import pool_of
from relayd.upstream.transport.slot import Slot

CHECK_S = 1.0
Later = Callable[[float, Callable[[], None]], Callable[[], None]]


def cast(exchange: Exchange, route: PlannedRoute, target: Target, call: Call | None, body: bytes | None) -> None:
    """Send a copy. Never raises."""
    upstream = target.upstream
    gate, ticket = target.gate, None
    if gate is not None:
        try:
            ticket = gate.enter("mirror", 0, None, _ignored, _turned_away, None)
        except NoRoom:
            return
        if ticket.state == WAITING:
            gate.leave(ticket)
            return
    lease = upstream.acquire()
    if lease is None:
        if gate is not None and ticket is not None:
            gate.leave(ticket)
        return
    shadow = Shadow(target, lease, route.pass_client_key, gate, ticket)
    try:
        wire, fields, copied, _ = message_for(exchange, route, target, lease, call, body)
    except (Refused, ExchangeError):
        shadow.close(None)
        return
    method = exchange.head.method
    pool = pool_of(lease.endpoint)
    slot = pool.take(method, copied is not None)
    shadow.watch(slot, exchange.gateway.later)
    pool.start(slot, shadow, method, wire, fields, None if copied is None else len(copied), copied)


def _ignored(ticket: Ticket) -> None:
    pass


def _turned_away(ticket: Ticket, reason: str, retry_after_s: float) -> None:
    pass


class Shadow:
    """The sink of one copy; owned by the transport until its transfer ends."""

    __slots__ = (
        "_began_s", "_client_key", "_gate", "_last_s", "_later", "_lease", "_slot", "_target", "_ticket", "_timer",
    )

    def __init__(
        self, target: Target, lease: Lease, client_key: bool, gate: Gate | None, ticket: Ticket | None
    ) -> None:
        self._target, self._lease, self._client_key = target, lease, client_key
        self._gate, self._ticket = gate, ticket
        self._slot: Slot | None = None
        self._timer: Callable[[], None] | None = None
        self._began_s = self._last_s = clock.monotonic()

    def watch(self, slot: Slot, later: Later) -> None:
        """Look after its time now and then: nobody else does."""
        self._slot, self._later = slot, later
        self._timer = later(CHECK_S, self._check)

    def _check(self) -> None:
        slot, now_s, timeouts = self._slot, clock.monotonic(), self._target.upstream.spec.timeouts
        if slot is None:
            return
        limit_s = timeouts.first_byte_s if slot.response is None else timeouts.idle_s
        late = bool(limit_s) and now_s - self._last_s > limit_s
        if late or (timeouts.total_s and now_s - self._began_s > timeouts.total_s):
            slot.driver.cancel(slot)
            slot.pool.give(slot)
            self.close(Outcome("first_byte_timeout" if slot.response is None else "idle_timeout", 0))
        else:
            self._timer = self._later(CHECK_S, self._check)

    def on_progress(self, slot: Slot) -> None:
        """Whatever comes is let go."""
        self._last_s = clock.monotonic()
        slot.chunks.clear()
        if slot.interim:
            slot.interim.clear()

    def on_done(self, slot: Slot, errno: int, message: str) -> None:
        """The copy has ended."""
        if errno or slot.response is None or slot.bad:
            outcome = Outcome(code_of(errno) if errno else "upstream_closed", 0)
        else:
            outcome = Outcome("", slot.response.status)
        slot.pool.give(slot)
        self.close(outcome)

    def on_broken(self) -> None:
        """A fault of relayd's own."""
        self.close(None)

    def close(self, outcome: Outcome | None) -> None:
        """Tell the endpoint, and give back what is held."""
        self._slot = None
        if self._timer is not None:
            timer, self._timer = self._timer, None
            timer()
        lease = self._lease
        lease.release(None if outcome is None else outcome.classify(lease, self._client_key))
        if self._gate is not None and self._ticket is not None:
            self._gate.leave(self._ticket)
