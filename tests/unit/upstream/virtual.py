"""What the tests of decisions share: a clock that is told the time, and upstreams of endpoints that nobody connects to."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from relayd import clock
from relayd.upstream.classify import Blame, Classification
from relayd.upstream.endpoint import Endpoint
from relayd.upstream.event import UpstreamEvent
from relayd.upstream.lease import Lease
from relayd.upstream.spec import AuthSpec, BreakerSpec, EndpointSpec, UpstreamSpec
from relayd.upstream.upstream import Upstream

FAULT = Classification(Blame.ENDPOINT, "connect", fallback="unavailable")
STRICT = BreakerSpec(failures=2, open_s=10.0, max_open_s=60.0)


class Clock:
    """Time stands still until it is moved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr(clock, "monotonic", lambda: self.now_s)

    def move(self, seconds: float) -> None:
        self.now_s += seconds


def addresses(count: int, **each: Any) -> tuple[EndpointSpec, ...]:
    """e0, e1 ...; a list gives every endpoint its own value."""
    made = []
    for number in range(count):
        words = {name: value[number] if isinstance(value, list) else value for name, value in each.items()}
        made.append(EndpointSpec(f"http://10.0.0.{number}", "", f"e{number}", **words))
    return tuple(made)


def upstream(count: int = 3, seed: int = 7, each: dict[str, Any] | None = None, **spec: Any) -> Upstream:
    return Upstream(UpstreamSpec("up", addresses(count, **(each or {})), **spec), random.Random(seed).random)


def heard(group: Upstream) -> list[UpstreamEvent]:
    """Every change from now on."""
    changes: list[UpstreamEvent] = []
    group.on_change = changes.append
    return changes


def ask(
    group: Upstream, outcome: Classification | None, affinity: int | None = None, tried: Sequence[Endpoint] = ()
) -> Endpoint | None:
    """One whole attempt; its endpoint, None if no lease was granted."""
    lease = group.acquire(affinity, tried)
    if lease is None:
        return None
    lease.release(outcome)
    return lease.endpoint


def leased(group: Upstream, affinity: int | None = None, tried: Sequence[Endpoint] = ()) -> Lease:
    """A lease that is expected to be granted."""
    lease = group.acquire(affinity, tried)
    assert lease is not None
    return lease


def picked(group: Upstream, affinity: int | None = None, tried: Sequence[Endpoint] = ()) -> str:
    """The label of the endpoint whose lease is taken and kept; `none` without one."""
    lease = group.acquire(affinity, tried)
    return "none" if lease is None else lease.endpoint.label


def report(group: Upstream, address: str, outcome: Classification, key: AuthSpec | None = None) -> None:
    """The outcome of an attempt at this endpoint that was sent with this key, whoever would be chosen now."""
    endpoint = group.endpoint(address)
    endpoint.in_flight += 1
    endpoint.load.in_flight += 1
    Lease(group, endpoint, key, 0).release(outcome)


def trip(group: Upstream, address: str) -> None:
    """Open the breaker of one endpoint by as many faults as it takes."""
    endpoint = group.endpoint(address)
    assert endpoint.breaker is not None
    for _ in range(endpoint.breaker.spec.failures):
        report(group, address, FAULT)
    assert endpoint.breaker.state == "open"


def counted(group: Upstream, attempts: int, key_of: Callable[[int], int | None] = lambda number: None) -> Counter[str]:
    """How often each endpoint is chosen for attempts that end at once."""
    seen: Counter[str] = Counter()
    for number in range(attempts):
        endpoint = ask(group, None, key_of(number))
        seen["none" if endpoint is None else endpoint.label] += 1
    return seen
