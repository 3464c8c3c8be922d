"""An upstream: a named group of endpoints with its keys and retries, and what became of every attempt.

Laws:
1. `acquire` grants a lease, and the release of the lease returns everything that it holds (lease.py).
2. Every attempt has one classification, which comes from classify.py; what it means for endpoint, breaker and key is
   worked out here.
3. What an operator says of an address is kept until an operator says otherwise, over every reload.
4. `set_endpoints` changes the addresses of a living upstream. An address that stays keeps its endpoint with all of its
   state. One that goes takes no new request, finishes what it has, and closes its connections with its last exchange;
   one that returns before that is the same endpoint again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from relayd import clock
from relayd.schema import Secret
from relayd.upstream.breaker import HALF_OPEN
from relayd.upstream.classify import Blame, Classification
from relayd.upstream.endpoint import ADMINISTRATIVE, ENABLED, UNKNOWN, Connect, Endpoint
from relayd.upstream.health import Checker, Finding
from relayd.upstream.keys import Keys
from relayd.upstream.lease import Lease
from relayd.upstream.model_list import ModelList
from relayd.upstream.retry import Budget, RetryPolicy
from relayd.upstream.rotation import Rotation
from relayd.upstream.spec import AuthSpec, BreakerSpec, EndpointSpec, RetrySpec, UpstreamSpec

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

    Life: construct (no side effects), open (connections), retire (no plan names it any more), close (by itself, with
    the last exchange). Owned by the plan, carried over by a reload. `on_change` is set by the daemon. `leaving` are
    endpoints whose address is gone and which still have exchanges.
    """

    __slots__ = (
        "_absent", "_budgeted", "_chance", "_connect", "_keys", "_retired", "_rotation", "affinity", "budget",
        "checkers", "endpoints", "leaving", "model_list", "name", "on_change", "opened", "retries", "spec",
    )

    def __init__(self, spec: UpstreamSpec, chance: Callable[[], float] = random.random) -> None:
        self.spec = spec
        self.name = spec.name
        self._chance = chance
        self._connect: Connect | None = None  # while it is open
        self.endpoints = tuple(Endpoint(one, spec, place, chance) for place, one in enumerate(spec.endpoints))
        self.leaving: tuple[Endpoint, ...] = ()
        self.opened = False
        self.on_change: Callable[[Change], None] = unheard
        retries = spec.retries or NO_RETRIES
        self.budget = Budget(retries.share, retries.minimum, retries.window_s)
        self.retries = RetryPolicy(retries, self.budget, chance)
        self._budgeted = retries.attempts > 1
        self._keys = Keys(spec.keys)
        self.checkers: tuple[Checker, ...] = ()
        self._set_checkers()
        self.model_list = ModelList(chance) if spec.list_models else None
        self._absent: dict[tuple[str, str, str], str] = {}  # states of addresses that are gone, by identity
        self._retired = False
        self._rotation = Rotation(spec, self.endpoints, chance, self._half_opened)
        self.affinity = self._rotation.affinity

    def hide_keys(self) -> None:
        """Replace the keys by a word, for a dry run, whose requests are shown; where they are read from stays known."""
        keys = tuple(AuthSpec(one.kind, one.name, Secret("masked", one.value.source)) for one in self.spec.keys)
        if keys:
            self.spec = replace(self.spec, auth=keys[0], spare_keys=keys[1:])
            self._keys = Keys(keys)

    @property
    def in_flight(self) -> int:
        count = 0
        for endpoint in self.endpoints:
            count += endpoint.in_flight
        for endpoint in self.leaving:
            count += endpoint.in_flight
        return count

    # ---- life

    def open(self, connect: Connect) -> None:
        """Prepare the connections of the endpoints. Calling it again changes nothing."""
        for endpoint in self.endpoints:
            endpoint.open(self.spec, connect)
        self._connect = connect
        self.opened = True
        self._retired = False

    def retire(self) -> None:
        """No plan names it any more: close as soon as nobody uses it."""
        self._retired = True
        if not self.in_flight:
            self.close()

    def close(self) -> None:
        """Let all connections go."""
        for endpoint in (*self.endpoints, *self.leaving):
            endpoint.close()
        self._connect = None
        self.opened = False

    def inherit_state(self, previous: Upstream) -> None:
        """Continue where the upstream of the same name in the previous plan stands: endpoints by address, keys, budget.

        Nothing in `previous` changes, so that the plan may still be thrown away. What an operator said of an address
        that is not in the plan now is kept for the plan in which it comes back.
        """
        now_s = clock.monotonic()
        before = {endpoint.spec.identity: endpoint for endpoint in (*previous.leaving, *previous.endpoints)}
        said = previous._absent | {one.spec.identity: one.state for one in previous.endpoints if one.state != ENABLED}
        for endpoint in self.endpoints:
            same = before.get(endpoint.spec.identity)
            if same is not None:
                endpoint.inherit_state(same)
            else:
                endpoint.available = False  # new in a running group: it starts slowly
            endpoint.state = said.pop(endpoint.spec.identity, ENABLED)
            if self.spec.health is None:
                endpoint.health = UNKNOWN
        self._absent = said
        self._keys.inherit_state(previous._keys)
        if self.model_list is not None and previous.model_list is not None:
            self.model_list.inherit_state(previous.model_list)
        self.budget.inherit_state(previous.budget)
        self.on_change = previous.on_change
        self._arranged(now_s)

    def set_endpoints(self, specs: Sequence[EndpointSpec]) -> None:
        """These are the addresses from now on. Calling it with those that it has changes nothing."""
        if tuple(specs) == self.spec.endpoints:
            return
        self.spec = replace(self.spec, endpoints=tuple(specs))
        known: dict[tuple[str, str, str], list[Endpoint]] = {}
        for endpoint in (*self.endpoints, *self.leaving):
            known.setdefault(endpoint.spec.identity, []).append(endpoint)
        before = set(self.endpoints)
        self.endpoints = tuple(self._placed(spec, place, known) for place, spec in enumerate(specs))
        gone = [endpoint for same in known.values() for endpoint in same]
        for endpoint in gone:
            self._let_go(endpoint)
        self.leaving = tuple(endpoint for endpoint in gone if endpoint.in_flight)
        self._set_checkers()
        now_s = clock.monotonic()
        self._rotation.set_endpoints(self.endpoints, now_s)
        self._told(None, "endpoints_changed", difference(before, self.endpoints), now_s)

    def _placed(
        self, spec: EndpointSpec, place: int, known: dict[tuple[str, str, str], list[Endpoint]]
    ) -> Endpoint:
        """The endpoint of an address: the one in `known`, which is taken out, or a new one."""
        same = known.get(spec.identity)
        state = self._absent.pop(spec.identity, ENABLED)
        if same:
            endpoint = same.pop(0)
            endpoint.configure(spec, self.spec.max_connections, place)
            endpoint.leaving = False
            return endpoint
        endpoint = Endpoint(spec, self.spec, place, self._chance)
        endpoint.available = False  # new in a running group: it starts slowly
        endpoint.state = state
        if self._connect is not None:
            endpoint.open(self.spec, self._connect)
        return endpoint

    def _let_go(self, endpoint: Endpoint) -> None:
        """Its address is gone."""
        if endpoint.state != ENABLED:
            self._absent[endpoint.spec.identity] = endpoint.state
        endpoint.leaving = True
        if not endpoint.in_flight:
            endpoint.close()

    def _set_checkers(self) -> None:
        """One for each endpoint; an endpoint that stays keeps its own."""
        health = self.spec.health
        if health is not None:
            known = {checker.endpoint: checker for checker in self.checkers}
            self.checkers = tuple(known.get(one) or Checker(health, one, self._chance) for one in self.endpoints)

    # ---- leases

    def acquire(self, affinity: int | None = None, tried: Sequence[Endpoint] = ()) -> Lease | None:
        """Lease an endpoint for one attempt; None if no endpoint is available (`unavailable` says why).

        `affinity` is the number by which consistent_hash chooses. Endpoints in `tried` are chosen only if there is no
        other one; an exchange's first attempt, for which `tried` is empty, counts as a request for the retry budget.
        """
        if self._budgeted and not tried:
            self.budget.request(clock.monotonic())
        endpoint = self._rotation.choose(affinity, tried)
        if endpoint is None:
            return None
        endpoint.in_flight += 1
        endpoint.load.in_flight += 1
        endpoint.picked += 1
        breaker, keys = endpoint.breaker, self._keys
        permit = breaker.take() if breaker is not None and breaker.state == HALF_OPEN else 0
        key = keys.next(clock.monotonic() if keys.away else 0.0) if self.spec.auth is not None else None
        return Lease(self, endpoint, key, permit)

    def has_another(self, tried: Sequence[Endpoint], classification: Classification | None = None) -> bool:
        """Whether an endpoint is free that is not in `tried`; after a fault of the key, also whether another key is."""
        if classification is not None and classification.about_key and len(self._keys) > 1:
            return self._keys.some_in_force(clock.monotonic()) or self._rotation.has_another(tried)
        return self._rotation.has_another(tried)

    def has_room(self) -> bool:
        """Whether who waits at this upstream's gate may go on: an endpoint has room, or there is none to wait for."""
        return self._rotation.has_room()

    def unavailable(self) -> tuple[str, float]:
        """Why nothing was picked, for the log; and after how many seconds that changes (1 where nobody can know)."""
        return self._rotation.unavailable(clock.monotonic())

    # ---- called by leases

    def lease_answered(self, lease: Lease) -> None:
        """A good head has arrived: a sign of life, and the end of a probe."""
        endpoint = lease.endpoint
        endpoint.answers += 1
        permit, lease.permit = lease.permit, 0
        if permit and endpoint.breaker is not None:
            now_s = clock.monotonic()
            if endpoint.breaker.succeeded(now_s, permit):
                self._told(endpoint, "breaker_closed", "a probe succeeded", now_s)

    def lease_released(self, lease: Lease, classification: Classification | None) -> None:
        """The attempt has ended: take note of its outcome, then of its place."""
        endpoint = lease.endpoint
        if classification is not None:
            self._report(lease, classification)
        if lease.permit and endpoint.breaker is not None:
            endpoint.breaker.give_back(lease.permit)
            lease.permit = 0
        endpoint.in_flight -= 1
        endpoint.load.in_flight -= 1
        if endpoint.leaving and not endpoint.in_flight:
            endpoint.close()
            self.leaving = tuple(one for one in self.leaving if one is not endpoint)
        if self._retired and not self.in_flight:
            self.close()

    def _report(self, lease: Lease, outcome: Classification) -> None:
        endpoint, blame = lease.endpoint, outcome.blame
        breaker = endpoint.breaker
        if blame is Blame.GOOD:
            endpoint.answers += 1
            if lease.key is not None:
                self._keys.accepted(lease.key)
            if breaker is None or (breaker.state == "closed" and not breaker.consecutive and not breaker.spec.rate):
                return
        elif blame in (Blame.CLIENT, Blame.NONE):
            return
        now_s = clock.monotonic()
        permit, lease.permit = lease.permit, 0
        if blame is Blame.GOOD:
            if breaker is not None and breaker.succeeded(now_s, permit):
                self._told(endpoint, "breaker_closed", "a probe succeeded", now_s)
        elif blame is Blame.ENDPOINT:
            self._faulty(endpoint, outcome, permit, now_s)
        else:
            if breaker is not None:
                breaker.give_back(permit)
            if blame is Blame.REST:
                self._rest(endpoint, outcome, lease.key, now_s)
            else:
                self._refused(endpoint, outcome, lease.key, now_s)

    def _faulty(self, endpoint: Endpoint, outcome: Classification, permit: int, now_s: float) -> None:
        endpoint.failures += 1
        endpoint.last_fault = f"{outcome.fault} {outcome.status}" if outcome.status else outcome.fault
        if endpoint.breaker is not None and endpoint.breaker.failed(now_s, permit):
            self._told(endpoint, "breaker_opened", endpoint.last_fault, now_s)

    def _rest(self, endpoint: Endpoint, outcome: Classification, key: AuthSpec | None, now_s: float) -> None:
        spec = self.spec.breaker or UNWRITTEN
        asked = spec.rest_s if outcome.rest_s is None else outcome.rest_s
        until_s = now_s + min(asked, spec.rest_most_s)
        endpoint.last_fault = f"asked for rest {outcome.status}"
        if key is not None and outcome.about_key and self._keys.rest(key, until_s):
            self._told(None, "key_rested", key.value.source, now_s)
        elif until_s > endpoint.cooldown_until_s:
            endpoint.cooldown_until_s = until_s
            self._told(endpoint, "endpoint_rested", f"{until_s - now_s:.0f} s", now_s)

    def _refused(self, endpoint: Endpoint, outcome: Classification, key: AuthSpec | None, now_s: float) -> None:
        endpoint.last_fault = f"key refused {outcome.status}"
        if key is not None and self._keys.refused(key, now_s, f"{outcome.status} from {endpoint.label}"):
            self._told(None, "key_set_aside", key.value.source, now_s)

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
            endpoint.cooldown_until_s = 0.0
            self._told(endpoint, "breaker_closed", "by hand", now_s)

    def checked(self, checker: Checker, finding: Finding) -> None:
        """What an active check has found."""
        endpoint, health = checker.endpoint, checker.found(finding)
        endpoint.health_why = finding.why
        if endpoint.leaving:
            endpoint.health = health  # of interest only if its address returns
        elif endpoint.health != health:
            endpoint.health = health
            self._told(endpoint, f"endpoint_{health}", finding.why, clock.monotonic())

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
        self._arranged(now_s)
        retries = self.retries.spec
        return {
            "name": self.name,
            "protocol": self.spec.protocol,
            "balance": self.spec.balance.kind,
            "in_flight": self.in_flight,
            "available": self._rotation.is_open,
            "endpoints": [endpoint.describe(now_s) for endpoint in (*self.endpoints, *self.leaving)],
            "keys": self._keys.describe(now_s),
            "retries": {"attempts": retries.attempts, "budget_left": self.budget.left(now_s)},
            "models": None if self.model_list is None else self.model_list.describe(now_s),
        }

    def circuit_breaker(self) -> Mapping[str, object]:
        """The shape of /health: open when no endpoint's breaker lets anybody through."""
        breakers = [one.breaker for one in self.endpoints if one.breaker is not None]
        worst = max((one.consecutive for one in breakers), default=0)
        is_open = bool(breakers) and all(one.state == "open" for one in breakers)
        enabled = self._rotation.refuses
        return {"enabled": enabled, "is_open": enabled and is_open, "consecutive_failures": worst}

    # ---- inside

    def _told(self, endpoint: Endpoint | None, event: str, why: str, now_s: float) -> None:
        self._arranged(now_s)
        self.on_change(Change(event, self.name, "" if endpoint is None else endpoint.label, why))

    def _half_opened(self, endpoint: Endpoint) -> None:
        self.on_change(Change("breaker_half_opened", self.name, endpoint.label, "the open time is over"))

    def _arranged(self, now_s: float) -> None:
        """Something has changed."""
        self._rotation.blocked_until_s = self._keys.rests_until_s(now_s) if self._keys.away else 0.0
        self._rotation.arrange(now_s)


def difference(before: set[Endpoint], after: Sequence[Endpoint]) -> str:
    """What a change of endpoints has changed, for the log."""
    added = [one.label for one in after if one not in before]
    gone = sorted(one.label for one in before.difference(after))
    parts = [f"added {', '.join(added)}"] if added else []
    parts += [f"removed {', '.join(gone)}"] if gone else []
    return "; ".join(parts) or "weights, priorities or limits"
