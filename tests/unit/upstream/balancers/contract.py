"""What every balancer must do, whatever its kind; each kind's own test file runs this suite and adds what is its own.

The endpoints are those of a real upstream, so that the layers around a balancer (availability, priority, limits, slow
start) are part of what is shown.
"""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from relayd.upstream.affinity import hash_of
from relayd.upstream.endpoint import Endpoint
from relayd.upstream.lease import Lease
from relayd.upstream.spec import BalanceSpec
from relayd.upstream.upstream import Upstream
from tests.unit.upstream.virtual import STRICT, Clock, ask, counted, leased, picked, trip, upstream


def keyed(number: int) -> int:
    return hash_of(b"%d" % number)


class Contract:
    """`kind` is the word in relayd.yaml."""

    kind = ""
    exact = False  # whether shares are exact, or only right on average
    orders_itself = False  # whether endpoints without a priority are numbered by the configuration

    def made(self, count: int = 3, each: dict[str, Any] | None = None, slow_start_s: float = 0.0, **spec: Any) -> Upstream:
        return upstream(count, each=each, balance=BalanceSpec(self.kind, slow_start_s=slow_start_s), **spec)

    def near(self, seen: int, wanted: float, total: int) -> bool:
        return abs(seen - wanted) <= (1.0 if self.exact else 0.035 * total)

    @pytest.mark.parametrize("weights", [[1, 1, 1], [3, 1, 1], [5, 3, 2], [1, 100, 1]])
    def test_weights_are_honoured(self, weights: list[int]) -> None:
        seen = counted(self.made(each={"weight": weights}), 4000, keyed)
        for number, weight in enumerate(weights):
            assert self.near(seen[f"e{number}"], 4000 * weight / sum(weights), 4000), seen

    def test_weights_are_honoured_under_load_too(self) -> None:
        group = self.made(each={"weight": [4, 2, 2]})
        open_now: list[Lease] = []
        chance = random.Random(5)
        for number in range(4000):
            open_now.append(leased(group, keyed(number)))
            if len(open_now) > 80:
                open_now.pop(chance.randrange(len(open_now))).release(None)
        shares = [one.picked / 4000 for one in group.endpoints]
        assert abs(shares[0] - 0.5) < 0.08 and abs(shares[1] - 0.25) < 0.08, shares

    def test_no_endpoint_is_starved(self) -> None:
        seen = counted(self.made(10, each={"weight": [1] * 9 + [20]}), 3000, keyed)
        assert len(seen) == 10 and min(seen.values()) > 20, seen

    def test_a_disabled_a_drained_and_an_open_endpoint_are_never_chosen(self, now: Clock) -> None:
        group = self.made(5, breaker=STRICT)
        group.set_state("e0", "disabled")
        group.set_state("e1", "draining")
        trip(group, "e2")
        assert set(counted(group, 500, keyed)) == {"e3", "e4"}

    def test_a_full_endpoint_is_never_chosen_and_all_full_is_nobody(self) -> None:
        group = self.made(3, each={"limit": [1, 2, 3]})
        leases = [group.acquire(keyed(number)) for number in range(8)]
        labels = ["none" if one is None else one.endpoint.label for one in leases]
        assert Counter(labels) == {"e0": 1, "e1": 2, "e2": 3, "none": 2}
        next(one for one in leases if one is not None and one.endpoint.label == "e1").release(None)
        assert picked(group, keyed(1)) == "e1"

    def test_the_next_priority_is_asked_only_when_the_one_before_has_nobody(self, now: Clock) -> None:
        group = self.made(4, each={"priority": [0, 0, 1, 2]}, breaker=STRICT)
        assert set(counted(group, 300, keyed)) == {"e0", "e1"}
        trip(group, "e0")
        assert set(counted(group, 100, keyed)) == {"e1"}
        group.set_state("e1", "disabled")
        assert set(counted(group, 100, keyed)) == {"e2"}
        group.set_state("e2", "disabled")
        assert set(counted(group, 100, keyed)) == {"e3"}
        group.set_state("e1", "enabled")
        assert set(counted(group, 100, keyed)) == {"e1"}

    def test_a_group_that_is_full_overflows_into_the_next(self) -> None:
        group = self.made(2, each={"priority": [0, 1], "limit": [2, 0]})
        assert [picked(group, keyed(number)) for number in range(4)] == ["e0", "e0", "e1", "e1"]

    def test_a_returning_endpoint_starts_slowly_and_reaches_its_share(self, now: Clock) -> None:
        group = self.made(2, slow_start_s=100.0)
        group.set_state("e0", "disabled")
        counted(group, 1)
        group.set_state("e0", "enabled")
        shares = []
        for _ in range(6):
            seen = counted(group, 2000, keyed)
            shares.append(seen["e0"] / 2000)
            now.move(21.0)
        assert shares[0] < 0.13 and abs(shares[-1] - 0.5) < 0.04, shares
        assert all(later > sooner - 0.02 for sooner, later in pairwise(shares)), shares

    def test_a_fresh_upstream_needs_no_slow_start(self, now: Clock) -> None:
        seen = counted(self.made(2, slow_start_s=100.0), 2000, keyed)
        assert self.near(seen["e0"], 1000, 2000)

    def test_another_endpoint_comes_first(self) -> None:
        group = self.made(4)
        for number in range(50):
            tried: list[Endpoint] = []
            for _ in range(4):
                endpoint = ask(group, None, keyed(number), tried)
                assert endpoint is not None
                tried.append(endpoint)
            assert len({one.label for one in tried}) == 4, tried
            assert picked(group, keyed(number), tried) != "none", "when all were tried, one of them again"

    def test_the_same_chance_makes_the_same_choices(self) -> None:
        def labels() -> list[str]:
            group = self.made(5, each={"weight": [1, 2, 3, 4, 5]})
            return [picked(group, keyed(number)) for number in range(200)]

        assert labels() == labels()

    def test_endpoints_that_join_or_leave_disturb_nobody(self, now: Clock) -> None:
        group = self.made(4)
        counted(group, 100, keyed)
        for address in ("e0", "e3", "e1"):
            group.set_state(address, "disabled")
            seen = counted(group, 60, keyed)
            assert address not in seen and "none" not in seen
        for address in ("e0", "e3", "e1"):
            group.set_state(address, "enabled")
        seen = counted(group, 2000, keyed)
        assert all(self.near(seen[one], 500, 2000) or abs(seen[one] - 500) < 10 for one in ("e0", "e1", "e2", "e3")), seen
