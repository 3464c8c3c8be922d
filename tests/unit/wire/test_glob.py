"""Stars stand for any text; a hostile name costs no more than its length."""

from __future__ import annotations

import re

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


def test_many_stars_on_a_long_name_look_at_each_character_once() -> None:
    """With one look at each place for each star it would be the length to the power of the stars."""
    assert Glob.of("*a" * 200 + "*z").match("a" * 100_000) is None
    assert Glob.of("*a" * 200 + "*z").match("a" * 100_000 + "z") == ""
