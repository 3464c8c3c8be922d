"""An endpoint: one address of an upstream and its live state.

Four things decide whether it may be asked, each with a word of its own in status:

    state    enabled | draining | disabled     what an operator wants; kept across reloads until undone
    breaker  closed | open | half_open | off   what traffic has seen
    health   unknown | passing | failing       what active checks have seen
    rest     until a moment                    what the endpoint itself asked for (429, Retry-After)
"""

from __future__ import annotations

import random
from collections.abc import Callable

from relayd.upstream.breaker import FOREVER, Breaker
from relayd.upstream.spec import EndpointSpec, UpstreamSpec
from relayd.upstream.transport.client import StreamClient
from relayd.upstream.transport.pool import Pool
from relayd.wire.key_filter import KeyFilter

ENABLED, DRAINING, DISABLED = "enabled", "draining", "disabled"
ADMINISTRATIVE = (ENABLED, DRAINING, DISABLED)
UNKNOWN, PASSING, FAILING = "unknown", "passing", "failing"
LEAST_RAMP = 0.1  # of its weight, with which a returning endpoint begins


class Endpoint:
    """Owned by its upstream. `in_flight` counts exchanges from pick to the last byte.

    `weight` is what balancers read: the configured weight, less while the endpoint returns slowly. `credit` belongs to
    the balancer. `answers` counts good answers, so that a health check can see that the endpoint is alive. `loose` are
    the breaker's permits of exchanges that brought no hint to hold them. `key_filter` keeps the upstream's keys out of
    what the endpoint answers; None for an upstream without keys.
    """

    __slots__ = (
        "answers", "authority", "available", "base_path", "breaker", "credit", "elder", "failures", "health",
        "health_why", "in_flight", "key_filter", "label", "last_fault", "limit", "loose", "picked", "place", "pool",
        "priority", "ramp_from_s", "rest_until_s", "spec", "state", "weight",
    )

    def __init__(
        self, spec: EndpointSpec, upstream: UpstreamSpec | None = None, place: int = 0,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.spec = spec
        self.place = place
        self.label = spec.label
        self.authority = spec.authority.encode()
        self.base_path = spec.base_path.encode()
        self.priority = spec.priority
        self.limit = smaller(spec.limit, 0 if upstream is None else upstream.max_connections)
        self.weight = float(spec.weight)
        self.in_flight = 0
        self.pool: Pool | None = None
        self.key_filter = None if upstream is None else filter_of(upstream)
        self.elder: Endpoint | None = None
        self.state = ENABLED
        self.health = UNKNOWN
        self.health_why = ""
        breaker = None if upstream is None else upstream.breaker
        self.breaker: Breaker | None = None if breaker is None else Breaker(breaker, chance)
        self.rest_until_s = 0.0
        self.ramp_from_s = -FOREVER
        self.available = True
        self.loose: list[int] = []
        self.credit = 0.0
        self.picked = self.failures = self.answers = 0
        self.last_fault = ""

    def open(self, client: StreamClient, upstream: UpstreamSpec) -> None:
        """Make the pool; connects nothing yet."""
        if self.pool is None and client.driver is not None:
            self.pool = Pool(client.driver, upstream, self.spec, self.key_filter)

    def close(self) -> None:
        """Let the pool go; opened again, the endpoint gets a new one."""
        if self.pool is not None:
            self.pool.close()
            self.pool = None

    # ---- may it be asked?

    def has_place(self) -> bool:
        """Whether its limit leaves room for one more exchange; those of an older spec of this address count too."""
        limit = self.limit
        return not limit or (self.in_flight if self.elder is None else self.load()) < limit

    def has_room(self) -> bool:
        """Whether one more exchange may be sent: below the limit, and with a permit where the breaker wants one."""
        limit = self.limit
        if limit and (self.in_flight if self.elder is None else self.load()) >= limit:
            return False
        breaker = self.breaker
        return breaker is None or breaker.state != "half_open" or breaker.has_permit()

    def load(self) -> int:
        """Exchanges at this address, those included that entered with an older plan."""
        while self.elder is not None and not self.elder.in_flight:
            self.elder = self.elder.elder
        return self.in_flight + (0 if self.elder is None else self.elder.load())

    def wanted(self) -> bool:
        """Whether operator and health checks let it be asked, whatever traffic has seen."""
        return self.state == ENABLED and self.health != FAILING

    def settle(self, now_s: float, slow_start_s: float) -> float:
        """Work out `available` and `weight` for now; when they change next by time alone."""
        wake_s = FOREVER
        breaker = self.breaker
        able = self.wanted()
        if breaker is not None:
            breaker.tick(now_s)
            if breaker.state == "open":
                able = False
                wake_s = breaker.until_s
        if self.rest_until_s > now_s:
            able = False
            wake_s = min(wake_s, self.rest_until_s)
        if able and not self.available and slow_start_s:
            self.ramp_from_s = now_s
        self.available = able
        full = float(self.spec.weight)
        done = (now_s - self.ramp_from_s) / slow_start_s if slow_start_s else 1.0
        if done < 1.0 and able:
            self.weight = full * max(LEAST_RAMP, done)
            wake_s = min(wake_s, now_s + slow_start_s / 50.0)
        else:
            self.weight = full
        return wake_s

    def adopt(self, elder: Endpoint) -> None:
        """Go on where the endpoint of the same address stands in the plan before."""
        for name in (
            "state", "health", "health_why", "rest_until_s", "ramp_from_s", "available", "picked", "failures",
            "answers", "last_fault",
        ):
            setattr(self, name, getattr(elder, name))
        if self.breaker is not None and elder.breaker is not None:
            self.breaker.adopt(elder.breaker)
        self.elder = elder

    def describe(self, now_s: float) -> dict[str, object]:
        """For status."""
        breaker = self.breaker
        return {
            "address": self.label,
            "state": self.state,
            "breaker": "off" if breaker is None else breaker.state,
            "forced": breaker is not None and breaker.forced,
            "health": self.health,
            "health_why": self.health_why,
            "available": self.available,
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
            "resting_for_s": round(max(0.0, self.rest_until_s - now_s), 1),
            "last_fault": self.last_fault,
        }

    def _back_in_s(self, now_s: float) -> float | None:
        """Seconds until an open breaker lets a probe through; None where it is not open or held open by hand."""
        breaker = self.breaker
        if breaker is None or breaker.state != "open" or breaker.forced:
            return None
        return round(max(0.0, breaker.until_s - now_s), 1)


def filter_of(upstream: UpstreamSpec) -> KeyFilter | None:
    """What keeps the keys of an upstream out of its answers."""
    keys = upstream.keys
    return KeyFilter((key.kind, key.name, key.value.reveal()) for key in keys) if keys else None


def smaller(first: int, second: int) -> int:
    """The smaller of two limits, where 0 is none."""
    return min(first, second) if first and second else first or second
