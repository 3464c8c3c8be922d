"""JSON Schema (2020-12) of a section, for editors. `relayd check` is stricter and authoritative."""

from __future__ import annotations

from typing import Any

from relayd.money import AMOUNT_PATTERN
from relayd.schema.describe import (
    Key,
    choices,
    is_one_of,
    is_section,
    keys,
    list_item,
    mapping_value,
    name_of,
    sections_below,
    shorthand_of,
)
from relayd.schema.show import SECRET_EXAMPLE
from relayd.schema.types import Duration, Money, Secret, Size
from relayd.schema.units import DURATION_PATTERN, SIZE_PATTERN

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
# An editor reads `mode: 0660` and `min_version: 1.2` as numbers and `via: off` as a string or as false. relayd uses the
# text as written, so the schema accepts all of these types for a text.
TEXT_TYPES = ["string", "number", "boolean"]


def json_schema(root: type, title: str) -> Schema:
    """The schema of a document whose outermost section is `root`."""
    defs: Schema = {name_of(section): _section(section) for _, section in sections_below(root) if section is not root}
    defs["Secret"] = {
        "description": f"A reference to a secret: {SECRET_EXAMPLE}, {{env: NAME}} or {{credential: NAME}}.",
        "type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": False,
        "properties": {name: {"type": "string", "minLength": 1} for name in ("file", "env", "credential")},
    }
    return {"$schema": DIALECT, "title": title, **_section(root), "$defs": dict(sorted(defs.items()))}


def _section(section: type) -> Schema:
    known = keys(section)
    made: Schema = {
        "description": " ".join((section.__doc__ or "").split()),
        "type": "object",
        "additionalProperties": False,
        "properties": {key.name: _key(key) for key in known},
    }
    required = [key.name for key in known if key.required]
    if required:
        made["required"] = required
    if is_one_of(section):
        made |= {"minProperties": 1, "maxProperties": 1}
    return made


def _key(key: Key) -> Schema:
    made = _kind(key.bare, key)
    if not key.required and "$ref" not in made:
        # An empty value is treated as absent.
        empty = key.optional or list_item(key.bare) is not None or mapping_value(key.bare) is not None
        made = {"anyOf": [made, {"type": "null"}]} if empty else made
    note = f" Not in force yet (waits for: {key.pending})." if key.pending else ""
    return {"description": key.doc + note, **made}


def _kind(kind: Any, key: Key | None = None) -> Schema:
    item, value, options = list_item(kind), mapping_value(kind), choices(kind)
    if item is not None:
        inner = _kind(item, key)
        least = {"minItems": 1} if key is not None and key.required else {}
        return {"anyOf": [inner, {"type": "array", "items": inner, **least}]}
    if value is not None:
        return {"type": "object", "additionalProperties": _kind(value)}
    if options:
        return {"enum": [*options, *(float(choice) for choice in options if _is_number(choice))]}
    if is_section(kind):
        return _reference(kind)
    if kind is Secret:
        return {"$ref": "#/$defs/Secret"}
    return _scalar_schema(kind, key)


def _is_number(choice: Any) -> bool:
    return isinstance(choice, str) and choice.replace(".", "", 1).isdigit()


def _reference(section: type) -> Schema:
    reference = {"$ref": f"#/$defs/{name_of(section)}"}
    short = shorthand_of(section)
    if short is None:
        return reference
    (key,) = (one for one in keys(section) if one.name == short)
    return {"anyOf": [_kind(key.bare, key), reference]}


def _scalar_schema(kind: Any, key: Key | None) -> Schema:
    if kind is bool:
        return {"type": "boolean"}
    if kind is str and key is not None and key.choices is not None:
        return {"enum": list(key.choices)}
    if kind is str:
        pattern = {"pattern": f"^(?:{key.pattern})$"} if key is not None and key.pattern else {}
        return {"type": TEXT_TYPES, **pattern}
    made: Schema
    if kind in (int, float):
        made = {"type": "integer" if kind is int else "number"}
        if key is not None and not key.zero_is_off:
            made |= {"minimum": key.minimum} if key.minimum is not None else {}
            made |= {"maximum": key.maximum} if key.maximum is not None else {}
    elif kind is Size:
        made = {"type": ["string", "integer"], "pattern": f"^{SIZE_PATTERN}$"}
    elif kind is Money:
        made = {"type": ["number", "string"], "pattern": f"^{AMOUNT_PATTERN}$", "minimum": 0}
    elif kind is Duration:
        made = {"type": ["string", "integer"], "pattern": f"^(?:0|{DURATION_PATTERN})$", "maximum": 0, "minimum": 0}
    else:
        raise TypeError(f"no schema for {kind}")
    return {"anyOf": [made, {"enum": ["off", False]}]} if key is not None and key.zero_is_off else made
