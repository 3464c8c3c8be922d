"""Removes thinking blocks that no Anthropic endpoint has signed from passthrough requests: the API rejects them.

relayd writes such blocks for the reasoning of other endpoints: without a signature, or with the proof of a Responses
endpoint. A turn that consists of such blocks only keeps the text. If the current tool loop loses its thinking block, a
thinking budget is disabled: the API requires that the loop begins with one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relayd.lazy_regex import lazy_regex
from relayd.protocols import _json
from relayd.protocols._generated_parts import Edit, find_part_lists, removal_edits
from relayd.wire.body import JsonBody
from relayd.wire.json_steps import Steps

_COLONS = (b":", b": ", b" : ")  # as JSON is usually written; a body that is parsed may be written in any way
MARKS = tuple(b'"signature"' + colon + value for colon in _COLONS for value in (b'""', b"null", b'"responses:'))
_PART_MARKS = (b'"signature"',)
_USER = lazy_regex(rb'"role"\s*+:\s*+"user"')
_MOST_THINKING_BYTES = 4096


def has_generated_parts(members: Mapping[str, Any]) -> bool:
    """Whether a parsed body contains such blocks."""
    for message in _json.a_list(members.get("messages")):
        content = message.get("content") if message.__class__ is dict else None
        if content.__class__ is list and any(block.__class__ is dict and _is_generated(block) for block in content):
            return True
    return False


def strip_generated(look: JsonBody) -> Steps[list[Edit]]:
    """The edits that remove the blocks, in steps."""
    span = look.span("messages")
    if span is None:
        return []
    edits: list[Edit] = []
    last = 0
    for parts in (yield from find_part_lists(look.body, span, b"[{[", _PART_MARKS)):
        found = removal_edits(parts, _is_generated, _as_text)
        if found:
            edits += found
            last = parts[-1].end
    if last and (budget := look.span("thinking")) is not None and budget[1] - budget[0] < _MOST_THINKING_BYTES:
        try:
            thinking = _json.an_object(_json.parse(look.body[slice(*budget)]))
        except ValueError:
            thinking = {}
        if thinking.get("type") == "enabled" and _is_in_tool_loop(look.body[last : span[1]]):
            edits.append((*budget, b'{"type":"disabled"}'))
    return edits


def _is_generated(block: dict[str, Any]) -> bool:
    if block.get("type") != "thinking":
        return False
    signature = block.get("signature", "signed")  # a client that leaves it out has not got it from relayd
    return not signature or (isinstance(signature, str) and signature.startswith("responses:"))


def _as_text(block: dict[str, Any]) -> bytes:
    return _json.write({"type": "text", "text": _json.a_text(block.get("thinking")).strip() or "(no answer)"})


def _is_in_tool_loop(rest: bytes) -> bool:
    """Whether only tool results of the user follow a turn."""
    return len(_USER.findall(rest)) <= rest.count(b'"tool_use_id"')
