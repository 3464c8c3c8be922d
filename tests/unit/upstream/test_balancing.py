"""Balancers by the word in the configuration; and what none of them ever does."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.config.upstream import Upstream as Section
from relayd.registry import kinds
from relayd.schema.describe import keys
from relayd.upstream.affinity import hash_of
from relayd.upstream.balancing import FOLDER, balancer
from relayd.upstream.lease import Lease
from relayd.upstream.spec import BalanceSpec
from tests.unit.upstream.virtual import upstream


def test_the_words_of_the_configuration_are_the_files_of_the_folder() -> None:
    (key,) = (one for one in keys(Section) if one.name == "balance")
    assert key.choices is not None and list(key.choices) == list(kinds(FOLDER))


@pytest.mark.parametrize("kind", kinds(FOLDER))
def test_every_kind_is_made_with_its_defaults(kind: str) -> None:
    made = balancer(BalanceSpec(kind), random.random)
    made.join(())


def test_a_word_that_is_no_kind_is_refused() -> None:
    with pytest.raises(KeyError):
        balancer(BalanceSpec("fastest"), random.random)


@pytest.mark.parametrize("kind", kinds(FOLDER))
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_nobody_who_may_not_be_asked_ever_is(kind: str, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 5))
    each = {
        "weight": data.draw(st.lists(st.integers(1, 50), min_size=count, max_size=count)),
        "priority": data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)),
        "limit": data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count)),
    }
    group = upstream(count, each=each, balance=BalanceSpec(kind))
    forced_open: list[Lease] = []
    for what, number in data.draw(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 99)), max_size=40)):
        if what == 0 and forced_open:
            forced_open.pop(number % len(forced_open)).release(None)
        elif what == 1:
            state = ("enabled", "disabled", "draining")[number % 3]
            group.set_state(f"e{number % count}", state)
        else:
            affinity = hash_of(b"%d" % number) if number % 2 else None
            free = [one for one in group.endpoints
                    if one.state == "enabled" and (not one.limit or one.in_flight < one.limit)]
            lease = group.acquire(affinity)
            assert (lease is None) == (not free)
            if lease is not None:
                assert lease.endpoint in free and lease.endpoint.priority == min(one.priority for one in free)
                forced_open.append(lease)
    for lease in forced_open:
        lease.release(None)
    assert group.in_flight == 0
