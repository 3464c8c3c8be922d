"""JSON Schema cut down to the subset of OpenAPI that older Gemini models take in `parameters` and `responseSchema`.

Laws:
1. What is left out only widens what is allowed: a value that the schema allows is allowed by what is left.
2. `$ref` to `$defs` of the same schema are put in place, to a bounded depth; deeper ones allow anything.
3. The work is bounded by the schema's size and MOST_COPIED: each definition that is put in place is charged by its
   size, and a schema whose copies exceed the bound is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relayd.protocols import _json
from relayd.protocols._capabilities import GEMINI_FORMATS, GEMINI_KEYWORDS
from relayd.protocols.dialect import Refused

_MAX_DEPTH = 24
MOST_COPIED = 256 * 1024  # bytes of JSON, of all definitions that are put in place


def to_openapi_subset(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The subset of a JSON Schema. Raises Refused where its `$ref` would make it too large."""
    return _Converter(schema).part(schema, 0)


class _Converter:
    """One schema and its definitions; owned by the call that cuts it down."""

    def __init__(self, whole: Mapping[str, Any]) -> None:
        self._definitions: dict[str, Any] = {}
        for section in ("$defs", "definitions"):
            inner = whole.get(section)
            if isinstance(inner, dict):
                self._definitions |= {f"#/{place}/{name}": value for name, value in inner.items()}
        self._sizes: dict[str, int] = {}
        self._left = MOST_COPIED

    def part(self, schema: Any, depth: int) -> dict[str, Any]:
        if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
            return {}
        target = self._definition(schema["$ref"]) if "$ref" in schema else None
        if target is not None:
            schema = {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
            if "$ref" in target:
                schema["$ref"] = target["$ref"]
                return self.part(schema, depth + 1)
        result = {key: schema[key] for key in GEMINI_KEYWORDS if key in schema}
        kind = self._kind(schema, result)
        if kind:
            result["type"] = kind
        self._choices(schema, result, depth)
        if schema.get("format") in GEMINI_FORMATS.get(kind, ()):
            result["format"] = schema["format"]
        properties = schema.get("properties")
        if isinstance(properties, dict):
            result["properties"] = {name: self.part(value, depth + 1) for name, value in properties.items()}
            if isinstance(result.get("required"), list):
                result["required"] = [name for name in result["required"] if isinstance(name, str) and name in properties]
        if isinstance(schema.get("items"), dict):
            result["items"] = self.part(schema["items"], depth + 1)
        elif kind == "array":
            result["items"] = {}
        return result

    def _definition(self, reference: Any) -> dict[str, Any] | None:
        """The definition that a `$ref` names, charged by its size."""
        target = self._definitions.get(reference) if isinstance(reference, str) else None
        if not isinstance(target, dict):
            return None
        size = self._sizes.get(reference)
        if size is None:
            size = self._sizes[reference] = len(_json.write(target))
        self._left -= size
        if self._left < 0:
            raise Refused(
                f"This model takes no $ref, and with the definitions put in place of each $ref the schema exceeds "
                f"{MOST_COPIED} bytes: use fewer $ref, or none that leads to itself more than once.",
                "response_format", "schema_too_large",
            )  # fmt: skip
        return target

    def _kind(self, schema: Mapping[str, Any], result: dict[str, Any]) -> str:
        """The one type; `null` beside it becomes `nullable`, several others an anyOf."""
        kind = schema.get("type")
        if isinstance(kind, list):
            kinds = [one for one in kind if isinstance(one, str) and one != "null"]
            if len(kinds) < len(kind):
                result["nullable"] = True
            if len(kinds) > 1:
                result["anyOf"] = [{"type": one} for one in kinds]
                return ""
            kind = kinds[0] if kinds else ""
        if kind == "null":
            result["nullable"] = True
            return ""
        return kind if isinstance(kind, str) else ""

    def _choices(self, schema: Mapping[str, Any], result: dict[str, Any], depth: int) -> None:
        """enum and const are for strings only there; oneOf is written as anyOf."""
        values = [schema["const"]] if "const" in schema else schema.get("enum")
        if isinstance(values, list):
            texts = [value for value in values if isinstance(value, str)]
            if None in values:
                result["nullable"] = True
            if texts and all(value is None or isinstance(value, str) for value in values):
                result["enum"] = texts
                result.setdefault("type", "string")
        for keyword in ("anyOf", "oneOf"):
            variants = schema.get(keyword)
            if isinstance(variants, list):
                inner = [variant for variant in variants if not (isinstance(variant, dict) and variant.get("type") == "null")]
                if len(inner) < len(variants):
                    result["nullable"] = True
                parts = [self.part(variant, depth + 1) for variant in inner]
                if len(parts) == 1:
                    for key, value in parts[0].items():
                        result.setdefault(key, value)
                else:
                    result["anyOf"] = parts
