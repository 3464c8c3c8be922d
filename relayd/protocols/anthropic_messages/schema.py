"""A schema for a Messages endpoint's structured output, which closes every object and knows no bounds of values.

Laws:
1. Objects get `additionalProperties: false`, the only value that is taken. A map of names to values of one schema
   stays as it is, and the endpoint says what it thinks of it: closed, it could only be empty.
2. Bounds that are not taken move into the description, where the model reads them: the answer is no less bound to the
   rest of the schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relayd.protocols import _json
from relayd.protocols._schema_words import rewritten

_BOUNDS = (
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "maxItems",
    "uniqueItems", "minProperties", "maxProperties",
)  # fmt: skip


def closed(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema as the endpoint takes it."""
    return rewritten(schema, _closed)


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    bounds = {word: schema.pop(word) for word in _BOUNDS if word in schema}
    if schema.get("minItems") not in (None, 0, 1):
        bounds["minItems"] = schema.pop("minItems")
    if bounds:
        told = ", ".join(f"{word}: {_json.write_text(value)}" for word, value in bounds.items())
        said = schema.get("description")
        schema["description"] = f"{said} ({told})" if isinstance(said, str) and said else told
    others = schema.get("additionalProperties")
    is_map = isinstance(others, dict) and bool(others)
    if not is_map and (schema.get("type") == "object" or "properties" in schema):
        schema["additionalProperties"] = False
    return schema
