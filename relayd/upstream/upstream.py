"""An upstream: a named group of endpoints, and everything that is decided about which of them is asked.

Laws:
1. Every pick is followed by exactly one `leave`; a permit that the attempt held is given back with it at the latest.
2. The endpoints that may be asked are worked out when something changes, not when somebody asks: a pick looks at the
   clock only while something changes by time alone (an open breaker, a rest, a slow start).
3. Priorities are a layer above every balancer: the next group is asked only when nobody of the group before is
   available and has room.
4. An upstream whose breaker the configuration does not speak of is never wholly closed by it: when all endpoints are
   out, those that operator and health checks let pass are asked anyway.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from relayd import clock
from relayd.upstream.balancing import Balancer, balancer
from relayd.upstream.breaker import FOREVER
from relayd.upstream.classify import Blame, Verdict
from relayd.upstream.endpoint import ADMINISTRATIVE, DISABLED, ENABLED, FAILING, Endpoint
from relayd.upstream.hint import Hint
from relayd.upstream.keys import Keys
from relayd.upstream.retry import Budget, RetryPolicy
from relayd.upstream.spec import AuthSpec, BreakerSpec, RetrySpec, UpstreamSpec
from relayd.upstream.transport.client import StreamClient

NO_RETRIES = RetrySpec()
UNWRITTEN = BreakerSpec(refuses=False)


@dataclass(frozen=True, slots=True)
class Change:
    """Something that an operator wants to see in the log. `event` is in the past tense, `address` empty for all."""

    event: str
    upstream: str
    address: str = ""
    why: str = ""


def unheard(change: Change) -> None:
    """Nobody listens yet."""


class Upstream:
    """Live state of one `upstreams:` entry; shared by all plans whose spec for it is equal.

    Life: construct (no side effects), open (pools), retire (no plan names it any more), close (by itself, with the
    last exchange). Owned by the plan, carried over by a reload. `on_change` is set by the daemon.
    """

    __slots__ = (
        "_absent", "_balancer", "_budgeted", "_groups", "_keys", "_last", "_narrow", "_only", "_refuses", "_retired",
        "_wake_s", "budget", "endpoints", "name", "on_change", "opened", "retries", "spec",
    )

    def __init__(self, spec: UpstreamSpec, chance: Callable[[], float] = random.random) -> None:
        self.spec = spec
        self.name = spec.name
        self.endpoints = tuple(Endpoint(one, spec, place, chance) for place, one in enumerate(spec.endpoints))
        self.opened = False
        self.on_change: Callable[[Change], None] = unheard
        retries = spec.retries or NO_RETRIES
        self.budget = Budget(retries.share, retries.minimum, retries.window_s)
        self.retries = RetryPolicy(retries, self.budget, chance)
        self._budgeted = retries.attempts > 1
        self._keys = Keys(spec.keys)
        self._balancer: Balancer = balancer(spec.balance, chance)
        self._balancer.join(self.endpoints)
        self._absent: dict[str, str] = {}
        self._refuses = spec.breaker is not None and spec.breaker.refuses
        self._retired = False
        self._groups: tuple[tuple[Endpoint, ...], ...] = ()
        self._last: tuple[tuple[Endpoint, ...], ...] = ()
        self._only: Endpoint | None = None
        self._narrow = False
        self._wake_s = FOREVER
        self._arrange(0.0)

    @property
    def in_flight(self) -> int:
        return sum(endpoint.in_flight for endpoint in self.endpoints)

    # ---- life

    def open(self, client: StreamClient) -> None:
        """Make the pools of the endpoints. Calling it again changes nothing."""
        for endpoint in self.endpoints:
            endpoint.open(client, self.spec)
        self.opened = True
        self._retired = False

    def retire(self) -> None:
        """No plan names it any more: close as soon as nobody uses it."""
        self._retired = True
        if not self.in_flight:
            self.close()

    def close(self) -> None:
        """Let pools and slots go."""
        for endpoint in self.endpoints:
            endpoint.close()
        self.opened = False

    def adopt(self, previous: Upstream) -> None:
        """Go on where the upstream of the same name in the plan before stands: endpoints by address, keys, budget.

        Nothing in `previous` changes, so that the plan may still be thrown away. What an operator said of an address
        that is not in the plan now is kept for the plan in which it comes back.
        """
        now_s = clock.monotonic()
        elders = {endpoint.label: endpoint for endpoint in previous.endpoints}
        said = previous._absent | {one.label: one.state for one in previous.endpoints if one.state != ENABLED}
        for endpoint in self.endpoints:
            elder = elders.get(endpoint.label)
            if elder is not None:
                endpoint.adopt(elder)
            else:
                endpoint.available = False  # new in a running group: it starts slowly
            endpoint.state = said.pop(endpoint.label, ENABLED)
            if self.spec.health is None:
                endpoint.health = "unknown"
        self._absent = said
        self._keys.adopt(previous._keys)
        self.budget.adopt(previous.budget)
        self.on_change = previous.on_change
        self._arrange(now_s)

    # ---- picking

    def pick(self, hint: Hint | None = None) -> Endpoint | None:
        """An endpoint to ask now, None when there is none; `unavailable` then says why and for how long.

        With a hint the breaker's probes are bounded and the endpoints that it names as tried come last.
        """
        if self._wake_s != FOREVER:
            now_s = clock.monotonic()
            if now_s >= self._wake_s:
                self._arrange(now_s)
        if self._budgeted and (hint is None or not hint.tried):
            self.budget.request(clock.monotonic())
        endpoint = self._only
        if endpoint is None:
            endpoint = self._search(hint)
            if endpoint is None:
                return None
        endpoint.in_flight += 1
        endpoint.picked += 1
        if hint is not None:
            hint.tried.append(endpoint)
            breaker = endpoint.breaker
            hint.permit = 0 if breaker is None else breaker.take()
        return endpoint

    def _search(self, hint: Hint | None) -> Endpoint | None:
        key, tried = (None, None) if hint is None else (hint.key, hint.tried)
        if tried:
            found = self._among(self._groups, key, tried)
            if found is not None:
                return found
        found = self._among(self._groups, key, None)
        if found is not None or not self._last:
            return found
        placed = [tuple(one for one in group if one.has_place()) for group in self._last]
        for skip in (tried, None) if tried else (None,):
            for group in placed:
                candidates = [one for one in group if not skip or one not in skip]
                if candidates:
                    return candidates[0] if len(candidates) == 1 else self._balancer.pick(candidates, key)
        return None

    def _among(
        self, groups: Iterable[tuple[Endpoint, ...]], key: int | None, tried: list[Endpoint] | None
    ) -> Endpoint | None:
        for group in groups:
            candidates: tuple[Endpoint, ...] | list[Endpoint] = group
            if tried:
                candidates = [one for one in group if one not in tried and one.has_room()]
            elif self._narrow:
                candidates = [one for one in group if one.has_room()]
            if candidates:
                return candidates[0] if len(candidates) == 1 else self._balancer.pick(candidates, key)
        return None

    def has_room(self) -> bool:
        """Whether who waits for room should go on: an endpoint has some, or there is none to wait for."""
        if self._wake_s != FOREVER:
            now_s = clock.monotonic()
            if now_s >= self._wake_s:
                self._arrange(now_s)
        ready = self._groups or self._last
        return not ready or any(one.has_place() for group in ready for one in group)

    def has_another(self, hint: Hint) -> bool:
        """Whether an endpoint is free now that this exchange has not tried."""
        return any(one not in hint.tried and one.has_room() for group in self._groups for one in group)

    def leave(self, endpoint: Endpoint, hint: Hint | None = None) -> None:
        """An exchange that `pick` counted has ended, or goes on elsewhere."""
        endpoint.in_flight -= 1
        if hint is not None and hint.permit:
            if endpoint.breaker is not None:
                endpoint.breaker.give_back(hint.permit)
            hint.permit = 0
        if self._retired and not self.in_flight:
            self.close()

    def unavailable(self) -> tuple[str, float]:
        """Why nothing was picked, for the log; and after how many seconds that changes (1 where nobody can know)."""
        now_s = clock.monotonic()
        ready = [one for group in self._groups for one in group]
        waits = [self._wake_s - now_s] if self._wake_s != FOREVER and not ready else []
        if ready:
            why = "every available endpoint is full"
        elif self._keys.rests_until_s(now_s):
            why = "all keys rest"
        else:
            why = ", ".join(f"{one.label} {reason(one, now_s)}" for one in self.endpoints) or "there is no endpoint"
        return why, max(1.0, min(waits, default=1.0))

    # ---- what became of it

    def answered(self, endpoint: Endpoint, hint: Hint | None = None) -> None:
        """The head of a good answer has come: a sign of life. It settles a probe, since a stream may last for hours."""
        endpoint.answers += 1
        if hint is not None and hint.permit and endpoint.breaker is not None:
            now_s = clock.monotonic()
            permit, hint.permit = hint.permit, 0
            if endpoint.breaker.succeeded(now_s, permit):
                self._told(endpoint, "breaker_closed", "a probe succeeded", now_s)

    def report(
        self, endpoint: Endpoint, verdict: Verdict, hint: Hint | None = None, key: AuthSpec | None = None
    ) -> None:
        """What became of an attempt; once for each, before `leave`. `key` is the one it was sent with."""
        blame = verdict.blame
        breaker = endpoint.breaker
        if blame is Blame.GOOD:
            endpoint.answers += 1
            if key is not None and len(self._keys):
                self._keys.accepted(key)
            if breaker is None or (breaker.state == "closed" and not breaker.consecutive and not breaker.spec.rate):
                return
        elif blame in (Blame.CLIENT, Blame.NONE):
            return
        now_s = clock.monotonic()
        permit = 0
        if hint is not None:
            permit, hint.permit = hint.permit, 0
        elif breaker is not None:
            permit = breaker.take()  # who never hands a hint is taken at its word
        if blame is Blame.GOOD:
            if breaker is not None and breaker.succeeded(now_s, permit):
                self._told(endpoint, "breaker_closed", "a probe succeeded", now_s)
        elif blame is Blame.ENDPOINT:
            self._faulty(endpoint, verdict, permit, now_s)
        else:
            if breaker is not None:
                breaker.give_back(permit)
            if blame is Blame.REST:
                self._rest(endpoint, verdict, key, now_s)
            else:
                self._refused(endpoint, verdict, key, now_s)

    def _faulty(self, endpoint: Endpoint, verdict: Verdict, permit: int, now_s: float) -> None:
        endpoint.failures += 1
        endpoint.last_fault = f"{verdict.fault} {verdict.status}" if verdict.status else verdict.fault
        if endpoint.breaker is not None and endpoint.breaker.failed(now_s, permit):
            self._told(endpoint, "breaker_opened", endpoint.last_fault, now_s)

    def _rest(self, endpoint: Endpoint, verdict: Verdict, key: AuthSpec | None, now_s: float) -> None:
        spec = self.spec.breaker or UNWRITTEN
        asked = spec.rest_s if verdict.rest_s is None else verdict.rest_s
        until_s = now_s + min(asked, spec.rest_most_s)
        endpoint.last_fault = f"asked for rest {verdict.status}"
        if key is not None and self._keys.rest(key, until_s):
            self._told(None, "key_rested", key.value.source, now_s)
        elif until_s > endpoint.rest_until_s:
            endpoint.rest_until_s = until_s
            self._told(endpoint, "endpoint_rested", f"{until_s - now_s:.0f} s", now_s)

    def _refused(self, endpoint: Endpoint, verdict: Verdict, key: AuthSpec | None, now_s: float) -> None:
        endpoint.last_fault = f"key refused {verdict.status}"
        if key is not None and self._keys.refused(key, now_s, f"{verdict.status} from {endpoint.label}"):
            self._told(None, "key_set_aside", key.value.source, now_s)

    def key(self) -> AuthSpec | None:
        """The key to send with the attempt that begins now; hand it back with `report`."""
        keys = self._keys
        return keys.next(clock.monotonic() if keys.away else 0.0)

    # ---- by hand and by health checks

    def set_state(self, address: str, state: str) -> None:
        """enabled, draining or disabled. Raises KeyError for an unknown address, ValueError for an unknown state."""
        if state not in ADMINISTRATIVE:
            raise ValueError(f"{state!r} is none of {', '.join(ADMINISTRATIVE)}")
        endpoint = self.endpoint(address)
        if endpoint.state != state:
            endpoint.state = state
            self._told(endpoint, f"endpoint_{state}", "by hand", clock.monotonic())

    def set_breaker(self, address: str, state: str) -> None:
        """`open` until it is `closed` (reset) again. Raises KeyError for an unknown address, ValueError for others."""
        endpoint = self.endpoint(address)
        if state not in ("open", "closed"):
            raise ValueError(f"a breaker is set to open or closed, not to {state!r}")
        if endpoint.breaker is None:
            raise ValueError(f"the breaker of {self.name} is off")
        now_s = clock.monotonic()
        if state == "open":
            endpoint.breaker.force_open(now_s)
            self._told(endpoint, "breaker_opened", "by hand", now_s)
        else:
            endpoint.breaker.reset(now_s)
            endpoint.rest_until_s = 0.0
            self._told(endpoint, "breaker_closed", "by hand", now_s)

    def set_health(self, endpoint: Endpoint, health: str, why: str) -> None:
        """What active checks have found."""
        endpoint.health_why = why
        if endpoint.health != health:
            endpoint.health = health
            self._told(endpoint, f"endpoint_{health}", why, clock.monotonic())

    def endpoint(self, address: str) -> Endpoint:
        """By the address that status shows. Raises KeyError."""
        for endpoint in self.endpoints:
            if endpoint.label == address:
                return endpoint
        raise KeyError(address)

    # ---- what is shown

    def describe(self) -> dict[str, object]:
        """For status and its commands; plain data without any key."""
        now_s = clock.monotonic()
        self._arrange(now_s)
        retries = self.retries.spec
        return {
            "name": self.name,
            "protocol": self.spec.protocol,
            "balance": self.spec.balance.kind,
            "in_flight": self.in_flight,
            "available": bool(self._groups or self._last),
            "endpoints": [endpoint.describe(now_s) for endpoint in self.endpoints],
            "keys": self._keys.describe(now_s),
            "retries": {"attempts": retries.attempts, "budget_left": self.budget.left(now_s)},
        }

    def circuit_breaker(self) -> Mapping[str, object]:
        """The shape of /health: open when no endpoint's breaker lets anybody through."""
        breakers = [one.breaker for one in self.endpoints if one.breaker is not None]
        worst = max((one.consecutive for one in breakers), default=0)
        is_open = bool(breakers) and all(one.state == "open" for one in breakers)
        return {"enabled": self._refuses, "is_open": self._refuses and is_open, "consecutive_failures": worst}

    # ---- inside

    def _told(self, endpoint: Endpoint | None, event: str, why: str, now_s: float) -> None:
        self._arrange(now_s)
        self.on_change(Change(event, self.name, "" if endpoint is None else endpoint.label, why))

    def _arrange(self, now_s: float) -> None:
        """Work out who may be asked."""
        wake_s = FOREVER
        slow_start_s = self.spec.balance.slow_start_s
        changes = []
        for endpoint in self.endpoints:
            before = endpoint.breaker.state if endpoint.breaker is not None else ""
            wake_s = min(wake_s, endpoint.settle(now_s, slow_start_s))
            if before == "open" and endpoint.breaker is not None and endpoint.breaker.state != before:
                changes.append(Change("breaker_half_opened", self.name, endpoint.label, "the open time is over"))
        ready = tuple(one for one in self.endpoints if one.available)
        rest_s = self._keys.rests_until_s(now_s) if self._keys.away else 0.0
        if rest_s and self._refuses:
            ready, wake_s = (), min(wake_s, rest_s)
        self._wake_s = wake_s
        self._groups = in_groups(ready)
        proving = [one for one in ready if one.breaker is not None and one.breaker.state == "half_open"]
        self._narrow = bool(proving) or any(one.limit for one in self.endpoints)
        self._only = ready[0] if len(ready) == 1 and not self._narrow else None
        self._last = ()
        if not self._refuses and len(proving) == len(ready):
            held = {one.place for one in self.endpoints if one.breaker is not None and one.breaker.forced}
            self._last = in_groups(tuple(one for one in self.endpoints if one.wanted() and one.place not in held))
        for change in changes:
            self.on_change(change)


def in_groups(endpoints: tuple[Endpoint, ...]) -> tuple[tuple[Endpoint, ...], ...]:
    """By priority, the first group first."""
    if len({one.priority for one in endpoints}) < 2:
        return (endpoints,) if endpoints else ()
    numbers = sorted({one.priority for one in endpoints})
    return tuple(tuple(one for one in endpoints if one.priority == number) for number in numbers)


def reason(endpoint: Endpoint, now_s: float) -> str:
    """Why this endpoint may not be asked."""
    if endpoint.state != ENABLED:
        return "is disabled" if endpoint.state == DISABLED else "is drained"
    if endpoint.health == FAILING:
        return "fails its health checks"
    if endpoint.breaker is not None and endpoint.breaker.state == "open":
        return "is out: breaker open"
    return "rests" if endpoint.rest_until_s > now_s else "is available"
