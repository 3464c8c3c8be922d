"""Conversion of a YAML scalar to the value of the expected type. Raises ScalarError with the fault and a suggestion.

YAML's own implicit types are ignored: `off` is a name if a name is expected, and a port of `1:30` is a fault and not
ninety.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

from relayd.lazy_regex import lazy_regex
from relayd.money import amount_text
from relayd.schema.describe import Key, choices
from relayd.schema.nodes import Scalar
from relayd.schema.types import Duration, Money, Size
from relayd.schema.units import UnitError, format_duration, format_size, parse_duration, parse_money, parse_size

TRUE = frozenset({"true", "yes", "on"})
FALSE = frozenset({"false", "no", "off"})
LARGEST = (1 << 31) - 1

_INTEGER = lazy_regex(r"-?(?:0|[1-9][0-9]{0,17})", re.ASCII)
_NUMBER = lazy_regex(r"-?[0-9]{1,18}(?:\.[0-9]{1,18})?", re.ASCII)


class ScalarError(ValueError):
    """A scalar that is not valid for its key."""

    def __init__(self, message: str, suggestion: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.suggestion = suggestion


def meant(choice: str, known: Iterable[str]) -> str:
    """'did you mean x?'; empty if no known value is similar."""
    near = difflib.get_close_matches(choice[:80], list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else ""


def shown(text: str) -> str:
    """A text as quoted in messages: shortened and without control characters."""
    quoted = text if len(text) <= 60 else text[:57] + "..."
    return repr(quoted)


def parse_scalar(node: Scalar, kind: Any, key: Key | None) -> Any:
    """The value of a scalar for a type without sections, lists and mappings."""
    if node.null:
        raise ScalarError("needs a value", "for the text itself, put it in quotes" if node.text else "")
    options = choices(kind)
    if options:
        named = {str(choice): choice for choice in options}
        if node.text not in named:
            raise ScalarError(f"{shown(node.text)} is none of {', '.join(named)}", meant(node.text, named))
        return named[node.text]
    if kind is str and key is not None and key.choices is not None and node.text not in key.choices:
        raise ScalarError(f"{shown(node.text)} is none of {', '.join(key.choices)}", meant(node.text, key.choices))
    if kind is str:
        return _text(node, key)
    if kind is bool:
        return _truth(node)
    if kind is Duration:
        return _bounded(_unit(node, key, parse_duration), key, format_duration, must_be_positive=True)
    if kind is Size:
        return _bounded(_unit(node, key, parse_size), key, lambda value: format_size(int(value)))
    if kind is Money:
        return _bounded(_unit(node, key, parse_money), key, lambda value: amount_text(int(value)))
    return _bounded(_number(node, kind, key), key, lambda value: f"{value:.15g}")


def _text(node: Scalar, key: Key | None) -> str:
    allowed = "\n\t" if key is not None and key.multiline else ""
    for sign in node.text:
        if (ord(sign) < 0x20 or ord(sign) == 0x7F) and sign not in allowed:
            raise ScalarError("contains a control character or a line break")
    if key is not None and key.pattern is not None and re.fullmatch(key.pattern, node.text) is None:
        wanted = f"is not {key.form}" if key.form else f"does not have the form {key.pattern}"
        raise ScalarError(f"{shown(node.text)} {wanted}")
    return node.text


def _truth(node: Scalar) -> bool:
    choice = node.text.lower()
    if choice not in TRUE | FALSE:
        raise ScalarError(f"{shown(node.text)} is neither true nor false")
    if not node.plain:
        raise ScalarError("is a text, not true or false", "write it without quotes")
    return choice in TRUE


def _switched_off(node: Scalar, key: Key | None) -> bool:
    return key is not None and key.zero_is_off and node.text.lower() == "off"


def _unit(node: Scalar, key: Key | None, parse: Any) -> Any:
    if _switched_off(node, key):
        return parse("0")
    try:
        return parse(node.text)
    except UnitError as fault:
        suggestion = fault.suggestion if len(node.text) <= 60 else ""
        raise ScalarError(f"{shown(node.text)} {fault}", suggestion) from None


def _number(node: Scalar, kind: Any, key: Key | None) -> Any:
    if _switched_off(node, key):
        return kind(0)
    form = _INTEGER if kind is int else _NUMBER
    if form.fullmatch(node.text) is None:
        if node.text.isascii() and node.text.isdecimal() and not node.text.startswith("0"):
            most = LARGEST if key is None or key.maximum is None else key.maximum
            raise ScalarError(f"must be at most {most:.15g}")
        raise ScalarError(f"{shown(node.text)} is not a {'whole ' if kind is int else ''}number")
    return kind(node.text)


def _bounded(value: Any, key: Key | None, show: Any, must_be_positive: bool = False) -> Any:
    if key is not None and key.zero_is_off and value == 0:
        return value
    least = key.minimum if key is not None else None
    most = key.maximum if key is not None else None
    if must_be_positive and least is None and value == 0:
        raise ScalarError("must be more than 0")
    if least is not None and value < least:
        raise ScalarError(f"must be at least {show(least)}")
    if most is None and not isinstance(value, (Duration, Money, Size)):
        most = LARGEST
    if most is not None and value > most:
        raise ScalarError(f"must be at most {show(most)}")
    return value
