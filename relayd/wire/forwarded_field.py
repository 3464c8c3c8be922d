"""The field Forwarded (RFC 7239): its elements, read from the last one to the first.

1. The last element was written by the peer itself, and what stands before it may have been invented by anybody. So the
   list is read from its end: nothing to the left, an open quote for example, can change how an element is read.
2. The cost is linear: elements are matched in the reversed text, where a quoted string begins with its closing quote
   and ends at the first quote with "=" behind it, without backtracking into another reading.
3. An element that is malformed ends the reading: neither it nor anything left of it is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# Both patterns match reversed text. Unquoted values may hold ":" and brackets, as many proxies write them.
_PAIR = rb"(?:\"(?:\"\\|[^\"])*\"|[!#$%&'*+\-.^_`|~0-9A-Za-z:\[\]]+)=" + _TOKEN
_ELEMENT = re.compile(rb"[ \t;]*(" + _PAIR + rb"(?:[ \t]*;[ \t;]*" + _PAIR + rb")*)[ \t;]*(?:,|\Z)")
_EMPTY = re.compile(rb"[ \t]*(?:,|\Z)")  # RFC 9110 5.6.1
_PAIRS = re.compile(rb"(" + _TOKEN + rb")=(\"(?:[^\"\\]|\\.)*\"|[^;\" \t]+)[ \t]*(?:;[ \t;]*|\Z)")
_ESCAPED = re.compile(rb"\\(.)")
MAX_ELEMENT = 1024


class Element(NamedTuple):
    """One element. `text` is as it was written, `node` the value of `for` without quotes; b"" for what is absent."""

    text: bytes
    node: bytes
    proto: bytes
    host: bytes


def elements_from_last(lines: list[bytes]) -> Iterator[Element]:
    """The elements of all Forwarded fields (`lines` are their values in order), the last one first."""
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
    """The parameters of one element; None where one stands twice or the element is too long (RFC 7239 4)."""
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
