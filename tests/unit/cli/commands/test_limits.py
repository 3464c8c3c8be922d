"""`relayd limits`."""

from __future__ import annotations

from pathlib import Path

import pytest

from relayd.cli.commands.limits import lines
from relayd.cli.main import main
from relayd.limits.counter import COST, REQUESTS, Rule
from relayd.limits.ledger import Ledger
from relayd.limits.window import Span
from tests.unit.cli.admin_case import Admin

RATE = Rule("consumer team", REQUESTS, 60, Span.sliding(60))


def page(*rules: Rule) -> dict[str, object]:
    """The keys of Counter.describe match those read by the command."""
    ledger = Ledger(lambda: 0.0, lambda: 1_800_000_000.0)
    counters = [ledger.counter(rule, "x" if rule.each != "none" else "") for rule in rules]
    for counter in counters:
        counter.advance(ledger.now())
        counter.window.settle(counter.window.reserve(1), 1, counter.limit // 4)
        counter.window.reserve(counter.limit // 4)
    return {"limits": [one.describe(ledger.now()) for one in counters], "more": 0}


def test_a_rate_is_shown_with_what_is_used_reserved_and_left() -> None:
    assert list(lines(page(RATE)))[1].split() == [
        "consumer", "team", "requests", "per", "1m", "60", "30", "15", "30", "1m01s", "0", "local"]


def test_a_budget_is_shown_in_money_and_without_a_time_if_it_is_never_free() -> None:
    shown = list(lines(page(Rule("group all", COST, 8 * 10**9, Span("total"), model="gpt-*", counts_only=True))))[1]
    assert shown.split() == ["group", "all", "cost", "per", "total", "model", "gpt-*", "(shadow)", "8", "4", "2", "4", "-", "0", "local"]


def test_a_value_of_each_is_named() -> None:
    assert " per 1m x " in list(lines(page(Rule("route r", REQUESTS, 8, Span.sliding(60), each="client"))))[1]


def test_without_rates_a_line_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Admin(tmp_path, (200, {"limits": [], "more": 0})) as admin:
        assert main(["limits", *admin.options]) == 0
    assert admin.asked == ["GET /limits"]
    assert capsys.readouterr().out == "no rates and no budgets\n"
