"""The canonical form of a JSON object, for a digest: equal for texts that differ only in whitespace, in the form of
strings and in the order of members.

1. The order of members of an object named `properties` is kept: it is the order in which models write the members of a
   structured answer.
2. An object with a repeated key has no canonical form: parsers use the first or the last of them.
3. Numbers of different types differ (1 and 1.0), so that the form never equates what a parser may distinguish.
"""

from __future__ import annotations

import json
from typing import Any

ORDERED = "properties"
MAX_DEPTH = 100
_CONTAINERS = (dict, list)

_encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), check_circular=False).encode


class NoCanonicalForm(ValueError):
    """The text is not one JSON object, repeats a key, or nests too deep; the message says which."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise NoCanonicalForm("a key is repeated")
    return found


_parse = json.JSONDecoder(object_pairs_hook=_object).decode


def parsed(text: bytes) -> dict[str, Any]:
    """The object of a text in UTF-8. Raises NoCanonicalForm."""
    try:
        value = _parse(text.decode("utf-8"))
    except NoCanonicalForm:
        raise
    except (ValueError, RecursionError) as fault:
        raise NoCanonicalForm("it is not JSON") from fault
    if not isinstance(value, dict):
        raise NoCanonicalForm("it is not an object")
    return value


def canonical(value: dict[str, Any]) -> bytes:
    """The canonical form of a parsed object. Raises NoCanonicalForm."""
    try:
        return _encode(_sorted(value, False, MAX_DEPTH)).encode("ascii")
    except NoCanonicalForm:
        raise
    except (ValueError, RecursionError) as fault:
        raise NoCanonicalForm("a number is too long") from fault


def _sorted(value: Any, keeps_order: bool, depth: int) -> Any:
    if not depth:
        raise NoCanonicalForm("it nests too deep")
    if isinstance(value, dict):
        return {
            key: inner if inner.__class__ not in _CONTAINERS
            else _sorted(inner, key == ORDERED and not keeps_order, depth - 1)
            for key, inner in (value.items() if keeps_order else sorted(value.items(), key=_key_of))
        }
    return [inner if inner.__class__ not in _CONTAINERS else _sorted(inner, False, depth - 1) for inner in value]


def _key_of(item: tuple[str, Any]) -> str:
    return item[0]
