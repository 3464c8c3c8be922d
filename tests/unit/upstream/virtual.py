"""What the tests of decisions share: a clock that is told the time, and upstreams of endpoints that nobody connects to."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from relayd import clock
from relayd.upstream.classify import Blame, Verdict
from relayd.upstream.endpoint import Endpoint
from relayd.upstream.hint import Hint
from relayd.upstream.spec import BreakerSpec, EndpointSpec, UpstreamSpec
from relayd.upstream.upstream import Change, Upstream

FAULT = Verdict(Blame.ENDPOINT, "connect", fallback="unavailable")
STRICT = BreakerSpec(failures=2, open_s=10.0, open_most_s=60.0)


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


def heard(group: Upstream) -> list[Change]:
    """Every change from now on."""
    changes: list[Change] = []
    group.on_change = changes.append
    return changes


def ask(group: Upstream, verdict: Verdict, hint: Hint | None = None) -> Endpoint | None:
    """One whole attempt."""
    hint = hint or Hint()
    endpoint = group.pick(hint)
    if endpoint is not None:
        group.report(endpoint, verdict, hint)
        group.leave(endpoint, hint)
    return endpoint


def trip(group: Upstream, address: str) -> None:
    """Open the breaker of one endpoint by as many faults as it takes."""
    endpoint = group.endpoint(address)
    assert endpoint.breaker is not None
    for _ in range(endpoint.breaker.spec.failures):
        group.report(endpoint, FAULT, Hint())
    assert endpoint.breaker.state == "open"


def counted(group: Upstream, picks: int, hint_of: Any = lambda number: Hint()) -> Counter[str]:
    """How often each endpoint is picked by exchanges that end at once."""
    seen: Counter[str] = Counter()
    for number in range(picks):
        hint = hint_of(number)
        endpoint = group.pick(hint)
        seen["none" if endpoint is None else endpoint.label] += 1
        if endpoint is not None:
            group.leave(endpoint, hint)
    return seen
