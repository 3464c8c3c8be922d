"""The canonical form of JSON: equal for the same meaning, different for every other one."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.wire.canonical_json import MAX_DEPTH, NoCanonicalForm, canonical, parsed

KEYS = st.sampled_from(["model", "messages", "role", "content", "temperature", "a", "é", "\ud800", "properties"])
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=5)


def form(value: dict[str, Any]) -> bytes:
    return canonical(parsed(json.dumps(value).encode()))


def meaning(value: Any, ordered: bool = False) -> Any:
    """A value as hashable data with the types of its parts; the order of members counts below `properties` only."""
    if isinstance(value, dict):
        items = [(key, meaning(inner, key == "properties" and not ordered)) for key, inner in value.items()]
        return ("ordered", tuple(items)) if ordered else ("object", frozenset(items))
    if isinstance(value, list):
        return ("list", tuple(meaning(one) for one in value))
    return (type(value).__name__, repr(value))


def shuffled(value: Any, rng: random.Random, ordered: bool = False) -> Any:
    """The value with its members in another order, except below `properties`."""
    if isinstance(value, dict):
        items = [(key, shuffled(inner, rng, key == "properties" and not ordered)) for key, inner in value.items()]
        if not ordered:
            rng.shuffle(items)
        return dict(items)
    return [shuffled(one, rng) for one in value] if isinstance(value, list) else value


@given(OBJECTS, OBJECTS)
def test_objects_of_different_meaning_have_different_forms(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (form(one) == form(other)) is (meaning(one) == meaning(other))


@given(OBJECTS, st.randoms(use_true_random=False), st.sampled_from([None, 1, "\t"]), st.booleans())
def test_order_whitespace_and_escapes_do_not_matter(value: dict[str, Any], rng: random.Random, indent: Any, ascii_only: bool) -> None:
    text = json.dumps(shuffled(value, rng), indent=indent, ensure_ascii=ascii_only)
    assert canonical(parsed(text.encode("utf-8", "surrogatepass") if ascii_only else json.dumps(value).encode())) == form(value)


def test_the_order_of_the_members_of_a_schema_counts() -> None:
    one, other = {"properties": {"why": 1, "answer": 2}}, {"properties": {"answer": 2, "why": 1}}
    assert form(one) != form(other)
    assert form({"x": {"b": 1, "a": one}}) == form({"x": {"a": one, "b": 1}})


@pytest.mark.parametrize("text", [
    b'{"a": 1, "a": 2}', b'{"a": [{"b": 1, "b": 1}]}', b"[]", b"1", b"", b"{", b'{"a": "\xff"}',
    b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
])  # fmt: skip
def test_a_text_that_parsers_read_differently_has_no_form(text: bytes) -> None:
    with pytest.raises(NoCanonicalForm):
        canonical(parsed(text))


def test_depth_is_bounded() -> None:
    value: Any = 1
    for _ in range(MAX_DEPTH):
        value = [value]
    with pytest.raises(NoCanonicalForm, match="deep"):
        canonical({"a": value})
