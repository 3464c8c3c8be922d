"""What a client is told of its rates: the counters with the smallest share left, in the fields of its dialect."""

from __future__ import annotations

from collections.abc import Iterable

from relayd.limits.counter import INPUT, OUTPUT, REQUESTS, TOTAL, Counter
from relayd.limits.ledger import Ledger
from relayd.limits.window import Moment
from relayd.plan.plan import PlannedRoute
from relayd.protocols.rate_fields import PREFIXES, Allowance, standard_fields
from relayd.proxy.charge import Charge
from relayd.wire.response import ResponseHead

_KINDS = {REQUESTS: "requests", TOTAL: "tokens", INPUT: "input", OUTPUT: "output"}


def add_rate_fields(charge: Charge, route: PlannedRoute | None, ledger: Ledger, head: ResponseHead) -> None:
    """Add the fields to a response, in place of the endpoint's own."""
    if charge.own is None or route is None or not route.tells_rates:
        return
    lines = rate_lines(route, ledger, [counter for counter, _, _ in charge.own.entries])
    if not lines:
        return
    if b"ratelimit" in b"".join(head.keep).lower():  # seldom; cheaper than to look at each line
        head.keep = [line for line in head.keep if not line.lower().startswith(PREFIXES)]
    head.keep = [*head.keep, *lines]


def rate_lines(route: PlannedRoute | None, ledger: Ledger, counters: Iterable[Counter]) -> list[bytes]:
    """The lines of the fields; empty if the route does not enable them, or if there are no rates."""
    if route is None or not route.tells_rates:
        return []
    now = ledger.now()
    found = allowances(counters, now)
    if not found:
        return []
    dialect = None if route.resilience is None else route.resilience.dialect
    lines = standard_fields(found)
    if dialect is not None and dialect.rate_fields is not None:
        lines += dialect.rate_fields(found, now.wall_ms / 1000)
    return lines


def allowances(counters: Iterable[Counter], now: Moment) -> list[Allowance]:
    """Of each kind of rate, the counter of which the smallest share is left."""
    found: dict[str, tuple[float, Counter, int]] = {}
    for counter in counters:
        kind = _KINDS.get(counter.rule.measure)
        if kind is None or counter.counts_only:
            continue
        left = max(0, counter.limit - counter.advance(now))
        share = left / counter.limit
        if kind not in found or share < found[kind][0]:
            found[kind] = share, counter, left
    return [
        Allowance(kind, one.limit, left, one.reset_s(now) or 0.0, one.rule.span.length_ms / 1000)
        for kind, (_, one, left) in found.items()
    ]
