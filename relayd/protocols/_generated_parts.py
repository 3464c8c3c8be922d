"""Removes parts that relayd generated in earlier responses from a passthrough request: no endpoint would know them.

After a fallback, or with another model, a client's history contains parts that a translation has generated.

Laws:
1. Every other byte of the request stays unchanged.
2. A step scans a bounded number of JSON tokens; a string with many escapes counts as several.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from relayd.lazy_regex import lazy_regex
from relayd.protocols import _json
from relayd.wire.json_steps import Steps

Edit = tuple[int, int, bytes]  # start, end, replacement
STEP_TOKENS = 2048
_TOKEN = lazy_regex(rb'["\[\]{}]')
_STRING_REST = lazy_regex(rb'[^"\\]*+(?:\\.[^"\\]*+){0,64}("|\\?\Z)?', re.DOTALL)
# The group is None if the string continues after the match.
_OPENING = {b"]": b"[", b"}": b"{"}


class Part(NamedTuple):
    """An entry of a list. `value` is the parsed object if the entry contains a mark, else None."""

    start: int
    end: int
    value: dict[str, Any] | None


def find_part_lists(
    body: bytes, span: tuple[int, int], shape: bytes, marks: tuple[bytes, ...]
) -> Steps[list[list[Part]]]:
    """The lists at this nesting (`shape`: the opening brackets) of a member whose entries contain a mark."""
    found: list[list[Part]] = []
    stack = bytearray()
    parts: list[Part] = []
    start, depth = 0, len(shape)
    for count, (byte, at, after) in enumerate(_tokens(body, *span), 1):
        if count % STEP_TOKENS == 0:
            yield
        if byte in (b"[", b"{"):
            if len(stack) == depth and stack == shape:
                start = at
            stack += byte
            if len(stack) == depth and stack == shape:
                parts = []
        elif byte in (b"]", b"}"):
            if len(stack) == depth and stack == shape and any(part.value is not None for part in parts):
                found.append(parts)
            if not stack or stack[-1:] != _OPENING[byte]:
                return []  # not JSON: the endpoint rejects it
            del stack[-1:]
            if len(stack) == depth and stack == shape:
                text = body[start:after]
                value = _object(text) if any(mark in text for mark in marks) else None
                parts.append(Part(start, after, value))
        elif byte and len(stack) == depth and stack == shape and stack[-1:] == b"[":
            parts.append(Part(at, after, None))
    return found


def _tokens(body: bytes, position: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Brackets and strings (first byte, start and end). Several tokens b"" precede a string with many
    escapes, so that each match is bounded work."""
    while (found := _TOKEN.search(body, position, end)) is not None:
        position = found.end()
        if found[0] == b'"':
            while (rest := _STRING_REST.match(body, position, end)) is not None:
                position = rest.end()
                if rest[1] is not None:
                    break
                yield b"", found.start(), position
        yield found[0], found.start(), position


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        value = _json.parse_bounded(text.decode("utf-8"))
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def removal_edits(
    parts: list[Part], is_generated: Callable[[dict[str, Any]], bool], replacement: Callable[[dict[str, Any]], bytes]
) -> list[Edit]:
    """The edits that remove the generated parts from a list. If all parts are generated, the last one is replaced by
    `replacement` of it."""
    generated = [part.value is not None and is_generated(part.value) for part in parts]
    if not any(generated):
        return []
    last = parts[-1].value
    if all(generated) and last is not None:
        return [(parts[0].start, parts[-1].end, replacement(last))]
    edits: list[Edit] = []
    previous = -1  # the index of the last entry that stays
    for index, part in enumerate(parts):
        if not generated[index]:
            if previous < 0 < index:
                edits.append((parts[0].start, part.start, b""))
            elif previous + 1 < index:
                edits.append((parts[previous].end, parts[index - 1].end, b""))
            previous = index
    if previous + 1 < len(parts):
        edits.append((parts[previous].end, parts[-1].end, b""))
    return edits
