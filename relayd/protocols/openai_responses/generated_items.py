"""What relayd wrote into earlier responses, in a request that a Responses endpoint could otherwise get unchanged.

1. Reasoning of other endpoints is removed: the endpoint cannot decrypt its `encrypted_content`, and does not know its
   id. The ids of other items are removed: they are optional, and the endpoint does not know them. Ids of calls stay,
   because they connect calls with their results, and so do references: an unknown one is another relayd's behind this.
2. A request that continues a conversation which relayd has stored, or sealed, cannot pass: it is translated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

from relayd.lazy_regex import lazy_regex
from relayd.protocols import _json
from relayd.protocols._generated_parts import Edit, Part, find_part_lists, removal_edits
from relayd.protocols.dialect import RequestContext
from relayd.protocols.openai_responses.compaction import is_own
from relayd.protocols.openai_responses.reasoning_items import PREFIX
from relayd.protocols.openai_responses.state import GENERATED_MARK, is_generated_id, is_known, item_key
from relayd.wire.body import JsonBody
from relayd.wire.json_steps import Steps
from relayd.wire.seal import PREFIX as SEAL_PREFIX

MARKS = (b'"' + PREFIX.encode(), GENERATED_MARK.encode())
MOST_REFERENCES = 64
_SEALS = lazy_regex(rb'"(' + re.escape(SEAL_PREFIX.encode()) + rb'[A-Za-z0-9_-]+)"')
_IDS = lazy_regex(rb'"id"[ \t\r\n]*:[ \t\r\n]*"([a-z]+' + GENERATED_MARK.encode() + rb'[0-9a-f]{38})"')


def has_generated_parts(members: Mapping[str, Any]) -> bool:
    """True if a parsed body contains such an item."""
    return any(
        item.__class__ is dict and (is_generated_id(item.get("id")) or _is_reasoning(item))
        for item in _json.a_list(members.get("input"))
    )


def strip_generated(look: JsonBody) -> Steps[list[Edit]]:
    """Return the edits that remove the reasoning items and the ids, in steps."""
    span = look.span("input")
    edits: list[Edit] = []
    if span is not None:
        for parts in (yield from find_part_lists(look.body, span, b"[", MARKS)):
            edits += removal_edits(parts, _is_reasoning, _as_message)
            for part in parts:
                if part.value is not None and not _is_reasoning(part.value) and not _is_reference(part.value):
                    edits += _id_edits(look.body, part, part.value.get("id"))
    return edits


def continues_stored(look: JsonBody, make_context: Callable[[], RequestContext]) -> bool:
    """True if the request refers to data that only this relayd has: a stored response or an item of it, or a sealed
    summary.

    In a body too large to be parsed at once, the first MOST_REFERENCES references are recognised by their text.
    """
    previous = look.string("previous_response_id")
    if is_generated_id(previous) and is_known(make_context(), previous):
        return True
    return any(is_own(text, make_context()) for text in _seals(look)[-1:]) or any(
        is_known(make_context(), identity) for identity in _references(look)
    )


def stored_keys(look: JsonBody | None, context: RequestContext) -> list[str]:
    """The keys of the memory at which `continues_stored` and `names_stored` look."""
    found: list[Any] = context.path.split("/")
    if look is not None and not look.fault and not look.ambiguity:
        found += look.string("previous_response_id"), *_references(look)
    return [item_key(identity) for identity in found if is_generated_id(identity)]


def _seals(look: JsonBody) -> list[str]:
    if look.value is None:
        return [found[1].decode() for found in islice(_SEALS.finditer(look.body), 1)]
    texts = [_json.a_text(item.get("encrypted_content")) for item in _items(look)]
    return [text for text in texts if text.startswith(SEAL_PREFIX)]


def _references(look: JsonBody) -> list[str]:
    if look.value is not None:
        found = [item["id"] for item in _items(look) if _is_reference(item) and is_generated_id(item.get("id"))]
        return found[:MOST_REFERENCES]
    if look.body.find(b'"item_reference"') < 0:
        return []
    return [found[1].decode() for found in islice(_IDS.finditer(look.body), MOST_REFERENCES)]


def _items(look: JsonBody) -> list[dict[str, Any]]:
    assert look.value is not None
    return [item for item in _json.a_list(look.value.get("input")) if item.__class__ is dict]


def names_stored(context: RequestContext) -> bool:
    """True if the path of a request is that of a response which this relayd has stored."""
    return any(is_known(context, segment) for segment in context.path.split("/"))


def _is_reference(item: dict[str, Any]) -> bool:
    """True for a reference to a stored item, which is nothing but its id."""
    return item.get("type", "item_reference") == "item_reference" and "role" not in item


def _is_reasoning(item: dict[str, Any]) -> bool:
    if item.get("type") != "reasoning":
        return False
    encrypted = _json.a_text(item.get("encrypted_content"))
    return encrypted.startswith(PREFIX) if encrypted else is_generated_id(item.get("id"))


def _id_edits(body: bytes, part: Part, identity: Any) -> list[Edit]:
    """Return the edit that removes the id of an item, with one of the commas beside it."""
    if not is_generated_id(identity):
        return []
    member = rb'"id"[ \t\r\n]*:[ \t\r\n]*"' + identity.encode() + b'"'
    # Within a string of the item, these quotation marks would be escaped.
    found = re.compile(rb"(?:%b[ \t\r\n]*,|,[ \t\r\n]*%b)" % (member, member)).search(body, part.start, part.end)
    return [] if found is None else [(*found.span(), b"")]


def _as_message(item: dict[str, Any]) -> bytes:
    """Return the replacement if the input has no other item: none. The endpoint then refuses the empty input."""
    return b""
