"""Endpoint selection: availability, priorities, and the balancer within one priority.

Laws:
1. The available endpoints are computed when something changes, not for each request. A choice reads the clock only
   while availability depends on time (an open breaker, a cool-down, a slow start).
2. Priorities are a layer above every balancer: the next group is used only if no endpoint of the previous groups is
   available and has capacity.
3. An upstream without a configured breaker never refuses requests because of failures: if no endpoint is known to be
   good, all endpoints that operator and health checks permit are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from relayd import clock
from relayd.upstream.affinity import Affinity
from relayd.upstream.balancing import Balancer, balancer
from relayd.upstream.breaker import FOREVER
from relayd.upstream.endpoint import DISABLED, ENABLED, FAILING, Endpoint
from relayd.upstream.spec import UpstreamSpec

Groups = tuple[tuple[Endpoint, ...], ...]


class Rotation:
    """Owned by an upstream. While all of its keys cool down, `blocked_until_s` is the time at which the first of them
    is in force again.

    `half_opened` is called for each breaker whose open time is over.
    """

    __slots__ = (
        "_all", "_balancer", "_capacity_limited", "_endpoints", "_groups", "_half_opened", "_last_resort",
        "_next_change_s", "_single", "_slow_start_s", "blocked_until_s", "refuses",
    )

    def __init__(
        self, spec: UpstreamSpec, endpoints: Sequence[Endpoint], chance: Callable[[], float],
        half_opened: Callable[[Endpoint], None],
    ) -> None:
        self._endpoints = tuple(endpoints)
        self._balancer: Balancer = balancer(spec.balance, chance)
        self._balancer.join(self._endpoints)
        self._slow_start_s = spec.balance.slow_start_s
        self._half_opened = half_opened
        self.refuses = spec.breaker is not None and spec.breaker.refuses
        self.blocked_until_s = 0.0
        self._groups: Groups = ()
        self._last_resort: Groups = ()
        self._single: Endpoint | None = None  # `_single` and `_all`: cases without a capacity check
        self._all: tuple[Endpoint, ...] | None = None
        self._capacity_limited = False
        self._next_change_s = FOREVER
        self.recompute(0.0)

    @property
    def affinity(self) -> Affinity | None:
        """The source of the keys by which the balancer chooses, None if it uses no keys."""
        return self._balancer.affinity

    @property
    def is_open(self) -> bool:
        """True if some endpoint is available, with or without capacity."""
        return bool(self._groups or self._last_resort)

    # ---- choosing

    def choose(
        self, affinity: int | None = None, tried: Sequence[Endpoint] = (), preferred: str | None = None
    ) -> Endpoint | None:
        """Choose an endpoint, one in `tried` only if no other is available. The one with the label `preferred` is
        chosen if it is available, has capacity and nothing was tried yet. Returns None if there is no candidate."""
        if self._next_change_s != FOREVER:
            now_s = clock.monotonic()
            if now_s >= self._next_change_s:
                self.recompute(now_s)
        if self._single is not None:
            return self._single
        if preferred is not None and not tried and (found := self.find(preferred)) is not None and found.has_capacity():
            return found
        if self._all is not None and not tried:
            return self._balancer.pick(self._all, affinity)
        return self._choose_with_capacity(affinity, tried)

    def _choose_with_capacity(self, affinity: int | None, tried: Sequence[Endpoint]) -> Endpoint | None:
        if tried:
            found = self._pick_from(self._groups, affinity, [one for one in self._endpoints if one not in tried])
            if found is not None:
                return found
        found = self._pick_from(self._groups, affinity, None)
        if found is not None or not self._last_resort:
            return found
        with_room = [one for one in self._endpoints if one.below_limit()]
        fresh = [one for one in with_room if tried and one not in tried]
        return self._pick_from(self._last_resort, affinity, fresh, all_ways=True) or self._pick_from(
            self._last_resort, affinity, with_room, all_ways=True
        )

    def _pick_from(
        self, groups: Iterable[Sequence[Endpoint]], key: int | None, of: list[Endpoint] | None, all_ways: bool = False
    ) -> Endpoint | None:
        """Choose from the first group with candidates. `of` restricts the candidates; `all_ways` skips the check of
        capacity for them."""
        for group in groups:
            candidates = group
            if of is not None:
                candidates = [one for one in group if one in of and (all_ways or one.has_capacity())]
            elif self._capacity_limited:
                candidates = [one for one in group if one.has_capacity()]
            if candidates:
                return candidates[0] if len(candidates) == 1 else self._balancer.pick(candidates, key)
        return None

    def find(self, label: str) -> Endpoint | None:
        """The available endpoint with this label, with or without capacity; None if there is none."""
        if self._next_change_s != FOREVER:
            now_s = clock.monotonic()
            if now_s >= self._next_change_s:
                self.recompute(now_s)
        return next((one for group in self._groups for one in group if one.label == label), None)

    def has_another(self, tried: Sequence[Endpoint]) -> bool:
        """True if an endpoint outside `tried` has capacity now."""
        return any(one not in tried and one.has_capacity() for group in self._groups for one in group)

    def has_capacity(self) -> bool:
        """True if a waiting request may proceed: an endpoint has capacity, or no endpoint is available to wait for."""
        if self._next_change_s != FOREVER:
            now_s = clock.monotonic()
            if now_s >= self._next_change_s:
                self.recompute(now_s)
        if self._single is not None or self._all is not None:
            return True
        groups = self._groups or self._last_resort
        return not groups or any(one.below_limit() for group in groups for one in group)

    def unavailable(self, now_s: float) -> tuple[str, float]:
        """Why no endpoint was chosen, and after how many seconds that changes; 1 if that is unknown."""
        if self._groups:
            return "every available endpoint is at its limit", 1.0
        if self.blocked_until_s > now_s and self.refuses:
            return "all keys are cooling down", max(1.0, self.blocked_until_s - now_s)
        reasons = ", ".join(f"{one.label} {unavailable_reason(one, now_s)}" for one in self._endpoints)
        retry_s = max(1.0, self._next_change_s - now_s) if self._next_change_s != FOREVER else 1.0
        return reasons or "the upstream has no endpoint", retry_s

    # ---- changes

    def set_endpoints(self, endpoints: Sequence[Endpoint], now_s: float) -> None:
        """Replace the endpoints of the upstream."""
        self._endpoints = tuple(endpoints)
        self._balancer.join(self._endpoints)
        self.recompute(now_s)

    def recompute(self, now_s: float) -> None:
        """Recompute the available endpoints. Called after every change, and at `_next_change_s`."""
        next_change_s = FOREVER
        opened = []
        for endpoint in self._endpoints:
            breaker = endpoint.breaker
            before = "" if breaker is None else breaker.state
            next_change_s = min(next_change_s, endpoint.refresh(now_s, self._slow_start_s))
            if before == "open" and breaker is not None and breaker.state != before:
                opened.append(endpoint)
        ready = tuple(one for one in self._endpoints if one.available)
        if self.blocked_until_s > now_s and self.refuses:
            ready, next_change_s = (), min(next_change_s, self.blocked_until_s)
        half_open = [one for one in ready if one.breaker is not None and one.breaker.state == "half_open"]
        self._next_change_s = next_change_s
        self._groups = by_priority(ready)
        self._capacity_limited = bool(half_open) or any(one.limit for one in self._endpoints)
        self._single = ready[0] if len(ready) == 1 and not self._capacity_limited else None
        self._all = ready if len(ready) > 1 and len(self._groups) == 1 and not self._capacity_limited else None
        self._last_resort = ()
        if not self.refuses and len(half_open) == len(ready):
            eligible = tuple(one for one in self._endpoints if one.eligible() and not forced_open(one))
            self._last_resort = by_priority(eligible)
        for endpoint in opened:
            self._half_opened(endpoint)


def by_priority(endpoints: tuple[Endpoint, ...]) -> Groups:
    """The endpoints in groups of equal priority, in ascending order."""
    numbers = sorted({one.priority for one in endpoints})
    return tuple(tuple(one for one in endpoints if one.priority == number) for number in numbers)


def forced_open(endpoint: Endpoint) -> bool:
    """True if an operator opened its breaker."""
    return endpoint.breaker is not None and endpoint.breaker.forced


def unavailable_reason(endpoint: Endpoint, now_s: float) -> str:
    """Why this endpoint is not available."""
    if endpoint.state != ENABLED:
        return "is disabled" if endpoint.state == DISABLED else "is drained"
    if endpoint.health == FAILING:
        return "fails its health checks"
    if endpoint.breaker is not None and endpoint.breaker.state == "open":
        return "has an open breaker"
    return "is cooling down" if endpoint.cooldown_until_s > now_s else "is available"
