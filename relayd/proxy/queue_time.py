"""The time that an exchange has waited in queues: of permits, and of rates."""

from __future__ import annotations

from relayd import clock
from relayd.proxy.exchange import Exchange


def record_wait(exchange: Exchange) -> None:
    """Add the time in the queue that the exchange leaves to its record and its trace."""
    if exchange.waiting_since_s < 0:
        return
    record, since_s, now_s = exchange.record, exchange.waiting_since_s, clock.monotonic()
    exchange.waiting_since_s = -1.0
    record.queue_s += now_s - since_s
    if record.trace is not None:
        record.trace.add_wait(since_s, now_s)
