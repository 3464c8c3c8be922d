"""Several keys: in turn, set aside, at rest, and never shown."""

from __future__ import annotations

import json

from relayd.schema import Secret
from relayd.upstream.keys import ASIDE_S, Keys
from relayd.upstream.spec import AuthSpec

A, B, C = (AuthSpec("bearer", "Authorization", Secret(f"sk-{name}", f"file /k/{name}")) for name in "abc")


def used(keys: Keys, count: int, now_s: float = 0.0) -> str:
    return "".join(one.value.reveal()[-1] for _ in range(count) if (one := keys.next(now_s)) is not None)


def test_no_keys_are_no_key() -> None:
    keys = Keys(())
    assert keys.next() is None and not len(keys) and keys.all_cooling_until_s(0.0) == 0.0


def test_keys_are_used_in_turn() -> None:
    assert used(Keys((A, B, C)), 7) == "abcabca"


def test_a_refused_key_is_set_aside_for_a_while_and_comes_back() -> None:
    keys = Keys((A, B, C))
    assert keys.refused(B, 100.0, "401 from e1")
    assert used(keys, 4, 101.0) == "acac"
    assert sorted(used(keys, 3, 100.0 + ASIDE_S)) == ["a", "b", "c"]
    assert not keys.away


def test_a_second_refusal_of_the_same_key_is_no_news() -> None:
    keys = Keys((A, B))
    assert keys.refused(A, 0.0) and not keys.refused(A, 1.0)


def test_a_key_rests_as_long_as_it_was_asked_to() -> None:
    keys = Keys((A, B))
    assert keys.cool_down(A, 10.0)
    assert used(keys, 3, 9.9) == "bbb" and sorted(used(keys, 2, 10.0)) == ["a", "b"]


def test_a_shorter_rest_does_not_end_a_longer_one() -> None:
    keys = Keys((A, B))
    keys.cool_down(A, 100.0)
    keys.cool_down(A, 5.0)
    assert used(keys, 2, 50.0) == "bb"


def test_the_only_key_neither_rests_nor_goes_aside() -> None:
    keys = Keys((A,))
    assert not keys.cool_down(A, 99.0) and not keys.refused(A, 0.0, "401") and used(keys, 2, 1.0) == "aa"
    assert keys.describe(1.0)[0]["refused"] == 1


def test_when_none_is_in_force_the_one_that_comes_back_first_is_used() -> None:
    keys = Keys((A, B, C))
    keys.refused(A, 0.0)
    keys.cool_down(B, 30.0)
    keys.cool_down(C, 20.0)
    assert not keys.any_available(1.0) and used(keys, 2, 1.0) == "cc"


def test_all_at_rest_is_told_with_the_first_that_comes_back_and_one_aside_does_not_count() -> None:
    keys = Keys((A, B))
    keys.cool_down(A, 30.0)
    assert keys.all_cooling_until_s(1.0) == 0.0
    keys.cool_down(B, 20.0)
    assert keys.all_cooling_until_s(1.0) == 20.0 and keys.all_cooling_until_s(20.0) == 0.0
    keys.refused(B, 21.0)
    assert keys.all_cooling_until_s(22.0) == 0.0


def test_a_good_answer_brings_a_refused_key_back_at_once() -> None:
    keys = Keys((A, B))
    keys.refused(A, 0.0, "403 from e1")
    keys.accepted(A)
    assert sorted(used(keys, 2, 1.0)) == ["a", "b"] and keys.describe(1.0)[0]["why"] == ""


def test_a_key_of_somebody_else_changes_nothing() -> None:
    keys = Keys((A, B))
    assert not keys.refused(C, 0.0) and not keys.cool_down(C, 9.0) and used(keys, 2, 1.0) == "ab"


def test_what_is_known_of_a_key_goes_on_with_the_same_key_of_another_plan() -> None:
    old = Keys((A, B))
    old.refused(A, 0.0, "401 from e1")
    new = Keys((B, AuthSpec("bearer", "Authorization", Secret("sk-a", "file /k/a"))))
    new.inherit_state(old)
    assert used(new, 3, 1.0) == "bbb"
    renewed = Keys((B, AuthSpec("bearer", "Authorization", Secret("sk-new", "file /k/a"))))
    renewed.inherit_state(old)
    assert sorted(used(renewed, 2, 1.0)) == ["b", "w"]


def test_status_names_where_a_key_is_from_and_never_the_key() -> None:
    keys = Keys((A, B))
    keys.refused(A, 0.0, "401 from e1")
    keys.cool_down(B, 5.0)
    told = keys.describe(1.0)
    assert [(one["source"], one["state"], one["for_s"]) for one in told] == [
        ("file /k/a", "aside", ASIDE_S - 1.0), ("file /k/b", "resting", 4.0)]
    assert "sk-" not in json.dumps(told)
