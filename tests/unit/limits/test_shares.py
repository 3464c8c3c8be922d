"""Simulations over hours of a gate's operation: fair shares, and correct estimates of waiting times.

Time is the hand-moved clock of the gate, chance a seeded generator; the answers are the same in every run.
"""

from __future__ import annotations

import heapq
import random
import statistics
from collections import defaultdict
from collections.abc import Callable

import pytest

from relayd.limits.gate import Gate, GateLimits
from relayd.limits.ticket import GRANTED, WAITING, Refused, Ticket
from tests.unit.limits.gate_rig import Hand


class World:
    """A gate, its clock, and what happens when; service times by consumer."""

    def __init__(self, limits: GateLimits, service_s: Callable[[str], float]) -> None:
        self.clock = Hand()
        self.gate = Gate("g", limits, self.clock)
        self.service_s = service_s
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.number = 0
        self.busy_s: dict[str, float] = defaultdict(float)
        self.waits_s: dict[str, list[float]] = defaultdict(list)
        self.served: dict[str, int] = defaultdict(int)
        self.refused: dict[str, int] = defaultdict(int)
        self.on_refusal: Callable[[str, Refused], None] = lambda consumer, refused: None
        self.on_start: Callable[[Ticket], None] = lambda ticket: None
        self.then: Callable[[str], object] = lambda consumer: None

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        self.number += 1
        heapq.heappush(self.events, (self.clock.now_s + seconds, self.number, what))

    def run(self, seconds: float) -> None:
        end_s = self.clock.now_s + seconds
        while self.events and self.events[0][0] <= end_s:
            self.clock.now_s, _, what = heapq.heappop(self.events)
            what()

    def ask(self, consumer: str) -> Ticket | None:
        try:
            ticket = self.gate.acquire(consumer, 0, None, self.started, self.turned_away)
        except Refused as refused:
            self.refused[consumer] += 1
            self.on_refusal(consumer, refused)
            return None
        if ticket.state == GRANTED:
            self.started(ticket)
        return ticket

    def started(self, ticket: Ticket) -> None:
        self.waits_s[ticket.consumer].append(ticket.waited_s)
        self.on_start(ticket)
        taken_s = self.service_s(ticket.consumer)
        self.busy_s[ticket.consumer] += taken_s

        def done() -> None:
            self.served[ticket.consumer] += 1
            self.gate.release(ticket)
            self.then(ticket.consumer)

        self.after(taken_s, done)

    def turned_away(self, ticket: Ticket, reason: str, retry_after_s: float) -> None:
        self.refused[ticket.consumer] += 1
        self.then(ticket.consumer)


def exponential(mean_s: float, seed: int = 1) -> Callable[[str], float]:
    chance = random.Random(seed)
    return lambda consumer: chance.expovariate(1 / mean_s)


def test_a_modest_consumer_hardly_waits_behind_a_greedy_one() -> None:
    """Sixty requests of one consumer wait at any time; the other sends one now and then and is the next or next but one."""
    world = World(GateLimits(8, 64, 0.0), exponential(4.0))
    chance = random.Random(2)
    world.then = lambda consumer: world.ask(consumer) if consumer == "greedy" else None

    def modest() -> None:
        world.ask("modest")
        world.after(chance.expovariate(1 / 10), modest)

    for _ in range(64):
        world.ask("greedy")
    world.after(60, modest)
    world.run(10_000)
    assert world.refused["modest"] == 0
    assert world.served["modest"] > 800
    greedy_s, modest_s = (statistics.mean(world.waits_s[consumer]) for consumer in ("greedy", "modest"))
    assert modest_s < 1.0  # a permit comes back every 0.5 s
    assert greedy_s > 20 * modest_s


@pytest.mark.parametrize(("requests_of", "service"), [
    ({"a": 60, "b": 20}, {"a": 1.0, "b": 1.0}),
    ({"a": 60, "b": 20}, {"a": 1.0, "b": 0.1}),
])
def test_greedy_consumers_get_equal_shares_of_the_permits(requests_of: dict[str, int], service: dict[str, float]) -> None:
    """Shares are of what is held, not of how often: ten short requests are worth a long one."""
    chance = random.Random(3)
    world = World(GateLimits(8, 100, 0.0), lambda consumer: chance.expovariate(1 / service[consumer]))
    world.then = lambda consumer: world.ask(consumer)
    for consumer, count in requests_of.items():
        for _ in range(count):
            world.ask(consumer)
    world.run(1000)
    assert world.busy_s["a"] / world.busy_s["b"] == pytest.approx(1, rel=0.1)


def test_the_queue_is_shared_fairly_too() -> None:
    """A consumer with a hundred requests a second leaves queue capacity for one with few requests."""
    world = World(GateLimits(2, 8, 0.0), exponential(1.0))

    def knock(consumer: str, every_s: float) -> None:
        world.ask(consumer)
        world.after(every_s, lambda: knock(consumer, every_s))

    knock("greedy", 0.01)
    world.after(5, lambda: knock("modest", 1.6))
    world.run(500)
    assert world.refused["greedy"] > 25_000
    assert world.refused["modest"] <= 5
    assert statistics.mean(world.waits_s["modest"]) < 2


@pytest.mark.parametrize("service", [
    pytest.param(exponential(3.0, 5), id="exponential"),
    pytest.param(lambda consumer: 3.0, id="constant"),
    pytest.param((lambda chance: lambda consumer: chance.choice([0.3, 0.3, 0.3, 11.0]))(random.Random(7)), id="short and long"),
])
def test_retry_after_is_honest(service: Callable[[str], float]) -> None:
    """The Retry-After of a refused client, against when the last of those who then waited was served: nine of ten times
    within a factor of two."""
    world = World(GateLimits(8, 64, 0.0), service)
    chance = random.Random(4)
    reported: list[tuple[float, float, Ticket]] = []
    last: list[Ticket] = []
    started: dict[int, float] = {}
    world.on_start = lambda ticket: started.__setitem__(id(ticket), world.clock.now_s)

    def refusal(consumer: str, refused: Refused) -> None:
        reported.append((world.clock.now_s, refused.retry_after_s, last[0]))

    def arrive() -> None:
        ticket = world.ask("a")
        if ticket is not None and ticket.state == WAITING:
            last[:] = [ticket]
        world.after(chance.expovariate(5.0), arrive)  # 5 a second; 8 permits of 3 s serve 2.7

    world.on_refusal = refusal
    arrive()
    world.run(3000)
    ratios = [seconds / (started[id(ticket)] - at_s) for at_s, seconds, ticket in reported if id(ticket) in started]
    assert len(ratios) > 3000
    honest = sum(0.5 <= ratio <= 2 for ratio in ratios) / len(ratios)
    assert honest > 0.9
    assert 0.75 < statistics.median(ratios) < 1.35


def test_early_refusals_avoid_useless_waiting_and_cost_little_throughput() -> None:
    """With a limit of 10 s before a queue that would take 24 s: hardly anybody waits in vain, no permit stands idle."""
    world = World(GateLimits(8, 64, 10.0), exponential(3.0))
    chance = random.Random(6)

    def arrive() -> None:
        world.ask("a")
        world.after(chance.expovariate(5.0), arrive)

    def sweep() -> None:
        world.gate.sweep(world.clock.now_s)
        world.after(0.25, sweep)

    arrive()
    sweep()
    world.run(3000)
    refused = world.gate.counts.refused
    assert refused["deadline"] > 5 * refused["queue_timeout"]
    assert world.busy_s["a"] / (8 * 3000) > 0.98
    assert max(world.waits_s["a"]) <= 10.25


def test_two_thousand_clients_that_leave_at_random_leak_nothing() -> None:
    """Eight permits, a queue of 64; each client gives up after a random time, queued or served, and returns."""
    world = World(GateLimits(8, 64, 5.0), exponential(0.5))
    chance = random.Random(8)
    most = [0, 0]

    def come(number: int) -> None:
        ticket = world.ask(f"c{number % 50}")
        most[:] = [max(most[0], world.gate.in_flight), max(most[1], world.gate.depth)]
        if ticket is not None:
            world.after(chance.expovariate(1 / 2.0), lambda: world.gate.release(ticket))
        if world.clock.now_s < 1300:
            world.after(chance.expovariate(1 / 20), lambda: come(number))

    def sweep() -> None:
        world.gate.sweep(world.clock.now_s)
        if world.clock.now_s < 1400:
            world.after(0.25, sweep)

    for number in range(2000):
        world.after(chance.uniform(0, 20), lambda number=number: come(number))  # type: ignore[misc]
    sweep()
    world.run(500)
    gate, counts = world.gate, world.gate.counts
    assert most == [8, 64]
    assert (gate.in_flight, gate.depth) == (0, 0)
    assert gate.describe()["in_flight_of"] == gate.describe()["waiting_of"] == {}
    assert counts.queued == counts.waited + counts.left_waiting + counts.refused["queue_timeout"] + counts.refused["shed"]
    assert counts.waited > 3000
    assert counts.left_waiting > 3000
