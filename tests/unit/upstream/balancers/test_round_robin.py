"""In turn."""

from __future__ import annotations

from tests.unit.upstream.balancers.contract import Contract
from tests.unit.upstream.virtual import Clock, picked, upstream


class TestRoundRobin(Contract):
    kind = "round_robin"
    exact = True


def test_turns_are_spread_evenly_and_not_in_blocks() -> None:
    group = upstream(3, each={"weight": [5, 1, 1]})
    turn = [picked(group) for _ in range(7)]
    assert turn == ["e0", "e0", "e1", "e0", "e2", "e0", "e0"]


def test_an_endpoint_that_was_away_is_not_flooded(now: Clock) -> None:
    group = upstream(3)
    group.set_state("e0", "disabled")
    for _ in range(1000):
        group.acquire()
    group.set_state("e0", "enabled")
    turn = [picked(group) for _ in range(9)]
    assert turn.count("e0") == 3 and "e0 e0" not in " ".join(turn)
