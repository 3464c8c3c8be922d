"""A lease: one attempt's hold on an endpoint, a key and a breaker's permit."""

from __future__ import annotations

from relayd.schema import Secret
from relayd.upstream.classify import GOOD, Blame, classify
from relayd.upstream.spec import AuthSpec
from tests.unit.upstream.virtual import FAULT, STRICT, Clock, heard, leased, picked, trip, upstream

KEYS = [AuthSpec("bearer", "Authorization", Secret(f"sk-{name}", f"file /k/{name}")) for name in "ab"]


def test_a_lease_counts_until_it_is_released_and_is_released_once() -> None:
    group = upstream(1)
    first, second = leased(group), leased(group)
    assert group.in_flight == 2
    for _ in range(3):
        first.release(FAULT)
    assert group.in_flight == 1 and group.endpoints[0].failures == 1
    second.release(None)
    assert group.in_flight == 0 and group.endpoints[0].failures == 1


def test_a_lease_holds_the_key_that_is_sent() -> None:
    group = upstream(1, auth=KEYS[0], spare_keys=(KEYS[1],))
    assert [leased(group).key for _ in range(3)] == [KEYS[0], KEYS[1], KEYS[0]]
    assert leased(upstream(1)).key is None


def test_the_permit_of_a_probe_comes_back_with_its_lease(now: Clock) -> None:
    group = upstream(1, breaker=STRICT)
    trip(group, "e0")
    now.move(10.0)
    probe = leased(group)
    assert probe.permit and group.acquire() is None
    probe.release(None)
    assert not probe.permit
    again = leased(group)
    assert again.permit, "an attempt without a known outcome leaves the breaker half open"
    again.release(classify("client_gone", 0))
    assert picked(group) == "e0"


def test_a_good_head_settles_a_probe_and_the_end_of_its_body_changes_nothing_more(now: Clock) -> None:
    group = upstream(1, breaker=STRICT)
    changes = heard(group)
    trip(group, "e0")
    now.move(10.0)
    probe = leased(group)
    probe.answered()
    assert picked(group) == "e0" and not probe.permit
    probe.release(GOOD)
    assert [one.event for one in changes] == ["breaker_opened", "breaker_half_opened", "breaker_closed"]


def test_a_lease_knows_whose_key_was_sent() -> None:
    keyed, opaque, spoken = upstream(1, auth=KEYS[0]), upstream(1), upstream(1, protocol="openai_chat")
    assert leased(keyed).classify("", 401).blame is Blame.KEY
    assert leased(keyed).classify("", 429, client_key=True).blame is Blame.COOLDOWN, "relayd's key went in its place"
    assert leased(opaque).classify("", 429).blame is Blame.CLIENT
    assert leased(spoken).classify("", 429).blame is Blame.COOLDOWN
    assert leased(spoken).classify("", 429, client_key=True).blame is Blame.CLIENT
    assert leased(spoken).classify("connect_failed", 0, client_key=True).blame is Blame.ENDPOINT


def test_a_lease_that_was_released_gives_no_sign_of_life(now: Clock) -> None:
    group = upstream(1, breaker=STRICT)
    lease = leased(group)
    lease.release(None)
    trip(group, "e0")
    now.move(10.0)
    leased(group)
    answers = group.endpoints[0].answers
    lease.answered()
    assert group.endpoints[0].answers == answers and group.acquire() is None
