"""The table of models: what wins, what is listed, what an unknown name is told."""

from __future__ import annotations

import fnmatch
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.routing.models import ModelTable, Resolved, Rule

RULES = (
    Rule("mistral-*", "chutes"),
    Rule("*", "rest", "default"),
    Rule("mistral-large-*", "big"),
    Rule("*-large-latest", "big", "x-large"),
    Rule("fast", "chutes", "mistral-small"),
    Rule("openai/*", "openai", "*"),
    Rule("claude-*-thinking", "anthropic", "claude-*"),
    Rule("meta/llama-3", "local"),
)


@pytest.mark.parametrize(
    ("name", "upstream", "model", "rule"),
    [
        ("fast", "chutes", "mistral-small", "fast"),
        ("mistral-small", "chutes", "mistral-small", "mistral-*"),
        ("mistral-large-2", "big", "mistral-large-2", "mistral-large-*"),
        ("mistral-", "chutes", "mistral-", "mistral-*"),
        ("mistral-large-latest", "big", "mistral-large-latest", "mistral-large-*"),  # longer than *-large-latest
        ("qwen-large-latest", "big", "x-large", "*-large-latest"),
        ("openai/gpt-5", "openai", "gpt-5", "openai/*"),
        ("openai/a/b", "openai", "a/b", "openai/*"),
        ("claude-opus-thinking", "anthropic", "claude-opus", "claude-*-thinking"),
        ("meta/llama-3", "local", "meta/llama-3", "meta/llama-3"),
        ("anything", "rest", "default", "*"),
        ("Fast", "chutes", "mistral-small", "fast"),
        ("faster", "rest", "default", "*"),
        ("mistral-\n", "chutes", "mistral-\n", "mistral-*"),
    ],
)
def test_the_exact_name_wins_then_the_most_literal_text(name: str, upstream: str, model: str, rule: str) -> None:
    assert ModelTable(RULES).resolve(name) == Resolved(upstream, model, name, rule)


def test_equals_go_by_the_order_of_the_file() -> None:
    assert ModelTable([Rule("a*", "one"), Rule("*a", "two")]).resolve("aa") == Resolved("one", "aa", "aa", "a*")
    assert ModelTable([Rule("*a", "two"), Rule("a*", "one")]).resolve("aa") == Resolved("two", "aa", "aa", "*a")


def test_only_literal_text_counts_not_the_number_of_stars() -> None:
    assert ModelTable([Rule("***", "one"), Rule("a*", "two")]).resolve("ab") == Resolved("two", "ab", "ab", "a*")


def test_case_decides_only_between_two_exact_names() -> None:
    table = ModelTable([Rule("Fast", "one", "x"), Rule("fast", "two"), Rule("GPT-*", "three", "vendor/*")])
    assert table.resolve("fast") == Resolved("two", "fast", "fast", "fast")
    assert table.resolve("Fast") == Resolved("one", "x", "Fast", "Fast")
    assert table.resolve("FAST") == Resolved("one", "x", "FAST", "Fast")
    assert table.resolve("gpt-Mini") == Resolved("three", "vendor/Mini", "gpt-Mini", "GPT-*")


def test_an_unknown_model_resolves_to_none() -> None:
    assert ModelTable([Rule("a", "one"), Rule("b*", "one")]).resolve("c") is None
    assert ModelTable([]).resolve("") is None


NAME = st.text("ab*.[", max_size=6)


@given(st.lists(NAME, max_size=6), st.text("ab.[", max_size=6))
def test_wildcards_match_like_a_reference_implementation(names: list[str], name: str) -> None:
    table = ModelTable([Rule(one, f"u{resolved}") for resolved, one in enumerate(names)])
    found = table.resolve(name)

    def fits(one: str) -> bool:
        return re.fullmatch(fnmatch.translate(one.replace("[", "[[]")), name) is not None

    exact = [resolved for resolved, one in enumerate(names) if one == name and "*" not in one]
    loose = [resolved for resolved, one in enumerate(names) if "*" in one and fits(one)]
    loose.sort(key=lambda resolved: -len(names[resolved].replace("*", "")))
    expected = next(iter(exact or loose), None)
    assert (found.upstream if found else None) == (None if expected is None else f"u{expected}")


def test_names_are_listed_and_patterns_are_not() -> None:
    table = ModelTable(RULES)
    assert table.listed() == [("fast", "chutes"), ("meta/llama-3", "local")]
    assert table.listed(lambda name: name.startswith("meta/")) == [("meta/llama-3", "local")]
    more = [("mistral-7b", "chutes"), ("mistral-7b", "elsewhere"), ("fast", "chutes"), ("openai/x", "local")]
    assert table.listed(more=more) == [("fast", "chutes"), ("meta/llama-3", "local"), ("mistral-7b", "chutes")]


def test_models_listed_by_an_upstream_get_the_names_that_patterns_resolve() -> None:
    table = ModelTable([
        Rule("google/*", "gemini", "*"), Rule("mini-*", "chutes", "vendor/*-mini"), Rule("raw-*", "chutes"),
        Rule("any*thing*", "gemini", "*"), Rule("fixed-*", "chutes", "one"), Rule("google/shadowed", "chutes", "other"),
        Rule("google/x-*", "gemini", "y-*"),
    ])  # fmt: skip
    more = [("g-3", "gemini"), ("x-1", "gemini"), ("shadowed", "gemini"), ("vendor/q-mini", "chutes"), ("vendor/q", "chutes"),
            ("raw-1", "chutes"), ("one", "chutes"), ("g-3", "chutes")]  # fmt: skip
    reported = table.listed(more=more)
    assert reported == [("google/shadowed", "chutes"), ("google/g-3", "gemini"), ("mini-q", "chutes"), ("raw-1", "chutes")]
    for name, upstream in reported[1:]:
        resolved = table.resolve(name)
        assert resolved is not None and (resolved.model, upstream) in more and resolved.upstream == upstream


def test_the_message_for_an_unknown_name_lists_the_closest_models_first() -> None:
    table = ModelTable([Rule("alpha", "u"), Rule("gpt-4o-mini", "u"), Rule("gpt-4o", "v"), Rule("local-*", "u")])
    assert table.unknown("gpt-4x") == (
        "The model 'gpt-4x' does not exist here. Available: gpt-4o, gpt-4o-mini, alpha, local-*."
    )
    assert table.unknown("gpt-4x", lambda name: name == "gpt-4o").endswith("Available: gpt-4o.")
    assert ModelTable([]).unknown("a\nb") == "The model 'a?b' does not exist here. No models are configured."


def test_the_message_for_an_unknown_name_is_bounded() -> None:
    table = ModelTable([Rule(f"model-{number}" + "x" * 300, "u") for number in range(3000)])
    text = table.unknown("m" * 100_000)
    assert len(text) < 4000 and text.endswith("and 2980 more.")
