"""An endpoint: one address of an upstream and its live state.

Four conditions decide whether it is available; status shows each of them:

    state    enabled | draining | disabled     set by an operator; kept across reloads until changed back
    breaker  closed | open | half_open | off   the result of traffic
    health   unknown | passing | failing       the result of active checks
    cooldown until a point in time             requested by the endpoint itself (429, Retry-After)
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Protocol

from relayd.upstream.breaker import FOREVER, Breaker
from relayd.upstream.spec import EndpointSpec, UpstreamSpec
from relayd.wire.json_steps import Steps
from relayd.wire.key_filter import KeyFilter

ENABLED, DRAINING, DISABLED = "enabled", "draining", "disabled"
ADMINISTRATIVE = (ENABLED, DRAINING, DISABLED)
UNKNOWN, PASSING, FAILING = "unknown", "passing", "failing"
LEAVING = "leaving"  # shown in place of `state` for an address that the upstream no longer has
NO_ADDRESSES: dict[str, object] = {"addresses": [], "addresses_age_s": None, "lookup_fault": ""}
DESCRIBED = 32  # endpoints in one step
LEAST_RAMP = 0.1  # the share of its weight with which a returning endpoint begins


class Connections(Protocol):
    """The connections to one endpoint, as the endpoint sees them; the transport implements them."""

    def close(self) -> None:
        """Close idle connections now, the others when their transfers end."""

    def describe(self, now_s: float) -> dict[str, object]:
        """For status: `addresses` of the endpoint's host name, `addresses_age_s` since their lookup (None if the host
        is an address), `lookup_fault` with the cause if the last lookup failed."""


Connect = Callable[[UpstreamSpec, EndpointSpec, KeyFilter | None], Connections]


class Load:
    """Exchanges in flight at one address. Endpoints of the same address in successive upstreams share it."""

    __slots__ = ("in_flight",)

    def __init__(self) -> None:
        self.in_flight = 0


class Endpoint:
    """Owned by its upstream. `in_flight` counts leases of this endpoint, `load` all exchanges at its address.

    `weight` is the weight that balancers read: the configured weight, reduced during a slow start. `balancer_state`
    belongs to the balancer. `answers` counts good responses, so that a health check can see that the endpoint is alive.
    `leaving` is true if the upstream no longer has this address and the endpoint only finishes its exchanges.
    `key_filter` removes the upstream's keys from the endpoint's responses; None for an upstream without keys.
    """

    __slots__ = (
        "answers", "authority", "available", "balancer_state", "base_path", "breaker", "cooldown_until_s", "failures",
        "health", "health_why", "in_flight", "index", "key_filter", "label", "last_fault", "leaving", "limit", "load",
        "picked", "pool", "priority", "ramp_from_s", "spec", "state", "weight",
    )

    def __init__(
        self, spec: EndpointSpec, upstream: UpstreamSpec | None = None, index: int = 0,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.label = spec.label
        self.authority = spec.authority.encode()
        self.base_path = spec.base_path.encode()
        self.in_flight = 0
        self.load = Load()
        self.pool: Connections | None = None
        self.key_filter = None if upstream is None else filter_of(upstream)
        self.leaving = False
        self.state = ENABLED
        self.health = UNKNOWN
        self.health_why = ""
        breaker = None if upstream is None else upstream.breaker
        self.breaker: Breaker | None = None if breaker is None else Breaker(breaker, chance)
        self.cooldown_until_s = 0.0
        self.ramp_from_s = -FOREVER
        self.available = True
        self.balancer_state = 0.0
        self.picked = self.failures = self.answers = 0
        self.last_fault = ""
        self.configure(spec, 0 if upstream is None else upstream.max_connections, index)

    def configure(self, spec: EndpointSpec, max_connections: int, index: int) -> None:
        """Apply the configuration of this address: weight, priority, limit, and its index in the list."""
        self.spec = spec
        self.index = index
        self.priority = spec.priority
        self.limit = smaller(spec.limit, max_connections)
        self.weight = float(spec.weight)

    def open(self, upstream: UpstreamSpec, connect: Connect) -> None:
        """Prepare the connection pool; opens no connection yet."""
        if self.pool is None:
            self.pool = connect(upstream, self.spec, self.key_filter)

    def close(self) -> None:
        """Close the connection pool. An endpoint that is opened again gets a new pool."""
        if self.pool is not None:
            self.pool.close()
            self.pool = None

    # ---- availability

    def below_limit(self) -> bool:
        """True if the limit permits one more exchange at this address."""
        limit = self.limit
        return not limit or self.load.in_flight < limit

    def has_capacity(self) -> bool:
        """True if one more exchange may be sent: the limit permits it, and so does a half-open breaker."""
        limit = self.limit
        if limit and self.load.in_flight >= limit:
            return False
        breaker = self.breaker
        return breaker is None or breaker.state != "half_open" or breaker.has_permit()

    def eligible(self) -> bool:
        """True if operator and health checks permit requests; breaker and cool-down are not considered."""
        return self.state == ENABLED and self.health != FAILING

    def has_record(self, now_s: float) -> bool:
        """True if a failure is on record, which a new endpoint of this address would not know."""
        breaker = self.breaker
        return (breaker is not None and breaker.has_record) or self.cooldown_until_s > now_s or self.health == FAILING

    def refresh(self, now_s: float, slow_start_s: float) -> float:
        """Recompute `available` and `weight`. Returns the time at which they next change without an event."""
        next_change_s = FOREVER
        breaker = self.breaker
        able = self.eligible()
        if breaker is not None:
            breaker.tick(now_s)
            if breaker.state == "open":
                able = False
                next_change_s = breaker.until_s
        if self.cooldown_until_s > now_s:
            able = False
            next_change_s = min(next_change_s, self.cooldown_until_s)
        if able and not self.available and slow_start_s:
            self.ramp_from_s = now_s
        self.available = able
        full = float(self.spec.weight)
        done = (now_s - self.ramp_from_s) / slow_start_s if slow_start_s else 1.0
        if done < 1.0 and able:
            self.weight = full * max(LEAST_RAMP, done)
            next_change_s = min(next_change_s, now_s + slow_start_s / 50.0)
        else:
            self.weight = full
        return next_change_s

    def inherit_state(self, previous: Endpoint) -> None:
        """Copy the state of the endpoint of the same address in the previous upstream, which is not modified."""
        for name in (
            "state", "health", "health_why", "cooldown_until_s", "ramp_from_s", "available", "picked", "failures",
            "answers", "last_fault", "load",
        ):
            setattr(self, name, getattr(previous, name))
        if self.breaker is not None and previous.breaker is not None:
            self.breaker.inherit_state(previous.breaker)

    def describe(self, now_s: float) -> dict[str, object]:
        """For status."""
        breaker = self.breaker
        return {
            "address": self.label,
            "instance": self.spec.instance,
            "state": LEAVING if self.leaving else self.state,
            "breaker": "off" if breaker is None else breaker.state,
            "forced": breaker is not None and breaker.forced,
            "health": self.health,
            "health_why": self.health_why,
            "available": self.available and not self.leaving,
            "in_flight": self.in_flight,
            "limit": self.limit,
            "weight": self.spec.weight,
            "effective_weight": round(self.weight, 3),
            "priority": self.priority,
            "picked": self.picked,
            "failures": self.failures,
            "consecutive_failures": 0 if breaker is None else breaker.consecutive,
            "opened": 0 if breaker is None else breaker.openings,
            "retry_in_s": self._back_in_s(now_s),
            "resting_for_s": round(max(0.0, self.cooldown_until_s - now_s), 1),
            "last_fault": self.last_fault,
            **(NO_ADDRESSES if self.pool is None else self.pool.describe(now_s)),
        }

    def _back_in_s(self, now_s: float) -> float | None:
        """Seconds until an open breaker permits a probe; None if it is not open, or if an operator opened it."""
        breaker = self.breaker
        if breaker is None or breaker.state != "open" or breaker.forced:
            return None
        return round(max(0.0, breaker.until_s - now_s), 1)


def described(
    endpoints: Sequence[Endpoint], leaving: Sequence[Endpoint], now_s: float
) -> Steps[list[dict[str, object]]]:
    """The endpoints of an upstream for status, in steps. Those that are leaving, because their address was removed and
    they have exchanges, come last; one with the address of another endpoint is numbered."""
    counts: dict[str, int] = {}
    found: list[dict[str, object]] = []
    for number, endpoint in enumerate((*endpoints, *leaving), 1):
        same = counts.get(endpoint.label, 0)
        counts[endpoint.label] = same + 1
        one = endpoint.describe(now_s)
        if same and number > len(endpoints):
            one["address"] = f"{endpoint.label} (leaving {same})"
        found.append(one)
        if not number % DESCRIBED:
            yield
    yield
    return found


def filter_of(upstream: UpstreamSpec) -> KeyFilter | None:
    """The filter that removes the keys of an upstream from its responses; None without keys."""
    keys = upstream.keys
    return KeyFilter((key.kind, key.name, key.value.reveal()) for key in keys) if keys else None


def smaller(first: int, second: int) -> int:
    """The smaller of two limits; 0 means no limit."""
    return min(first, second) if first and second else first or second
