"""Schemas of tools keep every word of JSON Schema and lose all others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.protocols._capabilities import MESSAGES
from relayd.protocols._schema_keywords import can_be_strict, fit_schema, strip_unknown_keywords
from relayd.protocols._tools import write_tools
from relayd.protocols.anthropic_messages.write_request import write_request
from relayd.protocols.canon import Format, Message, Request, SharedTools, Text, Tool
from relayd.protocols.dialect import Options
from tests.aids.memories import Forgetful

MARK = {"encrypted": True, "x-order": 3, "markdownDescription": "m", "enumDescriptions": ["e"]}


@pytest.mark.parametrize("position", [
    lambda inner: inner,
    lambda inner: {"properties": {"a": inner}},
    lambda inner: {"items": inner},
    lambda inner: {"items": [inner, True]},
    lambda inner: {"prefixItems": [{}, inner]},
    lambda inner: {"anyOf": [inner, {"type": "null"}]},
    lambda inner: {"allOf": [{"oneOf": [inner]}]},
    lambda inner: {"$defs": {"encrypted": inner}},
    lambda inner: {"definitions": {"a": {"not": inner}}},
    lambda inner: {"additionalProperties": inner, "patternProperties": {"^x-": inner}},
    lambda inner: {"if": inner, "then": {"contains": inner}, "else": {"propertyNames": inner}},
    lambda inner: {"dependencies": {"a": inner, "b": ["a"]}, "dependentSchemas": {"a": inner}},
])  # fmt: skip
def test_unknown_keywords_are_dropped_in_every_subschema(position: Any) -> None:
    assert strip_unknown_keywords(position({"type": "string", **MARK})) == position({"type": "string"})


def test_names_and_values_are_no_keywords() -> None:
    schema = {
        "type": "object", "properties": {name: {"type": "string"} for name in MARK}, "required": list(MARK),
        "default": MARK, "enum": [MARK], "const": MARK, "examples": [MARK], "additionalProperties": False,
    }  # fmt: skip
    assert strip_unknown_keywords(schema) is schema


def test_definitions_stay_where_a_reference_looks_for_them() -> None:
    schema = {"properties": {"a": {"$ref": "#/components/schemas/a"}}, "components": {"schemas": {"a": {}}}, "more": {}}
    assert strip_unknown_keywords(schema) == {"properties": schema["properties"], "components": schema["components"]}


ANY: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.sampled_from(["string", "#/x", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["type", "properties", "items", "anyOf", "$ref", "$defs", "encrypted", "x", "not"]), inner, max_size=4,
    ),
    max_leaves=15,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["type", "properties", "items", "anyOf", "x", "$ref"]), ANY, max_size=5))
def test_any_schema_is_cleaned_once_and_for_all(schema: dict[str, Any]) -> None:
    once = strip_unknown_keywords(schema)
    assert strip_unknown_keywords(once) is once


@pytest.mark.parametrize("kind", [tuple, SharedTools])
def test_tools_are_written_without_them(kind: Any) -> None:
    tools = kind([Tool("f", None, {"properties": {"a": {"type": "string", "encrypted": True}}}), Tool("g")])
    written = write_tools(tools, "d", lambda tool: {"name": tool.name, "schema": tool.parameters})
    assert written == b'[{"name":"f","schema":{"properties":{"a":{"type":"string"}}}},{"name":"g","schema":null}]'


CLOSED = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}


@pytest.mark.parametrize(("schema", "strict"), [
    (CLOSED, True), ({"type": "string"}, False), ({**CLOSED, "required": []}, False),
    ({**CLOSED, "additionalProperties": {}}, False), ({"anyOf": [CLOSED, {"type": "object"}]}, False),
    ({**CLOSED, "properties": {"a": {"properties": {"b": {}}}}}, False), ({**CLOSED, "$defs": {"x": CLOSED}}, True),
])  # fmt: skip
def test_a_schema_may_be_strict_where_every_object_is_closed_and_every_property_required(schema: Any, strict: bool) -> None:
    assert can_be_strict(schema) is strict


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "minimum": {"type": "integer", "minimum": 1, "maximum": 9, "description": "A number."},
        "name": {"type": "string", "minLength": 2},
        "list": {"type": "array", "minItems": 3, "items": {"type": "object", "properties": {}, "additionalProperties": {}}},
        "some": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/d"}},
        "map": {"type": "object", "additionalProperties": {"type": "string"}},
        "day": {"type": "string", "format": "date"},
        "path": {"format": "uri-reference"},
        "either": {"oneOf": [{"type": "string"}, {"type": "object"}]},
    },
    "$defs": {"d": {"anyOf": [{"properties": {"a": {"enum": ["x"]}}}, {"type": "null"}]}},
}


def test_a_messages_endpoint_gets_closed_objects_and_described_bounds() -> None:
    before = json.dumps(SCHEMA)
    assert fit_schema(SCHEMA, MESSAGES.schemas) == {
        "type": "object", "additionalProperties": False,
        "properties": {
            "minimum": {"type": "integer", "description": "A number. (minimum: 1, maximum: 9)"},
            "name": {"type": "string", "description": "minLength: 2"},
            "list": {
                "type": "array", "description": "minItems: 3",
                "items": {"type": "object", "properties": {}, "additionalProperties": False},
            },
            "some": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/d"}},
            "map": {"type": "object", "additionalProperties": {"type": "string"}},
            "day": {"type": "string", "format": "date"},
            "path": {"description": 'format: "uri-reference"'},
            "either": {"anyOf": [{"type": "string"}, {"type": "object", "additionalProperties": False}]},
        },
        "$defs": {"d": {"anyOf": [
            {"properties": {"a": {"enum": ["x"]}}, "additionalProperties": False}, {"type": "null"},
        ]}},
    }  # fmt: skip
    assert json.dumps(SCHEMA) == before  # the client's own is not changed


def test_a_request_for_a_messages_endpoint_brings_its_schema_closed() -> None:
    request = Request("m", (Message("user", (Text("x"),)),), format=Format("json_schema", "n", SCHEMA))
    body = json.loads(write_request(request, Options(), Forgetful()).body)
    assert body["output_config"]["format"] == {"type": "json_schema", "schema": fit_schema(SCHEMA, MESSAGES.schemas)}
