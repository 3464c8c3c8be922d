"""Parser of the field Forwarded (RFC 7239), from its last element to its first.

1. The peer itself wrote the last element; any earlier element may be forged. The list is therefore parsed from its end,
   so that no earlier text, for example an open quote, can change the interpretation of a later element.
2. The cost is linear. Elements are matched in the reversed text. There a quoted string begins with its closing quote
   and ends at the first quote that is followed by "=", without backtracking.
3. Parsing stops at a malformed element: this element and all elements left of it are ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from relayd.lazy_regex import lazy_regex

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# Both patterns match reversed text. Unquoted values may contain ":" and brackets, because many proxies write them so.
_PAIR = rb"(?:\"(?:\"\\|[^\"])*\"|[!#$%&'*+\-.^_`|~0-9A-Za-z:\[\]]+)=" + _TOKEN
_ELEMENT = lazy_regex(rb"[ \t;]*(" + _PAIR + rb"(?:[ \t]*;[ \t;]*" + _PAIR + rb")*)[ \t;]*(?:,|\Z)")
_EMPTY = lazy_regex(rb"[ \t]*(?:,|\Z)")  # RFC 9110 5.6.1
_PAIRS = lazy_regex(rb"(" + _TOKEN + rb")=(\"(?:[^\"\\]|\\.)*\"|[^;\" \t]+)[ \t]*(?:;[ \t;]*|\Z)")
_ESCAPED = lazy_regex(rb"\\(.)")
MAX_ELEMENT = 1024


class Element(NamedTuple):
    """One element. `text` is the received text, `node` the unquoted value of `for`; b"" for a missing parameter."""

    text: bytes
    node: bytes
    proto: bytes
    host: bytes


def elements_from_last(lines: list[bytes]) -> Iterator[Element]:
    """The elements of all Forwarded fields (`lines` are their values in order), from last to first."""
    for line in reversed(lines):
        text = line[::-1]
        position = 0
        while position < len(text):
            match = _ELEMENT.match(text, position)
            if match is not None:
                found = _element(match[1][::-1])
                if found is None:
                    return
                yield found
            else:
                match = _EMPTY.match(text, position)
                if match is None:
                    return
            position = match.end()


def _element(text: bytes) -> Element | None:
    """Parse one element. None if a parameter is repeated (RFC 7239 4) or the element is too long."""
    if len(text) > MAX_ELEMENT:
        return None
    found: dict[bytes, bytes] = {}
    position = 0
    while position < len(text):
        match = _PAIRS.match(text, position)
        if match is None or match[1].lower() in found:
            return None
        value = match[2]
        found[match[1].lower()] = _ESCAPED.sub(rb"\1", value[1:-1]) if value.startswith(b'"') else value
        position = match.end()
    return Element(text, found.get(b"for", b""), found.get(b"proto", b""), found.get(b"host", b""))
