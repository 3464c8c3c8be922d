"""JSON Schema cut down to what older models take."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.protocols import _json
from relayd.protocols.dialect import Refused
from relayd.protocols.gemini import schema as module
from relayd.protocols.gemini.schema import MOST_COPIED, to_openapi_subset

REFUSED = {"additionalProperties", "$schema", "$ref", "$defs", "definitions", "const", "oneOf", "$id"}


def test_unsupported_keywords_are_dropped_or_converted() -> None:
    assert to_openapi_subset({
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
    found, depth = to_openapi_subset(tree), 0
    while found.get("properties"):
        found, depth = found["properties"]["next"], depth + 1
    assert 3 < depth < 40
    assert to_openapi_subset({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}) == {}


def test_an_array_always_has_items() -> None:
    assert to_openapi_subset({"type": "array"}) == {"type": "array", "items": {}}


REF = {"$ref": "#/$defs/d"}
FILTER = {"type": "object", "properties": {
    "and": {"type": "array", "items": REF}, "or": {"type": "array", "items": REF}, "not": REF,
}}  # fmt: skip
# Each is small, and copies a definition again and again: through itself, through others, with much inside that is left
# out again, from `anyOf`, from an alias of an alias.
GREEDY: dict[str, dict[str, Any]] = {
    "a filter of filters": {**REF, "$defs": {"d": FILTER}},
    "definitions": {**REF, "definitions": {"d": FILTER}, "$defs": {"d": FILTER}},
    "doubling": {
        "$ref": "#/$defs/0",
        "$defs": {str(n): {"anyOf": [{"$ref": f"#/$defs/{n + 1}"}] * 2} for n in range(30)},
    },
    "a long description": {
        "properties": {str(n): REF for n in range(500)}, "$defs": {"d": {"description": "x" * 8000}},
    },
    "what is left out": {
        "properties": {str(n): REF for n in range(500)}, "$defs": {"d": {f"x-{n}": 0 for n in range(2000)}},
    },
    "names that are required": {
        "properties": {str(n): REF for n in range(500)},
        "$defs": {"d": {"properties": {}, "required": [[], "a"] * 2000}},
    },
    "an enum of numbers": {"anyOf": [REF] * 500, "$defs": {"d": {"enum": [7] * 5000}}},
    "many types": {"anyOf": [REF] * 500, "$defs": {"d": {"type": ["string", "null"] * 1000}}},
    "aliases": {
        "anyOf": [{"$ref": "#/$defs/a"}] * 500,
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {**REF, "title": "b"}, "d": {"title": "x" * 4000}},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", GREEDY)
def test_a_small_schema_that_would_become_large_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = 0
    part = module._Converter.part

    def counted(self: module._Converter, schema: Any, depth: int) -> dict[str, Any]:
        nonlocal parts
        parts += 1
        assert parts < MOST_COPIED, "more nodes than a bounded expansion can have"
        return part(self, schema, depth)

    monkeypatch.setattr(module._Converter, "part", counted)
    with pytest.raises(Refused) as refused:
        to_openapi_subset(GREEDY[name])
    assert refused.value.status == 400
    assert "$ref" in refused.value.message


@pytest.mark.parametrize("levels", [1, 3])
def test_definitions_that_are_used_often_are_inlined(levels: int) -> None:
    deep: dict[str, Any] = {"type": "object", "properties": {str(n): REF for n in range(100)}}
    for _ in range(levels):
        deep = {"type": "object", "properties": {"inner": deep, "beside": REF}}
    written = _json.write(to_openapi_subset({**deep, "$defs": {"d": {"type": "string", "description": "A word." * 100}}}))
    assert written.count(b"A word.") == 100 * (100 + levels)


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
def test_any_schema_is_converted_without_unsupported_keywords(schema: dict[str, Any]) -> None:
    assert not words_of(to_openapi_subset(schema)) & REFUSED


def test_a_required_list_of_nonsense_is_no_fault_of_ours() -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string"}}, "required": [[], {}, None, "a", "b"]}
    assert to_openapi_subset(schema)["required"] == ["a"]
