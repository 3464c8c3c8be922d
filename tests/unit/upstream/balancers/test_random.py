"""Best of two."""

from __future__ import annotations

import random

from relayd.upstream.balancers.random import Balancer, Options
from relayd.upstream.endpoint import Endpoint
from relayd.upstream.spec import BalanceSpec
from tests.unit.upstream.balancers.contract import Contract
from tests.unit.upstream.virtual import addresses, upstream


class TestRandom(Contract):
    kind = "random"


def test_the_less_loaded_of_two_is_chosen() -> None:
    endpoints = [Endpoint(one) for one in addresses(2)]
    endpoints[0].in_flight = 5
    draws = iter((0.1, 0.9, 0.9, 0.1, 0.1, 0.1))
    balancer = Balancer(Options(), lambda: next(draws))
    assert [balancer.pick(endpoints, None).label for _ in range(3)] == ["e1", "e1", "e0"]


def test_more_choices_are_surer() -> None:
    chance = random.Random(1)
    endpoints = [Endpoint(one) for one in addresses(10)]
    for one in endpoints[1:]:
        one.in_flight = 3
    hits = [sum(Balancer(Options(choices=choices), chance.random).pick(endpoints, None).label == "e0" for _ in range(1000))
            for choices in (1, 2, 8)]
    assert hits[0] < 150 < hits[1] < 260 < 500 < hits[2]


def test_load_stays_balanced_without_looking_at_everybody() -> None:
    def worst(choices: int) -> int:
        group = upstream(50, balance=BalanceSpec("random", Options(choices=choices)))
        for _ in range(50 * 20):
            group.acquire()
        return max(one.in_flight for one in group.endpoints)

    assert worst(2) <= 24 < worst(1)
