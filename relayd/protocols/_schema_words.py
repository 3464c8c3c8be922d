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
from relayd.protocols._capabilities import NEVER_STRICT, SchemaRules

_PLAIN = frozenset((
    "$schema", "$id", "$ref", "$anchor", "$comment", "$dynamicRef", "$dynamicAnchor", "$recursiveRef",
    "$recursiveAnchor", "$vocabulary", "type", "enum", "const", "title", "description", "default", "examples",
    "example", "format", "pattern", "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "multipleOf", "minItems", "maxItems", "uniqueItems", "minContains", "maxContains", "required",
    "minProperties", "maxProperties", "dependentRequired", "propertyOrdering", "nullable", "readOnly", "writeOnly",
    "deprecated", "contentEncoding", "contentMediaType",
))  # fmt: skip
_ONE = frozenset((
    "items", "additionalItems", "unevaluatedItems", "contains", "additionalProperties", "unevaluatedProperties",
    "propertyNames", "not", "if", "then", "else", "contentSchema",
))  # fmt: skip
_LISTS = frozenset(("allOf", "anyOf", "oneOf", "prefixItems", "items"))
_BY_NAME = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"))
_WORDS = _PLAIN | _ONE | _LISTS | _BY_NAME


def known_words(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema with words of JSON Schema only."""
    if schema.keys() <= _WORDS:
        return _cleaned(schema, ())
    return _cleaned(schema, {place for place in _places(schema) if place in schema})


def _cleaned(schema: Mapping[str, Any], keep: Any) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    changed = False
    for word, value in schema.items():
        if word in _WORDS:
            found[word] = cleaned = _member(word, value)
            changed = changed or cleaned is not value
        elif word in keep:
            found[word] = value
        else:
            changed = True
    return found if changed else schema


def _member(word: str, value: Any) -> Any:
    """The value of a word, its schemas cleaned; what has another form than the word wants stays as it is."""
    if isinstance(value, dict):
        if word in _ONE:
            return _cleaned(value, ())
        if word in _BY_NAME:
            parts = {name: _cleaned(one, ()) if isinstance(one, dict) else one for name, one in value.items()}
            return parts if any(parts[name] is not one for name, one in value.items()) else value
    elif isinstance(value, list) and word in _LISTS:
        entries = [_cleaned(one, ()) if isinstance(one, dict) else one for one in value]
        return entries if any(mine is not one for mine, one in zip(entries, value, strict=True)) else value
    return value


def rewritten(schema: Mapping[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """A copy of a schema in which `change` has had each schema, the inner ones first; it may change what it gets."""
    found: dict[str, Any] = {}
    for word, value in schema.items():
        if isinstance(value, dict) and word in _ONE:
            found[word] = rewritten(value, change)
        elif isinstance(value, dict) and word in _BY_NAME:
            found[word] = {
                name: rewritten(one, change) if isinstance(one, dict) else one for name, one in value.items()
            }
        elif isinstance(value, list) and word in _LISTS:
            found[word] = [rewritten(one, change) if isinstance(one, dict) else one for one in value]
        else:
            found[word] = value
    return change(found)


def fitted(schema: Mapping[str, Any], rules: SchemaRules | None) -> Mapping[str, Any]:
    """The schema as an API takes it for structured output: what it knows no word for, the description tells the model.

    A map of names to values of one schema stays open, and the endpoint says what it thinks of it: closed, it could only
    be empty.
    """
    return schema if rules is None else rewritten(schema, lambda inner: _fitted(inner, rules))


def _fitted(schema: dict[str, Any], rules: SchemaRules) -> dict[str, Any]:
    for word, other in rules.renamed.items():
        if word in schema and other not in schema:
            schema[other] = schema.pop(word)
    told = {word: schema.pop(word) for word in [word for word in schema if word in rules.told]}
    if rules.told and schema.get("minItems") not in (None, 0, 1):
        told["minItems"] = schema.pop("minItems")
    if rules.formats and isinstance(schema.get("format"), str) and schema["format"] not in rules.formats:
        told["format"] = schema.pop("format")
    if told:
        words = ", ".join(f"{word}: {_json.write_text(value)}" for word, value in told.items())
        said = schema.get("description")
        schema["description"] = f"{said} ({words})" if isinstance(said, str) and said else words
    others = schema.get("additionalProperties")
    is_map = isinstance(others, dict) and bool(others)
    if rules.closed and not is_map and (schema.get("type") == "object" or "properties" in schema):
        schema["additionalProperties"] = False
    return schema


def may_be_strict(schema: Mapping[str, Any]) -> bool:
    """Whether OpenAI takes a schema as strict: an object, of which every one is closed, with each of its properties
    required, and no words that `strict` refuses."""
    if schema.get("type") != "object" or "anyOf" in schema:
        return False
    open_ones: list[dict[str, Any]] = []

    def look(inner: dict[str, Any]) -> dict[str, Any]:
        properties, kind = inner.get("properties"), inner.get("type")
        if inner.keys() & NEVER_STRICT:
            open_ones.append(inner)
        if properties is None and kind != "object" and not (isinstance(kind, list) and "object" in kind):
            return inner
        required = inner.get("required")
        names = {name for name in required if isinstance(name, str)} if isinstance(required, list) else set()
        if inner.get("additionalProperties") is not False or not set(properties or ()) <= names:
            open_ones.append(inner)
        return inner

    rewritten(schema, look)
    return not open_ones


def _places(value: Any) -> Iterator[str]:
    """The members of the whole schema that a `$ref` leads into."""
    if isinstance(value, dict):
        reference = value.get("$ref")
        if isinstance(reference, str) and reference.startswith("#/"):
            yield reference[2:].partition("/")[0]
        for inner in value.values():
            yield from _places(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _places(inner)
