"""JSON Schema without words that are none: agents mark properties with words of their own (`encrypted`), and strict
endpoints refuse a tool for every word that they do not know.

Laws:
1. A word is a member of a schema. Names of properties and definitions, and values (default, enum, examples), stay.
2. A definition stays wherever a `$ref` of the same schema looks for it, also under a word that is none.
3. What has nothing to leave out is given back as it is, not copied.
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
_MAP_KEYWORDS = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"))
_KEYWORDS = _VALUE_KEYWORDS | _SCHEMA_KEYWORDS | _LIST_KEYWORDS | _MAP_KEYWORDS


def strip_unknown_keywords(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema with words of JSON Schema only."""
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
    """The value of a word, its schemas cleaned; what has another form than the word wants stays as it is."""
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
    """A copy of a schema in which `change` has had each schema, the inner ones first; it may change what it gets."""
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
    """The schema as an API takes it for structured output: what it knows no word for, the description tells the model.

    A map of names to values of one schema stays open, and the endpoint says what it thinks of it: closed, it could only
    be empty.
    """
    return schema if rules is None else map_schemas(schema, lambda inner: _fit(inner, rules))


def _fit(schema: dict[str, Any], rules: SchemaRules) -> dict[str, Any]:
    for keyword, other in rules.renamed.items():
        if keyword in schema and other not in schema:
            schema[other] = schema.pop(keyword)
    moved = {keyword: schema.pop(keyword) for keyword in [keyword for keyword in schema if keyword in rules.unsupported]}
    if rules.unsupported and schema.get("minItems") not in (None, 0, 1):
        moved["minItems"] = schema.pop("minItems")
    if rules.formats and isinstance(schema.get("format"), str) and schema["format"] not in rules.formats:
        moved["format"] = schema.pop("format")
    if moved:
        text = ", ".join(f"{word}: {_json.write_text(value)}" for keyword, value in moved.items())
        description = schema.get("description")
        schema["description"] = f"{said} ({words})" if isinstance(description, str) and description else text
    others = schema.get("additionalProperties")
    is_map = isinstance(others, dict) and bool(others)
    if rules.closed and not is_map and (schema.get("type") == "object" or "properties" in schema):
        schema["additionalProperties"] = False
    return schema


def can_be_strict(schema: Mapping[str, Any]) -> bool:
    """Whether OpenAI takes a schema as strict: an object, of which every one is closed, with each of its properties
    required, and no words that `strict` refuses."""
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
    """The members of the whole schema that a `$ref` leads into."""
    if isinstance(value, dict):
        reference = value.get("$ref")
        if isinstance(reference, str) and reference.startswith("#/"):
            yield reference[2:].partition("/")[0]
        for inner in value.values():
            yield from _ref_roots(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _ref_roots(inner)
