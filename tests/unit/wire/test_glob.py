"""Stars stand for any text; a hostile name costs no more than its length."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.wire.glob import Glob


@given(st.text("ab*", max_size=8), st.text("ab", max_size=8))
def test_a_glob_matches_as_the_lazy_expression_does(pattern: str, name: str) -> None:
    pieces = [re.escape(piece) for piece in re.split(r"\*+", pattern)]
    slow = re.fullmatch("(.*?)".join(pieces), name)
    found = Glob.of(pattern).match(name)
    assert (found is None) is (slow is None)
    if slow is not None:
        assert found == (slow[1] if slow.re.groups else "")


def test_a_dot_and_a_line_end_are_nothing_special() -> None:
    assert Glob.of("a.*").match("a.\n") == "\n"
    assert Glob.of("a.*").match("ab") is None
    assert str(Glob.of("a**b")) == "a**b"


@pytest.mark.parametrize(("pattern", "name", "star"), [
    ("gpt-vip*", "GPT-VIP-2", "-2"), ("GPT-*-Mini", "gpt-Big-MINI", "Big"), ("*/a*B*c", "Org/AxbXC", "Org"), ("a", "A", ""),
    ("*-é", "X-É", "X"), ("a*", "A\u0130B", "\u0130B"), ("\u0130*", "\u0130a", "a"), ("a*", "b", None),
])
def test_names_of_models_are_compared_without_case(pattern: str, name: str, star: str | None) -> None:
    """The text of the star keeps its case; the capital I with a dot has two characters in lower case."""
    assert Glob.of_model(pattern).match(name) == star


def test_many_stars_on_a_long_name_look_at_each_character_once() -> None:
    """With one look at each place for each star it would be the length to the power of the stars."""
    assert Glob.of("*a" * 200 + "*z").match("a" * 100_000) is None
    assert Glob.of("*a" * 200 + "*z").match("a" * 100_000 + "z") == ""
