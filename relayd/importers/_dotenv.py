"""The grammar of .env files, as python-dotenv reads them, and their variables in other texts.

A line is `NAME=value`, with or without `export`. In single quotes a backslash protects a quote and itself, in double quotes
also \\a, \\b, \\f, \\n, \\r, \\t and \\v are escapes; a quoted value may contain newlines. An unquoted value ends at ` #`.
`${NAME}`, `${NAME:-default}` and `${NAME-default}` stand for other variables, except in single quotes (as in Docker Compose).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import field

from relayd.dataclass import dataclass
from relayd.importers._report import Item
from relayd.lazy_regex import lazy_regex

_BINDING = lazy_regex(
    r"[^\S\r\n]*(?:export[^\S\r\n]+|(?!export[^\S\r\n]))(?P<key>'[^']+'|[^=#\s'][^=#\s]*)[^\S\r\n]*"
    r"(?P<sign>=[^\S\r\n]*(?:'(?P<single>(?:\\'|[^'])*)'|\"(?P<double>(?:\\\"|[^\"])*)\"|(?P<plain>(?![^\S\r\n]*['\"])[^\r\n]*)))?"
    r"(?P<rest>[^\r\n]*)(?:\r\n|\n|\r|$)"
)
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_REFERENCE = lazy_regex(r"\$\$|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?:(?P<kind>:?[-?+])(?P<default>[^}]*))?\}|\$(?P<bare>[A-Za-z_][A-Za-z0-9_]*)")


@dataclass(frozen=True, slots=True)
class Binding:
    """One variable of a file. `value` is None if the line has no `=`; `literal`: it was written in single quotes."""

    name: str
    value: str | None
    line: int
    last: int
    literal: bool = False


@dataclass(slots=True)
class Variable:
    """The value of a variable, and the statements from which it comes."""

    name: str
    value: str
    items: list[Item] = field(default_factory=list)


def bindings(text: str) -> Iterator[Binding | int]:
    """The variables of a text in order; a number stands for a line that is not understood."""
    position, line = 0, 1
    while position < len(text):
        end = text.find("\n", position)
        end = len(text) if end < 0 else end
        begun = text[position:end].strip()
        if not begun or begun.startswith("#"):
            position, line = end + 1, line + 1
            continue
        found = _BINDING.match(text, position)
        rest = "" if found is None else found["rest"].strip()
        if found is None or (rest and not rest.startswith("#")):
            yield line
            position, line = end + 1, line + 1
            continue
        count = found[0].rstrip("\r\n").count("\n")
        key = found["key"]
        yield Binding(key[1:-1] if key.startswith("'") else key, _value(found), line, line + count, found["single"] is not None)
        position, line = found.end(), line + count + 1


def _value(found: re.Match[str]) -> str | None:
    if found["sign"] is None:
        return None
    if found["single"] is not None:
        return re.sub(r"\\([\\'])", r"\1", found["single"])
    if found["double"] is not None:
        return re.sub(r"\\([\\'\"abfnrtv])", lambda escape: _ESCAPES.get(escape[1], escape[1]), found["double"])
    plain = f"{found['sign'][1 : len(found['sign']) - len(found['plain'])]}{found['plain']}"
    return re.sub(r"\s+#.*", "", plain).strip()


def expanded(text: str, variables: Mapping[str, Variable], items: list[Item] | None = None) -> str:
    """The text with the values of its variables; an unknown one is empty. Appends the variables' statements to `items`."""

    def value(found: re.Match[str]) -> str:
        name = found["name"] or found["bare"]
        if name is None:
            return "$"
        known = variables.get(name)
        if known is not None and items is not None:
            items.extend(one for one in known.items if one not in items)
        kind, default = found["kind"] or "", found["default"] or ""
        usable = known is not None and (known.value or not kind.startswith(":"))
        if kind.endswith("+"):
            return expanded(default, variables, items) if usable else ""
        if known is not None and usable:
            return known.value
        return expanded(default, variables, items) if kind.endswith("-") else ""

    return _REFERENCE.sub(value, text)
