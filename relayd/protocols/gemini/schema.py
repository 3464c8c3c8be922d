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
from relayd.protocols._capabilities import GEMINI_FORMATS, GEMINI_WORDS
from relayd.protocols.dialect import Refused

_DEEPEST = 24
MOST_COPIED = 256 * 1024  # bytes of JSON, of all definitions that are put in place


def cut_down(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The subset of a JSON Schema. Raises Refused where its `$ref` would make it too large."""
    return _Cut(schema).part(schema, 0)


class _Cut:
    """One schema and its definitions; owned by the call that cuts it down."""

    def __init__(self, whole: Mapping[str, Any]) -> None:
        self._definitions: dict[str, Any] = {}
        for place in ("$defs", "definitions"):
            inner = whole.get(place)
            if isinstance(inner, dict):
                self._definitions |= {f"#/{place}/{name}": value for name, value in inner.items()}
        self._sizes: dict[str, int] = {}
        self._left = MOST_COPIED

    def part(self, schema: Any, depth: int) -> dict[str, Any]:
        if not isinstance(schema, Mapping) or depth > _DEEPEST:
            return {}
        target = self._definition(schema["$ref"]) if "$ref" in schema else None
        if target is not None:
            schema = {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
            if "$ref" in target:
                schema["$ref"] = target["$ref"]
                return self.part(schema, depth + 1)
        found = {key: schema[key] for key in GEMINI_WORDS if key in schema}
        kind = self._kind(schema, found)
        if kind:
            found["type"] = kind
        self._choices(schema, found, depth)
        if schema.get("format") in GEMINI_FORMATS.get(kind, ()):
            found["format"] = schema["format"]
        properties = schema.get("properties")
        if isinstance(properties, dict):
            found["properties"] = {name: self.part(value, depth + 1) for name, value in properties.items()}
            if isinstance(found.get("required"), list):
                found["required"] = [name for name in found["required"] if isinstance(name, str) and name in properties]
        if isinstance(schema.get("items"), dict):
            found["items"] = self.part(schema["items"], depth + 1)
        elif kind == "array":
            found["items"] = {}
        return found

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

    def _kind(self, schema: Mapping[str, Any], found: dict[str, Any]) -> str:
        """The one type; `null` beside it becomes `nullable`, several others an anyOf."""
        kind = schema.get("type")
        if isinstance(kind, list):
            kinds = [one for one in kind if isinstance(one, str) and one != "null"]
            if len(kinds) < len(kind):
                found["nullable"] = True
            if len(kinds) > 1:
                found["anyOf"] = [{"type": one} for one in kinds]
                return ""
            kind = kinds[0] if kinds else ""
        if kind == "null":
            found["nullable"] = True
            return ""
        return kind if isinstance(kind, str) else ""

    def _choices(self, schema: Mapping[str, Any], found: dict[str, Any], depth: int) -> None:
        """enum and const are for strings only there; oneOf is written as anyOf."""
        values = [schema["const"]] if "const" in schema else schema.get("enum")
        if isinstance(values, list):
            texts = [value for value in values if isinstance(value, str)]
            if None in values:
                found["nullable"] = True
            if texts and all(value is None or isinstance(value, str) for value in values):
                found["enum"] = texts
                found.setdefault("type", "string")
        for word in ("anyOf", "oneOf"):
            ways = schema.get(word)
            if isinstance(ways, list):
                inner = [way for way in ways if not (isinstance(way, dict) and way.get("type") == "null")]
                if len(inner) < len(ways):
                    found["nullable"] = True
                parts = [self.part(way, depth + 1) for way in inner]
                if len(parts) == 1:
                    for key, value in parts[0].items():
                        found.setdefault(key, value)
                else:
                    found["anyOf"] = parts
