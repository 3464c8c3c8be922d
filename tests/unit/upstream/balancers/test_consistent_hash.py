"""The same key to the same endpoint."""

from __future__ import annotations

from collections import Counter

import pytest

from relayd.upstream.affinity import hash_of
from relayd.upstream.balancers.consistent_hash import Options, key_fraction
from relayd.upstream.endpoint import Endpoint
from relayd.upstream.spec import BalanceSpec
from relayd.upstream.upstream import Upstream
from tests.unit.upstream.balancers.contract import Contract, keyed
from tests.unit.upstream.virtual import Clock, ask, leased, picked, upstream


class TestConsistentHash(Contract):
    kind = "consistent_hash"

    def near(self, seen: int, wanted: float, total: int) -> bool:
        return abs(seen - wanted) <= 0.06 * total  # 160 points per weight spread unevenly by a few percent


def made(count: int, bound: float = 1.25, spare: int = 4, **spec: object) -> Upstream:
    return upstream(count, balance=BalanceSpec("consistent_hash", Options(bound=bound, spare=spare)), **spec)  # type: ignore[arg-type]


def homes(group: Upstream, count: int = 2000) -> list[str]:
    found = []
    for number in range(count):
        endpoint = ask(group, None, keyed(number))
        assert endpoint is not None
        found.append(endpoint.label)
    return found


def test_a_key_meets_the_same_endpoint_again_in_every_process() -> None:
    assert homes(made(5)) == homes(made(5)) == homes(upstream(5, seed=99, balance=BalanceSpec("consistent_hash")))


@pytest.mark.parametrize("count", [3, 10, 30])
def test_an_endpoint_that_goes_moves_only_its_own_keys(count: int, now: Clock) -> None:
    group = made(count)
    before = homes(group)
    group.set_state("e1", "disabled")
    after = homes(group)
    moved = sum(old != new for old, new in zip(before, after, strict=True))
    assert moved == before.count("e1") and moved < len(before) / count * 1.4
    took = Counter(new for old, new in zip(before, after, strict=True) if old != new)
    assert len(took) > min(count - 2, 8), "spread over all others, not onto one"
    group.set_state("e1", "enabled")
    assert homes(group) == before


@pytest.mark.parametrize("count", [3, 10, 30])
def test_an_endpoint_that_joins_takes_at_most_its_share(count: int) -> None:
    before, after = homes(made(count)), homes(made(count + 1))
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {f"e{count}"} and len(moved) < len(before) / (count + 1) * 1.4


def test_load_is_bounded_though_everybody_asks_for_the_same_key() -> None:
    group = made(4, bound=1.25, spare=0)
    for number in range(1, 401):
        leased(group, 42)
        highest = max(one.in_flight for one in group.endpoints)
        assert highest <= 1.25 * number / 4 + 1, (number, highest)
    assert sum(one.in_flight for one in group.endpoints) == 400


def test_a_few_of_one_key_stay_together_when_little_is_in_flight() -> None:
    group = made(4, spare=4)
    labels = [picked(group, 42) for _ in range(8)]
    assert len(set(labels[:4])) == len(set(labels[4:])) == 1 and labels[0] != labels[4]


def test_without_a_bound_a_key_always_comes_home() -> None:
    group = made(4, bound=0.0)
    assert len({picked(group, 42) for _ in range(500)}) == 1


def test_what_overflows_goes_to_the_same_second_place() -> None:
    def second(key: int) -> str:
        group = made(6, spare=0, bound=1.0)
        home = leased(group, key).endpoint
        home.in_flight = 50
        other = picked(group, key)
        assert other != home.label
        return other

    assert [second(hash_of(b"%d" % n)) for n in range(20)] == [second(hash_of(b"%d" % n)) for n in range(20)]


def test_without_a_key_the_least_loaded_is_asked() -> None:
    group = made(3)
    for one, load in zip(group.endpoints, (4, 2, 3), strict=True):
        one.in_flight = load
    assert picked(group) == "e1" and picked(group) == "e1"


def test_the_part_that_comes_home_first_is_always_the_same(now: Clock) -> None:
    group = upstream(2, balance=BalanceSpec("consistent_hash", slow_start_s=100.0))
    full = {number for number, label in enumerate(homes(group)) if label == "e0"}
    group.set_state("e0", "disabled")
    group.set_state("e0", "enabled")
    before: set[int] = set()
    for _ in range(5):
        at_home = {number for number, label in enumerate(homes(group)) if label == "e0"}
        assert before <= at_home <= full
        before = at_home
        now.move(22.0)
    assert {number for number, label in enumerate(homes(group)) if label == "e0"} == full


def test_parts_are_spread_evenly_and_differ_from_endpoint_to_endpoint() -> None:
    keys = [hash_of(b"%d" % number) for number in range(5000)]
    for place in range(3):
        assert abs(sum(key_fraction(key, place) < 0.3 for key in keys) / 5000 - 0.3) < 0.03
    both = sum(key_fraction(key, 0) < 0.5 and key_fraction(key, 1) < 0.5 for key in keys)
    assert abs(both / 5000 - 0.25) < 0.04


def test_a_ring_of_heavy_endpoints_stays_small() -> None:
    group = upstream(4, each={"weight": [1000, 1000, 1000, 1]}, balance=BalanceSpec("consistent_hash"))
    seen = Counter(homes(group, 2000))
    assert all(500 < seen[f"e{number}"] < 820 for number in range(3))


def test_an_endpoint_knows_its_own_place() -> None:
    assert [one.index for one in made(3).endpoints] == [0, 1, 2] and isinstance(made(1).endpoints[0], Endpoint)
