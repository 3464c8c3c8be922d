"""Stored responses, asked for by their id (GET, DELETE, input_items and cancel), and an estimate of a request's tokens.
None of this goes upstream.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, unquote

from relayd.protocols import _json
from relayd.protocols._openai_errors import render_error
from relayd.protocols._token_estimate import count_steps
from relayd.protocols.canon import Failure
from relayd.protocols.dialect import EncodedResponse, Refused, RequestContext, run_steps
from relayd.protocols.openai_responses import state
from relayd.protocols.openai_responses.request import read_for_count
from relayd.wire.json_steps import Steps

_PATH = re.compile(r"/responses/([^/]+)(/input_items|/cancel)?/?")
COUNT_PATH = "/responses/input_tokens"
_METHODS = {None: ("GET", "DELETE"), "/input_items": ("GET",), "/cancel": ("POST",)}
_WORDS = ("compact", "input_tokens")  # paths of the API, where others have an id
MOST_ITEMS, USUAL_ITEMS = 100, 20


def local(ask: RequestContext, body: bytes) -> EncodedResponse | None:
    """The answer to a request for a stored response; None for every other request."""
    place = ask.path.rfind("/responses/")
    match = _PATH.fullmatch(ask.path, place) if place >= 0 else None
    if match is None:
        return None
    is_word = match[1] in _WORDS and match[2] is None
    methods = ("POST",) if is_word else _METHODS[match[2]]
    if ask.method not in methods:
        refused = _error(ask, 405, f"Only {' and '.join(methods)} can be used here.", "method_not_allowed")
        return EncodedResponse(refused.status, refused.body, headers=(("Allow", ", ".join(methods)),))
    if is_word:
        return None if match[1] == "compact" else _count(ask, body)
    response_id = unquote(match[1])
    record = state.stored(ask, response_id)
    if record is None:
        shown = response_id[: state.LONGEST_ID]
        message = f"Response with id '{shown}' not found." + state.why_lost(ask, response_id)
        return _error(ask, 404, message, "response_not_found", "response_id")
    if match[2] == "/cancel":
        return _error(ask, 400, "Only a response that was made in the background can be cancelled.", "invalid_value")
    if match[2] == "/input_items":
        return _input_items(ask, record)
    if ask.method == "DELETE":
        state.forget(ask, response_id)
        return EncodedResponse(200, _json.write({"id": response_id, "object": "response", "deleted": True}))
    if parse_qs(ask.query).get("stream", ["false"])[-1].lower() in ("true", "1"):
        return _error(ask, 400, "A stored response cannot be streamed again.", "unsupported_parameter", "stream")
    return EncodedResponse(200, _json.write(record["response"]))


def _count(ask: RequestContext, body: bytes) -> EncodedResponse:
    try:
        return run_steps(local_steps(_json.read_object(body), ask))
    except Refused as fault:
        return _refused(fault, ask)


def local_steps(members: dict[str, Any], ask: RequestContext) -> Steps[EncodedResponse]:
    """The estimate of the tokens of a parsed body, in steps."""
    try:
        request = yield from read_for_count(members, ask)
    except Refused as fault:
        return _refused(fault, ask)
    count = yield from count_steps(request)
    return EncodedResponse(200, _json.write({"object": "response.input_tokens", "input_tokens": count}))


def _refused(fault: Refused, ask: RequestContext) -> EncodedResponse:
    return _error(ask, fault.status, fault.message, fault.code or "invalid_value", fault.param)


def _input_items(ask: RequestContext, record: Mapping[str, Any]) -> EncodedResponse:
    """One page of the items that the response was made from; the latest first, unless asked otherwise."""
    asked = {name: values[-1] for name, values in parse_qs(ask.query).items()}
    limit, order, after = asked.get("limit", str(USUAL_ITEMS)), asked.get("order", "desc"), asked.get("after")
    if not (limit.isascii() and limit.isdigit() and len(limit) < 4 and 1 <= int(limit) <= MOST_ITEMS):
        return _error(ask, 400, f"limit must be between 1 and {MOST_ITEMS}.", "invalid_value", "limit")
    if order not in ("asc", "desc"):
        return _error(ask, 400, "order must be asc or desc.", "invalid_value", "order")
    items = record["items"][: len(record["items"]) - len(record["response"]["output"])]
    if order == "desc":
        items = items[::-1]
    if after is not None:
        places = [place for place, item in enumerate(items) if item["id"] == after]
        if not places:
            return _error(ask, 404, f"Item with id '{after[: state.LONGEST_ID]}' not found.", "item_not_found", "after")
        items = items[places[0] + 1 :]
    page = items[: int(limit)]
    listed = {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(page) < len(items),
    }
    return EncodedResponse(200, _json.write(listed))


def _error(ask: RequestContext, status: int, message: str, code: str, param: str | None = None) -> EncodedResponse:
    failure = Failure(status, message, code, "invalid_request_error", param)
    return render_error(failure, ask.request_id)
