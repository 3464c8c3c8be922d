"""The rates in a response: the counters with the smallest share left, in the fields of its dialect."""

from __future__ import annotations

from collections.abc import Iterable

from relayd.limits.counter import Counter
from relayd.limits.ledger import Ledger
from relayd.limits.window import Moment
from relayd.plan.plan import PlannedRoute
from relayd.protocols.rate_fields import PREFIXES, Allowance, Left, field_lines
from relayd.proxy.charge import Charge
from relayd.wire.response import ResponseHead


def add_rate_fields(charge: Charge, route: PlannedRoute | None, ledger: Ledger, head: ResponseHead) -> None:
    """Add the fields to a response, in place of the endpoint's own."""
    if charge.own is None or route is None or not route.tells_rates:
        return
    lines = rate_lines(route, ledger, [counter for counter, _, _ in charge.own.entries])
    if not lines:
        return
    keep = head.keep
    if b"".join(keep).lower().find(b"ratelimit") >= 0:  # seldom; `in` would first try to read an index from the bytes
        keep = [line for line in keep if not line.lower().startswith(PREFIXES)]
    head.keep = [*keep, lines]


def rate_lines(route: PlannedRoute | None, ledger: Ledger, counters: Iterable[Counter]) -> bytes:
    """The lines of the fields; empty if the route does not enable them, or if there are no rates."""
    if route is None or not route.tells_rates:
        return b""
    now = ledger.now()
    found = what_is_left(counters, now)
    if not found:
        return b""
    dialect = None if route.resilience is None else route.resilience.dialect
    return field_lines(found, None if dialect is None else dialect.rate_fields, now.wall_ms)


def what_is_left(counters: Iterable[Counter], now: Moment) -> list[Left]:
    """Of each kind of rate, the counter of which the smallest share is left."""
    found: dict[str, tuple[Counter, Allowance, int]] = {}
    for counter in counters:
        allowance = counter.allowance
        if allowance is None:
            continue
        kind, limit, _ = allowance
        left = max(0, limit - counter.advance(now))
        other = found.get(kind)
        if other is None or left * other[0].limit < other[2] * limit:
            found[kind] = counter, allowance, left
    return [(allowance, left, counter.reset_ms(now) or 0) for counter, allowance, left in found.values()]
