"""JSON Schema cut down to what older models take."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from relayd.protocols.gemini.schema import cut_down

REFUSED = {"additionalProperties", "$schema", "$ref", "$defs", "definitions", "const", "oneOf", "$id"}


def test_what_is_refused_there_is_gone_and_what_it_meant_is_kept_where_possible() -> None:
    assert cut_down({
        "$schema": "x", "type": "object", "additionalProperties": False, "required": ["a", "gone"],
        "properties": {
            "a": {"type": ["string", "null"], "format": "uri", "minLength": 1},
            "b": {"const": "only"},
            "c": {"oneOf": [{"type": "string"}, {"type": "integer", "format": "int32"}, {"type": "null"}]},
            "d": {"type": "array", "items": {"$ref": "#/$defs/item"}},
            "e": {"enum": [1, 2]},
            "f": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "g": {"type": ["string", "integer"]},
        },
        "$defs": {"item": {"type": "string", "enum": ["x", None], "description": "An item."}},
    }) == {
        "type": "object", "required": ["a"],
        "properties": {
            "a": {"type": "string", "nullable": True, "minLength": 1},
            "b": {"type": "string", "enum": ["only"]},
            "c": {"nullable": True, "anyOf": [{"type": "string"}, {"type": "integer", "format": "int32"}]},
            "d": {"type": "array", "items": {
                "type": "string", "enum": ["x"], "nullable": True, "description": "An item.",
            }},
            "e": {},
            "f": {"type": "string", "nullable": True},
            "g": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        },
    }  # fmt: skip


def test_a_schema_that_names_itself_ends() -> None:
    tree = {"$ref": "#/$defs/t", "$defs": {"t": {"type": "object", "properties": {"next": {"$ref": "#/$defs/t"}}}}}
    found, depth = cut_down(tree), 0
    while found.get("properties"):
        found, depth = found["properties"]["next"], depth + 1
    assert 3 < depth < 40
    assert cut_down({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}) == {}


def test_an_array_says_what_it_holds() -> None:
    assert cut_down({"type": "array"}) == {"type": "array", "items": {}}


WORDS = st.sampled_from(
    ["type", "enum", "const", "$ref", "$defs", "oneOf", "anyOf", "properties", "items", "required", "format", "$schema"]
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.sampled_from(["string", "null", "#/$defs/items", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=15,
)


def words_of(schema: Any) -> set[str]:
    """Keywords, not the names of properties."""
    found: set[str] = set()
    if isinstance(schema, dict):
        found |= set(schema)
        for key, value in schema.items():
            if key == "properties" and isinstance(value, dict):
                for inner in value.values():
                    found |= words_of(inner)
            elif key == "anyOf":
                for inner in value:
                    found |= words_of(inner)
            elif key == "items":
                found |= words_of(value)
    return found


@given(st.dictionaries(WORDS, VALUES, max_size=6))
def test_any_schema_comes_out_without_the_refused_words(schema: dict[str, Any]) -> None:
    assert not words_of(cut_down(schema)) & REFUSED


def test_a_required_list_of_nonsense_is_no_fault_of_ours() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": [[], {}, None, "a", "b"]}
    assert cut_down(schema)["required"] == ["a"]
