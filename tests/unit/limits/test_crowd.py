"""Who has the most waiting."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from relayd.limits.crowd import Crowd


def test_nobody_is_a_crowd_of_nobody() -> None:
    crowd = Crowd()
    assert not crowd
    assert crowd.largest() == ("", 0)


def test_the_last_to_reach_the_largest_count_is_named() -> None:
    crowd = Crowd()
    for who in "abab":
        crowd.add(who)
    assert crowd.largest() == ("b", 2)
    crowd.drop("b")
    assert crowd.largest() == ("a", 2)


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abcd")), max_size=60))
def test_it_counts_as_a_counter_does(steps: list[tuple[bool, str]]) -> None:
    crowd, plain = Crowd(), Counter[str]()
    for add, who in steps:
        if add:
            crowd.add(who)
            plain[who] += 1
        elif plain[who]:
            crowd.drop(who)
            plain[who] -= 1
        counts = {name: count for name, count in plain.items() if count}
        assert crowd.counts == counts
        assert bool(crowd) is bool(counts)
        who_most, most = crowd.largest()
        assert most == max(counts.values(), default=0)
        assert counts.get(who_most, 0) == most
