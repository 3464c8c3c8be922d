"""Function names there and back."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from relayd.protocols.gemini.names import names_back, written

TAKEN = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]{0,63}", re.ASCII)


def test_a_name_that_is_taken_stays() -> None:
    for name in ("look", "_x", "mcp__files__read-file", "a.b", "x" * 64):
        assert written(name) == name
    assert names_back(["look"]) == {}


@given(st.lists(st.text(max_size=100), unique=True, max_size=20))
def test_every_name_becomes_one_that_is_taken_and_comes_back(names: list[str]) -> None:
    back = names_back(names)
    for name in names:
        other = written(name)
        assert TAKEN.fullmatch(other)
        assert back.get(other, other) == name
        assert written(name) == other


def test_long_names_that_begin_alike_stay_apart() -> None:
    assert written("x" * 65) != written("x" * 66)
