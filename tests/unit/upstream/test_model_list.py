"""When an upstream's list of models is asked for, and what is known of it meanwhile."""

from __future__ import annotations

from relayd.upstream.model_list import FIRST_WITHIN_S, INTERVAL_S, JITTER, RETRY_DELAY_S, ModelList


def a_list(chance: float = 0.5) -> ModelList:
    made = ModelList(lambda: chance)
    made.due(0.0)
    return made


def test_the_first_question_comes_soon_and_only_one_at_a_time() -> None:
    one = a_list()
    assert not one.due(0.4) and one.due(FIRST_WITHIN_S / 2)
    one.begin()
    assert not one.due(9999.0)
    one.give_up()
    assert one.due(9999.0)


def test_after_an_answer_it_is_asked_for_every_few_minutes_spread_by_chance() -> None:
    for chance, spread in ((0.0, 1 - JITTER), (0.5, 1.0), (1.0, 1 + JITTER)):
        one = a_list(chance)
        one.begin()
        one.update(("a", "b"), 10.0)
        assert not one.due(10.0 + INTERVAL_S * spread - 0.1) and one.due(10.0 + INTERVAL_S * spread + 0.1)


def test_a_failure_keeps_what_is_known_and_turns_to_another_endpoint_sooner() -> None:
    one = a_list()
    one.update(("a",), 0.0)
    one.failed("status 500", 300.0)
    assert one.names == ("a",) and one.turn == 1
    assert one.describe(310.0) == {"count": 1, "age_s": 310.0, "fault": "status 500"}
    assert not one.due(300.0 + RETRY_DELAY_S - 1) and one.due(300.0 + RETRY_DELAY_S + 1)
    one.update(("a", "b"), 320.0)
    assert one.describe(321.0) == {"count": 2, "age_s": 1.0, "fault": ""} and one.turn == 1


def test_failures_in_a_row_are_waited_for_longer_but_never_longer_than_after_an_answer() -> None:
    one, delays = a_list(), []
    for _ in range(7):
        one.failed("timed out", 0.0)
        delays.append(next(delay for delay in range(1, 1000) if one.due(float(delay))))
    assert delays == [20, 40, 80, 160, 300, 300, 300]


def test_after_a_reload_the_list_goes_on_and_is_asked_for_anew() -> None:
    before, after = a_list(), a_list()
    before.update(("a",), 5.0)
    after.inherit_state(before)
    assert after.names == ("a",) and after.describe(6.0)["age_s"] == 1.0 and after.due(1.0)


def test_what_was_never_told_has_no_age() -> None:
    assert a_list().describe(7.0) == {"count": 0, "age_s": None, "fault": ""}
