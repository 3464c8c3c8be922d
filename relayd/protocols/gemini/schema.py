"""JSON Schema reduced to the subset of OpenAPI that older Gemini models support in `parameters` and `responseSchema`.

Laws:
1. Dropped keywords only widen the schema: every value that the original schema allows stays allowed.
2. A `$ref` to `$defs` of the same schema is replaced by the definition, to a bounded depth; a deeper one allows any.
3. The work is bounded by the schema's size and MOST_COPIED: each copy of a definition is charged by its size, and a
   schema whose copies exceed the bound is Refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relayd.protocols import _json
from relayd.protocols._capabilities import GEMINI_FORMATS, GEMINI_KEYWORDS
from relayd.protocols.dialect import Refused

_MAX_DEPTH = 24
MOST_COPIED = 256 * 1024  # bytes of JSON, of all copies of definitions


def to_openapi_subset(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The subset of a JSON Schema. Raises Refused if replacing each `$ref` would make it too large."""
    return _Converter(schema).part(schema, 0)


class _Converter:
    """Converts one schema with its definitions; owned by the function that converts it."""

    def __init__(self, whole: Mapping[str, Any]) -> None:
        self._definitions: dict[str, Any] = {}
        for section in ("$defs", "definitions"):
            inner = whole.get(section)
            if isinstance(inner, dict):
                self._definitions |= {f"#/{section}/{name}": value for name, value in inner.items()}
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
                names = (name for name in result["required"] if isinstance(name, str))
                result["required"] = [name for name in names if name in properties]
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
                f"This model does not support $ref, and with each $ref replaced by its definition the schema exceeds "
                f"{MOST_COPIED} bytes: use fewer $ref, and none that refers to itself more than once.",
                "response_format", "schema_too_large",
            )  # fmt: skip
        return target

    def _kind(self, schema: Mapping[str, Any], result: dict[str, Any]) -> str:
        """The single type; `null` among several becomes `nullable`, several others become an anyOf."""
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
        """Convert the alternatives: enum and const support strings only; oneOf becomes anyOf."""
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
                inner = [one for one in variants if not (isinstance(one, dict) and one.get("type") == "null")]
                if len(inner) < len(variants):
                    result["nullable"] = True
                parts = [self.part(variant, depth + 1) for variant in inner]
                if len(parts) == 1:
                    for key, value in parts[0].items():
                        result.setdefault(key, value)
                else:
                    result["anyOf"] = parts
