"""Counts of waiting requests per consumer."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from relayd.limits.waiting_counts import WaitingCounts


def test_no_request_waits_at_first() -> None:
    waiting = WaitingCounts()
    assert not waiting
    assert waiting.largest() == ("", 0)


def test_the_last_to_reach_the_largest_count_is_named() -> None:
    waiting = WaitingCounts()
    for consumer in "abab":
        waiting.add(consumer)
    assert waiting.largest() == ("b", 2)
    waiting.remove("b")
    assert waiting.largest() == ("a", 2)


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abcd")), max_size=60))
def test_it_counts_as_a_counter_does(steps: list[tuple[bool, str]]) -> None:
    waiting, plain = WaitingCounts(), Counter[str]()
    for add, consumer in steps:
        if add:
            waiting.add(consumer)
            plain[consumer] += 1
        elif plain[consumer]:
            waiting.remove(consumer)
            plain[consumer] -= 1
        counts = {name: count for name, count in plain.items() if count}
        assert waiting.by_consumer == counts
        assert bool(waiting) is bool(counts)
        largest_consumer, most = waiting.largest()
        assert most == max(counts.values(), default=0)
        assert counts.get(largest_consumer, 0) == most
