"""Who may be asked now, and who of them is: availability, priorities, and the balancer inside.

Laws:
1. Who may be asked is worked out when something changes, not when somebody asks: a choice looks at the clock only while
   something changes by time alone (an open breaker, a rest, a slow start).
2. Priorities are a layer above every balancer: the next group is asked only when nobody of the group before is
   available and has room.
3. An upstream whose breaker the configuration does not speak of is never wholly closed by it: when no endpoint is
   proven good, those that operator and health checks let pass are asked anyway.
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
    """Owned by an upstream. `blocked_until_s` is when the first of its keys is in force again, while all of them rest.

    `half_opened` is told of each breaker whose open time is over.
    """

    __slots__ = (
        "_all", "_balancer", "_endpoints", "_groups", "_half_opened", "_last", "_narrow", "_only", "_slow_start_s",
        "_wake_s", "blocked_until_s", "refuses",
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
        self._last: Groups = ()
        self._only: Endpoint | None = None  # the two cases in which nothing has to be looked at
        self._all: tuple[Endpoint, ...] | None = None
        self._narrow = False
        self._wake_s = FOREVER
        self.arrange(0.0)

    @property
    def affinity(self) -> Affinity | None:
        """What makes the keys by which the balancer chooses, None if it takes none."""
        return self._balancer.affinity

    @property
    def is_open(self) -> bool:
        """Whether anybody may be asked, room or not."""
        return bool(self._groups or self._last)

    # ---- choosing

    def choose(self, affinity: int | None = None, tried: Sequence[Endpoint] = ()) -> Endpoint | None:
        """The endpoint to ask, None when there is none; one that was tried only where there is no other."""
        if self._wake_s != FOREVER:
            now_s = clock.monotonic()
            if now_s >= self._wake_s:
                self.arrange(now_s)
        if self._only is not None:
            return self._only
        if self._all is not None and not tried:
            return self._balancer.pick(self._all, affinity)
        if tried:
            found = self._among(self._groups, affinity, [one for one in self._endpoints if one not in tried])
            if found is not None:
                return found
        found = self._among(self._groups, affinity, None)
        if found is not None or not self._last:
            return found
        placed = [one for one in self._endpoints if one.has_place()]
        fresh = [one for one in placed if tried and one not in tried]
        return self._among(self._last, affinity, fresh, all_ways=True) or self._among(
            self._last, affinity, placed, all_ways=True
        )

    def _among(
        self, groups: Iterable[Sequence[Endpoint]], key: int | None, of: list[Endpoint] | None, all_ways: bool = False
    ) -> Endpoint | None:
        """One of the first group that has anybody left, of those in `of`; `all_ways` looks at no permit."""
        for group in groups:
            candidates = group
            if of is not None:
                candidates = [one for one in group if one in of and (all_ways or one.has_room())]
            elif self._narrow:
                candidates = [one for one in group if one.has_room()]
            if candidates:
                return candidates[0] if len(candidates) == 1 else self._balancer.pick(candidates, key)
        return None

    def has_another(self, tried: Sequence[Endpoint]) -> bool:
        """Whether an endpoint is free now that is not among these."""
        return any(one not in tried and one.has_room() for group in self._groups for one in group)

    def has_room(self) -> bool:
        """Whether somebody who waits for room may go on: there is some, or nobody that it could be waited for."""
        if self._wake_s != FOREVER:
            now_s = clock.monotonic()
            if now_s >= self._wake_s:
                self.arrange(now_s)
        if self._only is not None or self._all is not None:
            return True
        groups = self._groups or self._last
        return not groups or any(one.has_place() for group in groups for one in group)

    def unavailable(self, now_s: float) -> tuple[str, float]:
        """Why nobody was chosen, and after how many seconds that changes; 1 where nobody can know."""
        if self._groups:
            return "every available endpoint is full", 1.0
        if self.blocked_until_s > now_s and self.refuses:
            return "all keys rest", max(1.0, self.blocked_until_s - now_s)
        why = ", ".join(f"{one.label} {reason(one, now_s)}" for one in self._endpoints) or "there is no endpoint"
        return why, max(1.0, self._wake_s - now_s) if self._wake_s != FOREVER else 1.0

    # ---- what changes it

    def set_endpoints(self, endpoints: Sequence[Endpoint], now_s: float) -> None:
        """The upstream has other endpoints from now on."""
        self._endpoints = tuple(endpoints)
        self._balancer.join(self._endpoints)
        self.arrange(now_s)

    def arrange(self, now_s: float) -> None:
        """Work out who may be asked. Called after every change, and when its time has come."""
        wake_s = FOREVER
        opened = []
        for endpoint in self._endpoints:
            breaker = endpoint.breaker
            before = "" if breaker is None else breaker.state
            wake_s = min(wake_s, endpoint.settle(now_s, self._slow_start_s))
            if before == "open" and breaker is not None and breaker.state != before:
                opened.append(endpoint)
        ready = tuple(one for one in self._endpoints if one.available)
        if self.blocked_until_s > now_s and self.refuses:
            ready, wake_s = (), min(wake_s, self.blocked_until_s)
        proving = [one for one in ready if one.breaker is not None and one.breaker.state == "half_open"]
        self._wake_s = wake_s
        self._groups = in_groups(ready)
        self._narrow = bool(proving) or any(one.limit for one in self._endpoints)
        self._only = ready[0] if len(ready) == 1 and not self._narrow else None
        self._all = ready if len(ready) > 1 and len(self._groups) == 1 and not self._narrow else None
        self._last = ()
        if not self.refuses and len(proving) == len(ready):
            self._last = in_groups(tuple(one for one in self._endpoints if one.wanted() and not held(one)))
        for endpoint in opened:
            self._half_opened(endpoint)


def in_groups(endpoints: tuple[Endpoint, ...]) -> Groups:
    """By priority, the first group first."""
    numbers = sorted({one.priority for one in endpoints})
    return tuple(tuple(one for one in endpoints if one.priority == number) for number in numbers)


def held(endpoint: Endpoint) -> bool:
    """Whether its breaker was opened by hand."""
    return endpoint.breaker is not None and endpoint.breaker.forced


def reason(endpoint: Endpoint, now_s: float) -> str:
    """Why this endpoint may not be asked."""
    if endpoint.state != ENABLED:
        return "is disabled" if endpoint.state == DISABLED else "is drained"
    if endpoint.health == FAILING:
        return "fails its health checks"
    if endpoint.breaker is not None and endpoint.breaker.state == "open":
        return "has an open breaker"
    return "rests" if endpoint.cooldown_until_s > now_s else "is available"
