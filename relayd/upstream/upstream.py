"""An upstream: a named group of endpoints with its keys and retries, and the effects of every attempt.

Laws:
1. `acquire` grants a lease, and the release of the lease returns everything that it holds (lease.py).
2. Every attempt has one classification, made by classify.py. This module applies it to endpoint, breaker and key.
3. The state that an operator sets for an address is kept across reloads until an operator changes it.
4. `set_endpoints` changes the addresses of a live upstream. An address that stays keeps its endpoint with all of its
   state. An address that is removed gets no new request, finishes its exchanges, and closes its connections with the
   last of them. If it returns, it is the same endpoint again: before that with its connections, later with the failures
   that removed_endpoints.py remembers. Another instance at the same address (a new container) is a new endpoint.
5. Addresses that an operator sets replace those of the configuration and of the discovery, which are kept up to date
   beside them, until the operator or a change of the configured addresses ends that.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from relayd import clock
from relayd.protocols.dialect import run_steps
from relayd.schema import Secret
from relayd.upstream.breaker import HALF_OPEN
from relayd.upstream.classify import Blame, Classification
from relayd.upstream.discovered import Discovered
from relayd.upstream.endpoint import ADMINISTRATIVE, UNKNOWN, Connect, Endpoint, described
from relayd.upstream.event import NO_DETAILS, UpstreamEvent, ignore_event
from relayd.upstream.health import Checker, CheckResult
from relayd.upstream.keys import Keys
from relayd.upstream.lease import Lease
from relayd.upstream.model_list import ModelList
from relayd.upstream.removed_endpoints import RemovedEndpoints
from relayd.upstream.retry import Budget, RetryPolicy
from relayd.upstream.rotation import Rotation
from relayd.upstream.spec import AuthSpec, BreakerSpec, EndpointSpec, Identity, RetrySpec, UpstreamSpec, labels_of
from relayd.wire.json_steps import Steps

NO_RETRIES = RetrySpec()
_GOOD = Blame.GOOD
UNWRITTEN = BreakerSpec(refuses=False)


class Upstream:
    """Live state of one `upstreams:` entry; shared by all plans with an equal spec for it.

    Life cycle: construct (no side effects), open (connections), retire (no plan uses it any more), close (automatic,
    with the last exchange). Owned by the plan, carried over by a reload. The daemon sets `on_change` and `discovered`.
    `leaving` are endpoints whose address was removed and which still have exchanges. `assigned` are the addresses of
    the configuration or the discovery; others are in use while `overridden` is true. `operator_changes` counts commands
    of operators, so that a commit sees whether state was inherited before one of them.
    """

    __slots__ = (
        "_chance", "_connect", "_keys", "_removed", "_retired", "_rotation", "affinity", "assigned", "budget",
        "checkers", "discovered", "endpoints", "leaving", "max_attempts", "model_list", "name", "on_change", "opened",
        "operator_changes", "overridden", "retries", "spec",
    )

    def __init__(self, spec: UpstreamSpec, chance: Callable[[], float] = random.random) -> None:
        self.spec = spec
        self.name = spec.name
        self._chance = chance
        self._connect: Connect | None = None  # None while the upstream is closed
        self.endpoints = tuple(Endpoint(one, spec, index, chance) for index, one in enumerate(spec.endpoints))
        self.leaving: tuple[Endpoint, ...] = ()
        self.assigned = spec.endpoints
        self.overridden = self.opened = False
        self.operator_changes = 0
        self.discovered: Discovered | None = None  # None with configured endpoints
        self.on_change: Callable[[UpstreamEvent], None] = ignore_event
        retries = spec.retries or NO_RETRIES
        self.budget = Budget(retries.share, retries.minimum, retries.window_s)
        self.retries = RetryPolicy(retries, self.budget, chance)
        self.max_attempts = retries.attempts
        self._keys = Keys(spec.keys)
        self.checkers: tuple[Checker, ...] = ()
        self._set_checkers()
        self.model_list = ModelList(chance) if spec.list_models else None
        self._removed = RemovedEndpoints()
        self._retired = False
        self._rotation = Rotation(spec, self.endpoints, chance, self._half_opened)
        self.affinity = self._rotation.affinity

    def hide_keys(self) -> None:
        """Mask the values of the keys, but not their sources, for a dry run that prints its requests."""
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

    # ---- life cycle

    def open(self, connect: Connect) -> None:
        """Prepare the connections of the endpoints. Calling it again changes nothing."""
        for endpoint in self.endpoints:
            endpoint.open(self.spec, connect)
        self._connect = connect
        self.opened = True
        self._retired = False

    def retire(self) -> None:
        """No plan uses the upstream any more: close it with its last exchange."""
        self._retired = True
        if not self.in_flight:
            self.close()

    def close(self) -> None:
        """Close all connection pools."""
        for endpoint in (*self.endpoints, *self.leaving):
            endpoint.close()
        self._connect = None
        self.opened = False

    def inherit_state(self, previous: Upstream) -> None:
        """Copy the state of the previous plan's upstream of the same name: endpoints by address, keys, budget.

        `previous` is not modified, so that the new plan can be discarded. What is known of an address that the new plan
        lacks is remembered for a later plan that contains the address again.
        """
        now_s = clock.monotonic()
        self._removed.inherit_state(previous._removed, self._copy)
        before = {endpoint.spec.identity: endpoint for endpoint in (*previous.leaving, *previous.endpoints)}
        for endpoint in previous.endpoints:
            self._removed.keep_state(endpoint)
        for endpoint in self.endpoints:
            same = before.get(endpoint.spec.identity)
            returned = self._removed.take(endpoint.spec, now_s)
            if same is not None:
                endpoint.inherit_state(same)
            elif returned is not None:
                endpoint.inherit_state(returned)
            if same is None:
                endpoint.available = False  # new in a running group: it starts slowly
            endpoint.state = self._removed.take_state(endpoint.spec)
            if self.spec.health is None:
                endpoint.health = UNKNOWN
        kept = {endpoint.spec.identity for endpoint in self.endpoints}
        for identity, endpoint in before.items():
            if identity not in kept:
                self._removed.keep(self._copy(endpoint), now_s)
        self._keys.inherit_state(previous._keys)
        if self.model_list is not None and previous.model_list is not None:
            self.model_list.inherit_state(previous.model_list)
        self.budget.inherit_state(previous.budget)
        self.operator_changes = previous.operator_changes
        self.on_change = previous.on_change
        self.recompute(now_s)

    def set_endpoints(self, specs: Sequence[EndpointSpec], source: str = "configuration") -> None:
        """Set the addresses of the configuration or the discovery. `source`: where they come from, for the log."""
        is_changed, self.assigned = tuple(specs) != self.assigned, tuple(specs)
        if self.overridden and is_changed and self.discovered is None:
            self.overridden = False
        if not self.overridden:
            self._use(self.assigned, source)

    def override_endpoints(self, specs: Sequence[EndpointSpec] | None) -> None:
        """Use these addresses of an operator; None for those of the configuration or the discovery again."""
        self.overridden = specs is not None
        known = {one.location: one for one in (*self.assigned, *self.spec.endpoints) if one.instance}
        residents = ((one, known.get(one.location, one)) for one in specs or ())  # an operator knows addresses only
        given = tuple(replace(one, instance=same.instance, run=same.run) for one, same in residents)
        self._use(self.assigned if specs is None else given, "operator")

    def _use(self, specs: tuple[EndpointSpec, ...], source: str) -> None:
        """Replace the addresses in use. Has no effect if they are equal to the present ones."""
        if specs == self.spec.endpoints:
            return
        old = self.spec.endpoints
        self.spec = replace(self.spec, endpoints=specs)
        known: dict[Identity, list[Endpoint]] = {}
        for endpoint in (*self.endpoints, *self.leaving):
            known.setdefault(endpoint.spec.identity, []).append(endpoint)
        before, now_s = set(self.endpoints), clock.monotonic()
        for endpoint in self.endpoints:
            self._removed.keep_state(endpoint)
        self.endpoints = tuple(self._endpoint_for(spec, index, known, now_s) for index, spec in enumerate(specs))
        gone = [endpoint for same in known.values() for endpoint in same]
        for endpoint in gone:
            self._remove(endpoint, now_s)
        self.leaving = tuple(endpoint for endpoint in gone if endpoint.in_flight)
        self._set_checkers()
        self._rotation.set_endpoints(self.endpoints, now_s)
        details = {"old": labels_of(old), "new": labels_of(specs), "source": source}
        self.notify(None, "endpoints_changed", difference(before, self.endpoints), now_s, details)

    def _endpoint_for(
        self, spec: EndpointSpec, index: int, known: dict[Identity, list[Endpoint]], now_s: float
    ) -> Endpoint:
        """The endpoint of an address: removed from `known` if present there, else a returning or a new one."""
        same = known.get(spec.identity)
        state = self._removed.take_state(spec)
        if same:
            endpoint = same.pop(0)
            endpoint.configure(spec, self.spec.max_connections, index)
            endpoint.leaving = False
            return endpoint
        returned = self._removed.take(spec, now_s)
        endpoint = Endpoint(spec, self.spec, index, self._chance)
        if returned is not None:
            endpoint.inherit_state(returned)
        endpoint.available = False  # new in a running group: it starts slowly
        endpoint.state = state
        if self._connect is not None:
            endpoint.open(self.spec, self._connect)
        return endpoint

    def _copy(self, endpoint: Endpoint) -> Endpoint:
        """A closed endpoint of this upstream with the state of one of another upstream."""
        copied = Endpoint(endpoint.spec, self.spec, endpoint.index, self._chance)
        copied.inherit_state(endpoint)
        return copied

    def _remove(self, endpoint: Endpoint, now_s: float) -> None:
        """The address of the endpoint was removed from the configuration."""
        endpoint.leaving = True
        if not endpoint.in_flight:
            endpoint.close()
            self._removed.keep(endpoint, now_s)

    def _set_checkers(self) -> None:
        """Create a checker for each endpoint; an endpoint that stays keeps its checker."""
        health = self.spec.health
        if health is not None:
            known = {checker.endpoint: checker for checker in self.checkers}
            self.checkers = tuple(known.get(one) or Checker(health, one, self._chance) for one in self.endpoints)

    # ---- leases

    def acquire(
        self, affinity: int | None = None, tried: Sequence[Endpoint] = (), preferred: str | None = None
    ) -> Lease | None:
        """Lease an endpoint for one attempt; None if no endpoint is available (`unavailable` says why).
        `affinity` is the key of consistent_hash, `preferred` the label of an endpoint to choose if it can be. One in
        `tried` is chosen only if no other is available. An exchange's first attempt (none tried) counts as a request
        for the retry budget.
        """
        if self.max_attempts > 1 and not tried:
            self.budget.request(clock.monotonic())
        endpoint = self._rotation.choose(affinity, tried, preferred)
        if endpoint is None:
            return None
        endpoint.in_flight += 1
        endpoint.load.in_flight += 1
        endpoint.picked += 1
        breaker, keys = endpoint.breaker, self._keys
        permit = breaker.acquire_permit() if breaker is not None and breaker.state == HALF_OPEN else 0
        key = keys.next(clock.monotonic() if keys.away else 0.0) if self.spec.auth is not None else None
        return Lease(self, endpoint, key, permit)

    def is_available(self, label: str) -> bool:
        """True if the endpoint with this label is available, with or without capacity."""
        return self._rotation.find(label) is not None

    def has_another(self, tried: Sequence[Endpoint], classification: Classification | None = None) -> bool:
        """True if an endpoint outside `tried` has capacity or, after a fault of the key, another key is in force."""
        if classification is not None and classification.about_key and len(self._keys) > 1:
            return self._keys.any_available(clock.monotonic()) or self._rotation.has_another(tried)
        return self._rotation.has_another(tried)

    def has_capacity(self) -> bool:
        """True if a request waiting at this upstream's gate may proceed: an endpoint has capacity, or none is available
        to wait for."""
        return self._rotation.has_capacity() and not self.waits_for_endpoint()

    def waits_for_endpoint(self) -> bool:
        """True if requests wait in the queue until an endpoint is discovered."""
        return not self.endpoints and self.spec.waits_for_endpoint

    def unavailable(self) -> tuple[str, float]:
        """Why no endpoint was chosen, for the log, and after how many seconds that changes (1 if that is unknown)."""
        if not self.endpoints and self.discovered is not None:
            return self.discovered.why_empty(), 1.0
        return self._rotation.unavailable(clock.monotonic())

    # ---- called by leases

    def lease_answered(self, lease: Lease) -> None:
        """A good response head has arrived: the endpoint is alive, and a probe ends."""
        endpoint = lease.endpoint
        endpoint.answers += 1
        permit, lease.permit = lease.permit, 0
        if permit and endpoint.breaker is not None:
            now_s = clock.monotonic()
            if endpoint.breaker.succeeded(now_s, permit):
                self.notify(endpoint, "breaker_closed", "a probe succeeded", now_s)

    def lease_released(self, lease: Lease, classification: Classification | None) -> None:
        """The attempt has ended: apply its classification, then release its resources."""
        endpoint = lease.endpoint
        if classification is not None:
            if classification.blame is not _GOOD:
                self._apply(lease, classification)
            else:
                endpoint.answers += 1
                if lease.key is not None:
                    self._keys.accepted(lease.key)
                breaker = endpoint.breaker
                if breaker is not None and (breaker.state != "closed" or breaker.consecutive or breaker.spec.rate):
                    self._apply(lease, classification)
        if lease.permit and endpoint.breaker is not None:
            endpoint.breaker.release_permit(lease.permit)
            lease.permit = 0
        endpoint.in_flight -= 1
        endpoint.load.in_flight -= 1
        if endpoint.leaving and not endpoint.in_flight:
            self._close_left(endpoint)
        if self._retired and not self.in_flight:
            self.close()

    def _close_left(self, endpoint: Endpoint) -> None:
        """An endpoint whose address was removed has finished its last exchange."""
        endpoint.close()
        self._removed.keep(endpoint, clock.monotonic())
        self.leaving = tuple(one for one in self.leaving if one is not endpoint)

    def _apply(self, lease: Lease, outcome: Classification) -> None:
        endpoint, blame = lease.endpoint, outcome.blame
        if blame is Blame.CLIENT or blame is Blame.NONE:
            return
        breaker = endpoint.breaker
        now_s = clock.monotonic()
        permit, lease.permit = lease.permit, 0
        if blame is Blame.GOOD:
            if breaker is not None and breaker.succeeded(now_s, permit):
                self.notify(endpoint, "breaker_closed", "a probe succeeded", now_s)
        elif blame is Blame.ENDPOINT:
            self._endpoint_failed(endpoint, outcome, permit, now_s)
        else:
            if breaker is not None:
                breaker.release_permit(permit)
            if blame is Blame.COOLDOWN:
                self._cool_down(endpoint, outcome, lease.key, now_s)
            else:
                self._key_refused(endpoint, outcome, lease.key, now_s)

    def _endpoint_failed(self, endpoint: Endpoint, outcome: Classification, permit: int, now_s: float) -> None:
        endpoint.failures += 1
        endpoint.last_fault = f"{outcome.fault} {outcome.status}" if outcome.status else outcome.fault
        if self.discovered is not None and outcome.fault == "connect":
            self.discovered.look_again()
        if endpoint.breaker is not None and endpoint.breaker.failed(now_s, permit):
            self.notify(endpoint, "breaker_opened", endpoint.last_fault, now_s)

    def _cool_down(self, endpoint: Endpoint, outcome: Classification, key: AuthSpec | None, now_s: float) -> None:
        spec = self.spec.breaker or UNWRITTEN
        asked = spec.cooldown_s if outcome.retry_after_s is None else outcome.retry_after_s
        until_s = now_s + min(asked, spec.max_cooldown_s)
        endpoint.last_fault = f"asked for a cool-down {outcome.status}"
        if key is not None and outcome.about_key and self._keys.cool_down(key, until_s):
            self.notify(None, "key_rested", key.value.source, now_s)
        elif until_s > endpoint.cooldown_until_s:
            endpoint.cooldown_until_s = until_s
            self.notify(endpoint, "endpoint_rested", f"{until_s - now_s:.0f} s", now_s)

    def _key_refused(self, endpoint: Endpoint, outcome: Classification, key: AuthSpec | None, now_s: float) -> None:
        endpoint.last_fault = f"key refused {outcome.status}"
        if key is not None and self._keys.refused(key, now_s, f"{outcome.status} from {endpoint.label}"):
            self.notify(None, "key_set_aside", key.value.source, now_s)

    # ---- operator commands and health checks

    def set_state(self, address: str, state: str) -> None:
        """enabled, draining or disabled. Raises KeyError for an unknown address, ValueError for an unknown state."""
        if state not in ADMINISTRATIVE:
            raise ValueError(f"{state!r} is none of {', '.join(ADMINISTRATIVE)}")
        endpoint = self.endpoint(address)
        if endpoint.state != state:
            self.operator_changes += 1
            endpoint.state = state
            self.notify(endpoint, f"endpoint_{state}", "by hand", clock.monotonic())

    def set_breaker(self, address: str, state: str) -> None:
        """Force the breaker `open` until it is `closed` (reset) again. Raises KeyError for an unknown address and
        ValueError for an unknown state or a breaker that is off."""
        endpoint = self.endpoint(address)
        if state not in ("open", "closed"):
            raise ValueError(f"a breaker is set to open or closed, not to {state!r}")
        if endpoint.breaker is None:
            raise ValueError(f"the breaker of {self.name} is off")
        now_s = clock.monotonic()
        self.operator_changes += 1
        if state == "open":
            endpoint.breaker.force_open(now_s)
            self.notify(endpoint, "breaker_opened", "by hand", now_s)
        else:
            endpoint.breaker.reset(now_s)
            endpoint.cooldown_until_s = 0.0
            self.notify(endpoint, "breaker_closed", "by hand", now_s)

    def record_check(self, checker: Checker, finding: CheckResult) -> None:
        """Apply the result of an active check."""
        endpoint, health = checker.endpoint, checker.record(finding)
        endpoint.health_why = finding.why
        if endpoint.leaving:
            endpoint.health = health  # of interest only if its address returns
        elif endpoint.health != health:
            endpoint.health = health
            self.notify(endpoint, f"endpoint_{health}", finding.why, clock.monotonic())

    def endpoint(self, address: str) -> Endpoint:
        """The endpoint with this label, as shown by status. Raises KeyError."""
        for endpoint in self.endpoints:
            if endpoint.label == address:
                return endpoint
        raise KeyError(address)

    # ---- status

    def describe(self) -> dict[str, object]:
        """As `describe_steps`, at once."""
        return run_steps(self.describe_steps())

    def describe_steps(self) -> Steps[dict[str, object]]:
        """For status and its commands; plain data without the values of keys."""
        now_s = clock.monotonic()
        self.recompute(now_s)
        retries = self.retries.spec
        return {
            "name": self.name,
            "protocol": self.spec.protocol,
            "balance": self.spec.balance.kind,
            "in_flight": self.in_flight,
            "available": self._rotation.is_open,
            "endpoints": (yield from described(self.endpoints, self.leaving, now_s)),
            "keys": self._keys.describe(now_s),
            "retries": {"attempts": retries.attempts, "budget_left": self.budget.left(now_s)},
            "models": None if self.model_list is None else self.model_list.describe(now_s),
            "discovery": None if self.discovered is None else self.discovered.describe(),
            "overridden": self.overridden,
        }

    def circuit_breaker(self) -> Mapping[str, object]:
        """The circuit breaker object of /health: open if the breakers of all endpoints are open."""
        breakers = [one.breaker for one in self.endpoints if one.breaker is not None]
        worst = max((one.consecutive for one in breakers), default=0)
        is_open = bool(breakers) and all(one.state == "open" for one in breakers)
        enabled = self._rotation.refuses
        return {"enabled": enabled, "is_open": enabled and is_open, "consecutive_failures": worst}

    # ---- changes

    def notify(
        self, endpoint: Endpoint | None, event: str, why: str, now_s: float, details: Mapping[str, str] = NO_DETAILS
    ) -> None:
        """Apply and report a change of an endpoint or a key."""
        self.recompute(now_s)
        self.on_change(UpstreamEvent(event, self.name, "" if endpoint is None else endpoint.label, why, details))

    def _half_opened(self, endpoint: Endpoint) -> None:
        self.on_change(UpstreamEvent("breaker_half_opened", self.name, endpoint.label, "the open time is over"))

    def recompute(self, now_s: float) -> None:
        """Recompute the available endpoints after a change."""
        self._rotation.blocked_until_s = self._keys.all_cooling_until_s(now_s) if self._keys.away else 0.0
        self._rotation.recompute(now_s)


def difference(before: set[Endpoint], after: Sequence[Endpoint]) -> str:
    """A summary of a change of endpoints, for the log."""
    added = [one.label for one in after if one not in before]
    gone = sorted(one.label for one in before.difference(after))
    replaced = [label for label in added if label in gone]  # another instance has got the address
    parts = []
    for word, labels in (
        ("added", [label for label in added if label not in replaced]),
        ("removed", [label for label in gone if label not in replaced]), ("replaced", replaced),
    ):
        parts += [f"{word} {', '.join(labels)}"] if labels else []
    return "; ".join(parts) or "weights, priorities or limits"
