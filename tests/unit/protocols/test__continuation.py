"""The rest of an object of which the beginning is out: both together are the object, or there is no rest."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.protocols._continuation import continuation
from relayd.protocols.dialect import run_steps

TEXTS = st.text(alphabet='{"\\/aé😀\n', max_size=4)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(TEXTS, VALUES, max_size=3)


@given(OBJECTS, st.integers(0, 200), st.booleans(), st.booleans())
def test_every_beginning_can_be_continued(value: dict[str, Any], cut: int, ascii_only: bool, spaced: bool) -> None:
    separators = (" , ", " :\n") if spaced else (",", ":")
    text = json.dumps(value, ensure_ascii=ascii_only, separators=separators)[:cut]
    rest = run_steps(continuation(text, dict(reversed(value.items()))))
    assert rest is not None and json.loads(text + rest) == value


@given(OBJECTS, OBJECTS, st.integers(0, 200))
def test_there_is_no_rest_or_it_is_right(begun: dict[str, Any], value: dict[str, Any], cut: int) -> None:
    text = json.dumps(begun)[:cut]
    rest = run_steps(continuation(text, value))
    assert rest is None or json.loads(text + rest) == value


@pytest.mark.parametrize(
    "text", ['{"a":2', '{"a":true', '{"b"', '{"b', '{"a":1,"a"', '{"a":1}x', '{"a":"1', '{"a":1,,', "[", "x", '{"a":{', '{"a":1,"l":[2', '{"a"x']
)
def test_a_beginning_of_something_else_has_no_rest(text: str) -> None:
    assert run_steps(continuation(text, {"a": 1, "l": [1]})) is None


def test_an_object_that_is_complete_has_an_empty_rest() -> None:
    assert run_steps(continuation('{"a" : 1} ', {"a": 1})) == ""


def test_nesting_beyond_the_stack_is_no_beginning() -> None:
    value: dict[str, Any] = {}
    for _ in range(5000):
        value = {"a": value}
    assert run_steps(continuation('{"a":' * 5000, value)) is None
