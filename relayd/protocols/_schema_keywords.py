"""JSON Schema without unknown keywords: agents mark properties with keywords of their own (`encrypted`), and strict
endpoints reject a tool for every keyword that they do not know.

Laws:
1. A keyword is a member of a schema. Names of properties and definitions, and values (default, enum, examples), stay.
2. The target of a `$ref` of the same schema stays, also under an unknown keyword.
3. A value without unknown keywords is returned as it is, not copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from relayd.protocols import _json
from relayd.protocols._capabilities import STRICT_UNSUPPORTED, SchemaRules

_VALUE_KEYWORDS = frozenset((
    "$schema", "$id", "$ref", "$anchor", "$comment", "$dynamicRef", "$dynamicAnchor", "$recursiveRef",
    "$recursiveAnchor", "$vocabulary", "type", "enum", "const", "title", "description", "default", "examples",
    "example", "format", "pattern", "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "multipleOf", "minItems", "maxItems", "uniqueItems", "minContains", "maxContains", "required",
    "minProperties", "maxProperties", "dependentRequired", "propertyOrdering", "nullable", "readOnly", "writeOnly",
    "deprecated", "contentEncoding", "contentMediaType",
))  # fmt: skip
_SCHEMA_KEYWORDS = frozenset((
    "items", "additionalItems", "unevaluatedItems", "contains", "additionalProperties", "unevaluatedProperties",
    "propertyNames", "not", "if", "then", "else", "contentSchema",
))  # fmt: skip
_LIST_KEYWORDS = frozenset(("allOf", "anyOf", "oneOf", "prefixItems", "items"))
_MAP_KEYWORDS = frozenset((
    "properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies",
))  # fmt: skip
_KEYWORDS = _VALUE_KEYWORDS | _SCHEMA_KEYWORDS | _LIST_KEYWORDS | _MAP_KEYWORDS


def strip_unknown_keywords(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema with keywords of JSON Schema only."""
    if schema.keys() <= _KEYWORDS:
        return _strip(schema, ())
    return _strip(schema, {root for root in _ref_roots(schema) if root in schema})


def _strip(schema: Mapping[str, Any], keep: Any) -> Mapping[str, Any]:
    result: dict[str, Any] = {}
    changed = False
    for keyword, value in schema.items():
        if keyword in _KEYWORDS:
            result[keyword] = cleaned = _strip_value(keyword, value)
            changed = changed or cleaned is not value
        elif keyword in keep:
            result[keyword] = value
        else:
            changed = True
    return result if changed else schema


def _strip_value(keyword: str, value: Any) -> Any:
    """The value of a keyword without unknown keywords; a value of an unexpected type is unchanged."""
    if isinstance(value, dict):
        if keyword in _SCHEMA_KEYWORDS:
            return _strip(value, ())
        if keyword in _MAP_KEYWORDS:
            inner = {name: _strip(one, ()) if isinstance(one, dict) else one for name, one in value.items()}
            return inner if any(inner[name] is not one for name, one in value.items()) else value
    elif isinstance(value, list) and keyword in _LIST_KEYWORDS:
        entries = [_strip(one, ()) if isinstance(one, dict) else one for one in value]
        return entries if any(mine is not one for mine, one in zip(entries, value, strict=True)) else value
    return value


def map_schemas(schema: Mapping[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """A copy of a schema with `change` applied to each subschema, innermost first; `change` may modify its argument."""
    result: dict[str, Any] = {}
    for keyword, value in schema.items():
        if isinstance(value, dict) and keyword in _SCHEMA_KEYWORDS:
            result[keyword] = map_schemas(value, change)
        elif isinstance(value, dict) and keyword in _MAP_KEYWORDS:
            result[keyword] = {
                name: map_schemas(one, change) if isinstance(one, dict) else one for name, one in value.items()
            }
        elif isinstance(value, list) and keyword in _LIST_KEYWORDS:
            result[keyword] = [map_schemas(one, change) if isinstance(one, dict) else one for one in value]
        else:
            result[keyword] = value
    return change(result)


def fit_schema(schema: Mapping[str, Any], rules: SchemaRules | None) -> Mapping[str, Any]:
    """The schema as an API accepts it for structured output: unsupported keywords move to the description.

    An object that maps any name to values of one schema stays open, because a closed one could only be empty; the
    endpoint decides whether it accepts it.
    """
    return schema if rules is None else map_schemas(schema, lambda inner: _fit(inner, rules))


def _fit(schema: dict[str, Any], rules: SchemaRules) -> dict[str, Any]:
    for keyword, other in rules.renamed.items():
        if keyword in schema and other not in schema:
            schema[other] = schema.pop(keyword)
    moved = {keyword: schema.pop(keyword) for keyword in list(schema) if keyword in rules.unsupported}
    if rules.unsupported and schema.get("minItems") not in (None, 0, 1):
        moved["minItems"] = schema.pop("minItems")
    if rules.formats and isinstance(schema.get("format"), str) and schema["format"] not in rules.formats:
        moved["format"] = schema.pop("format")
    if moved:
        text = ", ".join(f"{keyword}: {_json.write_text(value)}" for keyword, value in moved.items())
        description = schema.get("description")
        schema["description"] = f"{description} ({text})" if isinstance(description, str) and description else text
    others = schema.get("additionalProperties")
    is_map = isinstance(others, dict) and bool(others)
    if rules.closed and not is_map and (schema.get("type") == "object" or "properties" in schema):
        schema["additionalProperties"] = False
    return schema


def can_be_strict(schema: Mapping[str, Any]) -> bool:
    """Whether OpenAI accepts a schema as strict: its root is an object, every object is closed and requires all its
    properties, and no keyword is one that `strict` rejects."""
    if schema.get("type") != "object" or "anyOf" in schema:
        return False
    unsuitable: list[dict[str, Any]] = []

    def inspect(inner: dict[str, Any]) -> dict[str, Any]:
        properties, kind = inner.get("properties"), inner.get("type")
        if inner.keys() & STRICT_UNSUPPORTED:
            unsuitable.append(inner)
        if properties is None and kind != "object" and not (isinstance(kind, list) and "object" in kind):
            return inner
        required = inner.get("required")
        names = {name for name in required if isinstance(name, str)} if isinstance(required, list) else set()
        if inner.get("additionalProperties") is not False or not set(properties or ()) <= names:
            unsuitable.append(inner)
        return inner

    map_schemas(schema, inspect)
    return not unsuitable


def _ref_roots(value: Any) -> Iterator[str]:
    """The top-level members of the schema that `$ref` pointers lead into."""
    if isinstance(value, dict):
        reference = value.get("$ref")
        if isinstance(reference, str) and reference.startswith("#/"):
            yield reference[2:].partition("/")[0]
        for inner in value.values():
            yield from _ref_roots(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _ref_roots(inner)
