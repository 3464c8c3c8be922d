"""Rates of the last hour, latencies by endpoint, and the last failures: exact, and bounded."""

from __future__ import annotations

import pytest

from relayd import clock
from relayd.telemetry import recent as module
from relayd.telemetry.recent import BUCKETS, INTERVAL_S, MAX_FAILURES, MAX_OUTCOMES, SAMPLES, Recent
from relayd.usage import Usage
from tests.unit.telemetry.record import record


class Wall:
    """The wall clock of a test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000_000.0
        monkeypatch.setattr(clock, "wall", lambda: self.now)


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    return Wall(monkeypatch)


def test_requests_tokens_and_cost_are_summed_by_interval(wall: Wall) -> None:
    recent = Recent()
    paid = record()
    paid.usage, paid.cost_nano, paid.currency = Usage(input=10, output=4), 2500, "EUR"
    recent.add(paid)
    recent.add(record(code="connect_failed", ended_by="upstream", status=502))
    recent.add(record(code="unauthorized", ended_by="client", status=401))
    wall.now += 2 * INTERVAL_S
    recent.add(record())
    first, buckets = recent.history()
    assert first == 1_000_000 // INTERVAL_S and recent.currency == "EUR"
    assert buckets == [[3, 1, 10, 4, 2500], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]]
    assert recent.history(1) == (first + 2, [[1, 0, 0, 0, 0]])


def test_the_history_is_an_hour_whatever_the_clock_does(wall: Wall) -> None:
    recent = Recent()
    recent.add(record())
    for step in (BUCKETS * INTERVAL_S - INTERVAL_S, INTERVAL_S, 5 * INTERVAL_S):
        wall.now += step
        recent.add(record())
    first, buckets = recent.history()
    assert len(buckets) == BUCKETS and first + BUCKETS - 1 == wall.now // INTERVAL_S
    assert buckets[-1] == [1, 0, 0, 0, 0] and sum(bucket[0] for bucket in buckets) == 3
    wall.now -= 100_000  # the clock is set back: the history goes on from the new time
    recent.add(record())
    assert recent.history()[0] + BUCKETS - 1 == wall.now // INTERVAL_S and recent.history()[1][-1][0] == 2
    for _ in range(3):
        wall.now += INTERVAL_S
        recent.add(record())
    first, buckets = recent.history()
    assert first + BUCKETS - 1 == wall.now // INTERVAL_S and [one[0] for one in buckets[-4:]] == [2, 1, 1, 1]
    wall.now += 10_000_000
    assert recent.history() == (wall.now // INTERVAL_S, [[0, 0, 0, 0, 0]])


def test_percentiles_are_those_of_the_last_responses(wall: Wall) -> None:
    recent = Recent()
    for number in range(1, SAMPLES + 101):
        recent.add(record(upstream="up", endpoint="a", total_s=float(number), first_byte_s=number / 10))
    streamed = record(upstream="up", endpoint="b", total_s=9.0, first_byte_s=0.1)
    streamed.more = {"first_token_ms": 700.0}
    recent.add(streamed)
    recent.add(record(upstream="up", endpoint="c", total_s=1.0, first_byte_s=-1.0))
    assert recent.endpoints["up", "a"].percentiles() == (201.0, 281.0, 299.0, 20.1, 28.1, 29.9)
    assert recent.endpoints["up", "b"].percentiles()[3] == 0.7
    assert recent.endpoints["up", "c"].percentiles() == ()


def test_outcomes_and_endpoints_are_bounded(wall: Wall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ENDPOINTS", 3)
    recent = Recent()
    for number in range(5):
        recent.add(record(upstream="up", endpoint=str(number)))
    assert [endpoint for _, endpoint in recent.endpoints] == ["2", "3", "4"]
    for number in range(2 * MAX_OUTCOMES):
        recent.add(record(upstream="up", endpoint="4", code=f"code{number}"))
    outcomes = recent.endpoints["up", "4"].outcomes
    assert len(outcomes) == MAX_OUTCOMES + 1 and outcomes["complete"] == 1 and outcomes["other"] == MAX_OUTCOMES + 1


def test_an_error_that_the_endpoint_answers_is_an_outcome_by_its_status(wall: Wall) -> None:
    recent = Recent()
    for status in (200, 429, 500, 500):
        recent.add(record(upstream="up", endpoint="a", status=status))
    assert recent.endpoints["up", "a"].outcomes == {"complete": 1, "status_429": 1, "status_500": 2}
    assert recent.history()[1][-1][1] == 2 and len(recent.failures) == 2


def test_failures_of_clients_displace_no_others(wall: Wall) -> None:
    recent = Recent()
    broken = record(code="connect_failed", ended_by="upstream", status=502, detail="d" * 1000, id="mine")
    broken.more = {"model": "m"}
    recent.add(broken)
    for _ in range(2 * MAX_FAILURES):
        recent.add(record(code="unauthorized", ended_by="client", status=401))
    (one,) = recent.failures
    assert one.record[0] == "mine" and one.record[5] == "m" and one.number == 1 and len(one.record[-1]) == 300
    assert len(recent.client_failures) == MAX_FAILURES and recent.client_failures[-1].number == 2 * MAX_FAILURES + 1
