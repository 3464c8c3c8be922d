"""Spend in memory."""

from __future__ import annotations

from relayd.limits.spend import MAX_ROWS, OTHER, Spend, SpendKey
from relayd.usage import Usage

DAY_S = 86400.0


def add(spend: Spend, model: str = "m", wall_s: float = 0.0, usage: Usage | None = None, cost: int | None = 5) -> None:
    spend.add(wall_s, "team", "paying", "llm", "up", model, "USD", usage, cost)


def test_requests_of_one_key_are_added_up() -> None:
    spend = Spend()
    add(spend, usage=Usage(10, 4, 3, 2, 1))
    add(spend, usage=Usage(1, 1), cost=None)
    ((key, counts),) = spend.pop()
    assert key == SpendKey("1970-01-01", "team", "paying", "llm", "up", "m", "USD")
    assert counts._asdict() == {
        "requests": 2, "unpriced": 1, "input": 11, "output": 5, "cached_read": 3, "cache_write": 2, "reasoning": 1, "cost_nano": 5,
        "estimated": 0,
    }
    assert spend.pop() == []


def test_a_day_ends_at_midnight_of_utc() -> None:
    spend = Spend()
    for wall_s in (DAY_S - 0.001, DAY_S, 0.0):
        add(spend, wall_s=wall_s)
    assert [(key.day, counts.requests) for key, counts in spend.pop()] == [("1970-01-01", 2), ("1970-01-02", 1)]


def test_sums_that_could_not_be_written_are_added_to_the_next_ones() -> None:
    spend = Spend()
    add(spend)
    rows = spend.pop()
    add(spend)
    spend.restore(rows)
    ((_, counts),) = spend.pop()
    assert (counts.requests, counts.cost_nano) == (2, 10)


def test_names_that_clients_choose_do_not_fill_the_memory_and_no_cost_is_lost() -> None:
    spend = Spend()
    for number in range(MAX_ROWS + 100):
        add(spend, f"model-{number}")
    rows = spend.pop()
    assert len(rows) == MAX_ROWS + 1
    assert {key.model: counts.requests for key, counts in rows}[OTHER] == 100
    assert sum(counts.cost_nano for _, counts in rows) == 5 * (MAX_ROWS + 100)


def test_the_sums_of_a_consumer_are_dropped() -> None:
    spend = Spend()
    add(spend)
    spend.add(0.0, "other", "", "llm", "up", "m", "USD", None, 5)
    spend.forget("team")
    assert [key.consumer for key, _ in spend.pop()] == ["other"]
