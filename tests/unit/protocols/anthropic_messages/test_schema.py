"""Schemas of structured output as Messages endpoints take them."""

from __future__ import annotations

import json
from typing import Any

from relayd.protocols.anthropic_messages.schema import closed
from relayd.protocols.anthropic_messages.write_request import write_request
from relayd.protocols.canon import Format, Message, Request, Text
from relayd.protocols.dialect import Options
from tests.aids.memories import Forgetful

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "minimum": {"type": "integer", "minimum": 1, "maximum": 9, "description": "A number."},
        "name": {"type": "string", "minLength": 2},
        "list": {"type": "array", "minItems": 3, "items": {"type": "object", "properties": {}, "additionalProperties": {}}},
        "some": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/d"}},
        "map": {"type": "object", "additionalProperties": {"type": "string"}},
    },
    "$defs": {"d": {"anyOf": [{"properties": {"a": {"enum": ["x"]}}}, {"type": "null"}]}},
}


def test_objects_are_closed_and_bounds_are_told() -> None:
    before = json.dumps(SCHEMA)
    assert closed(SCHEMA) == {
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
        },
        "$defs": {"d": {"anyOf": [
            {"properties": {"a": {"enum": ["x"]}}, "additionalProperties": False}, {"type": "null"},
        ]}},
    }  # fmt: skip
    assert json.dumps(SCHEMA) == before  # the client's own is not changed


def test_a_request_brings_its_schema_closed() -> None:
    request = Request("m", (Message("user", (Text("x"),)),), format=Format("json_schema", "n", SCHEMA))
    body = json.loads(write_request(request, Options(), Forgetful()).body)
    assert body["output_config"]["format"] == {"type": "json_schema", "schema": closed(SCHEMA)}
