from __future__ import annotations

from dataclasses import replace

import pytest

from relayd.limits.counter import INPUT, OUTPUT, REQUESTS, TOTAL, Rule, kept_value, owner_of, tokens_of
from relayd.limits.window import Span

RULE = Rule("consumer team", REQUESTS, 60, Span.sliding(60))


def test_the_key_names_what_is_counted_and_not_the_limit() -> None:
    assert RULE.key == replace(RULE, limit=10, counts_only=True, wait_s=5.0).key
    others = [
        replace(RULE, scope="group team"), replace(RULE, measure=TOTAL), replace(RULE, span=Span("day")),
        replace(RULE, model="gpt-*"), replace(RULE, each="client"),
    ]
    assert len({RULE.key, *(one.key for one in others)}) == 6


def test_a_long_value_has_a_short_key_of_its_own() -> None:
    rule = replace(RULE, each="model")
    first, second = rule.key_of("m" * 1000 + "a"), rule.key_of("m" * 1000 + "b\udc80")
    assert first != second
    assert len(first) < 200


@pytest.mark.parametrize(("measure", "amount"), [(INPUT, 20), (OUTPUT, 300), (TOTAL, 320)])
def test_every_measure_of_tokens_has_its_amount(measure: str, amount: int) -> None:
    assert tokens_of(measure, 20, 300) == amount


@pytest.mark.parametrize(("pattern", "model", "applies"), [
    ("", "any", True), ("gpt-*", "gpt-mini", True), ("gpt-*", "claude", False), ("fast", "fast", True),
])
def test_a_pattern_selects_models(pattern: str, model: str, applies: bool) -> None:
    assert replace(RULE, model=pattern).selects(model) is applies


@pytest.mark.parametrize(("rule", "value", "owner"), [
    (Rule("consumer team", REQUESTS, 1, Span.sliding(60)), "", "team"),
    (Rule("consumer team", REQUESTS, 1, Span.sliding(60), model="a b"), "", "team"),
    (Rule("consumer ci", REQUESTS, 1, Span.sliding(60), each="consumer"), "ci/ann", "ci/ann"),
    (Rule("group g", REQUESTS, 1, Span.sliding(60), each="consumer"), "team", "team"),
    (Rule("route r", REQUESTS, 1, Span.sliding(60), each="client"), "192.0.2.1", "192.0.2.1"),
    (Rule("group g", REQUESTS, 1, Span.sliding(60)), "", ""), (Rule("route r", REQUESTS, 1, Span.sliding(60), each="model"), "m", ""),
    (Rule("consumer team", REQUESTS, 1, Span.sliding(60), each="model"), "m", "team"),
    (Rule("group g", REQUESTS, 1, Span.sliding(60), each="consumer"), "x" * 200, kept_value("x" * 200)),
])  # fmt: skip
def test_the_key_of_a_window_tells_whose_use_it_counts(rule: Rule, value: str, owner: str) -> None:
    assert owner_of(rule.key_of(value) if value else rule.key) == owner
