"""Renders values and types in the syntax of relayd.yaml, for the sample file and the manual."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from relayd.lazy_regex import lazy_regex
from relayd.money import amount_text
from relayd.schema.describe import Key, choices, is_section, list_item, mapping_value, without_none
from relayd.schema.nodes import NULLS
from relayd.schema.scalars import FALSE, TRUE
from relayd.schema.types import Duration, Money, Secret, Size
from relayd.schema.units import format_duration, format_size

SECRET_EXAMPLE = "{file: /etc/relayd/keys/NAME}"

_PLAIN = lazy_regex(r"[A-Za-z0-9/_.][A-Za-z0-9/_.+@%()=;:\-]*(?: [A-Za-z0-9/_.+@%()=;\-]+)*", re.ASCII)
_NUMBER = lazy_regex(r"[0-9.][0-9.eE_+\-:]*", re.ASCII)


def show_text(text: str) -> str:
    """A text as one YAML scalar, in quotes if it would otherwise have another type."""
    reserved = text in NULLS or text.lower() in TRUE | FALSE or _NUMBER.fullmatch(text) is not None
    if _PLAIN.fullmatch(text) and not reserved and ": " not in text and not text.endswith(":"):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'


def show_value(value: Any) -> str:
    """A value in YAML's flow form."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Duration):
        return format_duration(value)
    if isinstance(value, Size):
        return format_size(value)
    if isinstance(value, Money):
        return amount_text(value)
    if isinstance(value, (int, float)):
        return f"{value:.15g}"
    if isinstance(value, str):
        return show_text(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(show_value, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{show_text(name)}: {show_value(inner)}" for name, inner in value.items()) + "}"
    raise TypeError(f"relayd.yaml cannot write a {type(value).__name__}")


def show_default(key: Key) -> str:
    """The default of a key that is not a section; empty if it cannot be shown."""
    if key.required or key.default is None or key.default == () or key.default == {}:
        return ""
    if key.zero_is_off and key.default == 0:
        return "off"
    return show_value(key.default)


def show_key_kind(key: Key) -> str:
    """A short name of a key's type, or the list of its choices."""
    return show_kind(key.kind) if key.choices is None else " | ".join(key.choices)


def show_kind(kind: Any) -> str:
    """A short name of a type."""
    bare = without_none(kind)
    item, value, options = list_item(bare), mapping_value(bare), choices(bare)
    if item is not None:
        return f"list of {_plural(item)}"
    if value is not None:
        return f"names with {_plural(value)}"
    if options:
        return " | ".join(str(choice) for choice in options)
    if is_section(bare):
        return "section"
    names = {bool: "true | false", int: "whole number", float: "number", str: "text", Duration: "duration",
             Size: "size", Money: "amount", Secret: "secret"}
    return names[bare]


def _plural(kind: Any) -> str:
    if is_section(kind):
        return "sections"
    return {str: "texts", int: "numbers"}.get(kind, show_kind(kind))


def _show_number(value: float) -> str:
    return f"{value:.15g}"


_BOUND_FORMATS: dict[Any, Callable[[float], str]] = {
    Duration: format_duration, Size: lambda value: format_size(int(value)),
    Money: lambda value: amount_text(int(value)),
}


def bounds(key: Key) -> str:
    """The bounds of a number: "8KiB to 1MiB", "at least 1", "or off"."""
    show = _BOUND_FORMATS.get(key.bare, _show_number)
    low = show(key.minimum) if key.minimum is not None and (key.minimum != 0 or key.maximum is not None) else ""
    high = show(key.maximum) if key.maximum is not None else ""
    text = f"{low} to {high}" if low and high else f"at least {low}" if low else f"at most {high}" if high else ""
    if key.zero_is_off:
        text += ", or off" if text else "off for none"
    return text
