"""Which access records a filter accepts."""

from __future__ import annotations

import pytest

from relayd.telemetry.record_filter import RecordFilter, number


@pytest.mark.parametrize(("record", "accepted"), [
    ({"status": 200, "outcome": "complete"}, False), ({"status": 404, "outcome": "complete"}, True),
    ({"status": 503, "outcome": "upstream.attempt"}, True), ({"status": 200, "outcome": "upstream.transfer"}, True),
])
def test_failures_are_bad_statuses_and_incomplete_responses(record: dict[str, object], accepted: bool) -> None:
    assert RecordFilter({}, failures=True).accepts(record) is accepted


def test_an_id_selects_one_request() -> None:
    chosen = RecordFilter({}, id="abc")
    assert chosen.accepts({"id": "abc"}) and not chosen.accepts({"id": "abcd"})


def test_a_member_that_is_known_already_may_exclude_a_record() -> None:
    chosen = RecordFilter({"route": ("llm*",)})
    assert chosen.may_be("route", "llm2") and not chosen.may_be("route", "web") and chosen.may_be("consumer", "x")


@pytest.mark.parametrize(("value", "found"), [(3, 3), (2.5, 2.5), ("3", None), (float("nan"), None), (None, None)])
def test_only_finite_numbers_are_numbers(value: object, found: float | None) -> None:
    assert number({"x": value}, "x") == found
