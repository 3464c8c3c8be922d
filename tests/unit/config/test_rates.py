"""The keys of rates and budgets, and what is refused."""

from __future__ import annotations

import pytest

from relayd.config.load import load_text
from relayd.config.model import Config
from relayd.errors import ConfigError
from relayd.limits.window import Span

TEXT = """\
listeners: {public: {address: "127.0.0.1:8282"}}
upstreams: {a: {endpoints: ["http://127.0.0.1:9001"]}}
routes: [{name: r, upstream: a, RATES}]
"""


def loaded(rates: str) -> Config:
    return load_text(TEXT.replace("RATES", rates), "relayd.yaml").config


def test_an_entry_becomes_a_rule() -> None:
    route = loaded(
        'rates: [{tokens: 200000, per: 1h, of: output, model: "gpt-*", each: client, wait: 5s}], '
        "budget: [{amount: 2.50, per: 30d, warn: [0.9, 0.5]}]"
    ).routes[0]
    rate, budget = route.rates[0].rule("route r"), route.budget[0].rule("route r")
    assert (rate.measure, rate.limit, rate.span, rate.each, rate.wait_s) == ("output", 200000, Span.sliding(3600), "client", 5)
    assert rate.selects("gpt-mini") and not rate.selects("claude")
    assert (budget.measure, budget.limit, budget.span) == ("cost", 2_500_000_000, Span.sliding(30 * 86400))
    assert budget.warn == (0.5, 0.9)


@pytest.mark.parametrize("per", ["day", "month", "total"])
def test_a_budget_may_follow_the_calendar(per: str) -> None:
    assert loaded(f"budget: [{{amount: 1, per: {per}}}]").routes[0].budget[0].rule("x").span == Span(per)


@pytest.mark.parametrize(("rates", "fault"), [
    ("rates: [{per: 1m}]", "needs exactly one of requests and tokens"),
    ("rates: [{requests: 1, tokens: 1, per: 1m}]", "needs exactly one of requests and tokens"),
    ("rates: [{requests: 0, per: 1m}]", "must be at least 1"),
    ("rates: [{requests: -5, per: 1m}]", "must be at least 1"),
    ("rates: [{requests: 99999999999999, per: 1m}]", "must be at most"),
    ("rates: [{requests: 1}]", "per"),
    ("rates: [{requests: 1, per: 500ms}]", "must be at least 1s"),
    ("rates: [{requests: 1, per: 367d}]", "must be at most 366d"),
    ("rates: [{requests: 1, per: 60}]", "is not a duration"),
    ("rates: [{requests: 1, per: 1m, of: input}]", "has a meaning only with tokens"),
    ("rates: [{requests: 1, per: 1m, each: user}]", "is none of"),
    ('rates: [{requests: 1, per: 1m, model: ""}]', "is empty"),
    ("rates: [{requests: 1, per: 1m}, {requests: 2, per: 60s}]", "counts the same as rates[0]"),
    ("rates: [{requests: 1, per: 1m, wait: 2h}]", "must be at most 1h"),
    ("budget: [{amount: 0, per: day}]", "amount"),
    ("budget: [{amount: -1, per: day}]", "amount"),
    ("budget: [{amount: 99999999, per: day}]", "must be at most"),
    ("budget: [{amount: 1, per: week}]", "'week' is not day, month, total or a duration of 1s to 366d"),
    ("rates: [{requests: 99999999999999999999999, per: 1m}]", "must be at most 1000000000000"),
    ("budget: [{amount: 99999999999, per: day}]", "too large"),
    ("budget: [{amount: 1, per: 400d}]", "must be 1s to 366d"),
    ("budget: [{amount: 1, per: day, warn: [1.5]}]", "must be more than 0 and at most 1"),
    ("budget: [{amount: 1, per: day}, {amount: 2, per: day}]", "counts the same as budget[0]"),
])  # fmt: skip
def test_a_fault_is_reported_with_its_place(rates: str, fault: str) -> None:
    with pytest.raises(ConfigError) as error:
        loaded(rates)
    assert fault in str(error.value) and "relayd.yaml:3:" in str(error.value)


def test_two_entries_of_the_same_span_with_other_selectors_are_two_limits() -> None:
    rates = 'rates: [{requests: 1, per: 1m}, {requests: 2, per: 1m, model: "a*"}, {requests: 2, per: 1m, each: client}]'
    assert len(loaded(rates).routes[0].rates) == 3


def test_a_budget_without_prices_is_a_warning() -> None:
    found = load_text(TEXT.replace("RATES", "budget: [{amount: 1, per: day}]"), "relayd.yaml").warnings
    assert [one.level for one in found if "without prices" in one.message and one.path == "routes[0].budget"] == ["warning"]
