"""Requests that relayd answers without an endpoint: for stored responses and for token counts.

Stored responses are addressed by their id (GET, DELETE, input_items and cancel). Token counts are estimates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, unquote

from relayd.lazy_regex import lazy_regex
from relayd.protocols import _json
from relayd.protocols._openai_errors import render_error
from relayd.protocols._token_estimate import count_steps
from relayd.protocols.canon import Failure
from relayd.protocols.dialect import EncodedResponse, Refused, RequestContext, run_steps
from relayd.protocols.openai_responses import state
from relayd.protocols.openai_responses.read_request import read_for_count
from relayd.wire.json_steps import Steps

_PATH = lazy_regex(r"/responses/([^/]+)(/input_items|/cancel)?/?")
COUNT_PATH = "/responses/input_tokens"
_METHODS = {None: ("GET", "DELETE"), "/input_items": ("GET",), "/cancel": ("POST",)}
_RESERVED = ("compact", "input_tokens")  # paths of the API in the position of a response id
MAX_PAGE_ITEMS, DEFAULT_PAGE_ITEMS = 100, 20


def local(context: RequestContext, body: bytes) -> EncodedResponse | None:
    """Answer a request for a stored response or a token count, at once; None for every other request."""
    if context.path.endswith((COUNT_PATH, COUNT_PATH + "/")) and context.method == "POST":
        return _count(context, body)
    steps = stored_steps(context)
    return None if steps is None else run_steps(steps)


def stored_steps(context: RequestContext) -> Steps[EncodedResponse] | None:
    """Answer a request for a stored response, in steps; None for every other request."""
    start = context.path.rfind("/responses/")
    match = _PATH.fullmatch(context.path, start) if start >= 0 else None
    if match is None:
        return None
    is_reserved = match[1] in _RESERVED and match[2] is None
    methods = ("POST",) if is_reserved else _METHODS[match[2]]
    if context.method not in methods:
        return _wrong_method(context, methods)
    return None if is_reserved else _stored(context, unquote(match[1]), match[2])


def _wrong_method(context: RequestContext, methods: tuple[str, ...]) -> Steps[EncodedResponse]:
    refused = _error(context, 405, f"This path supports only {' and '.join(methods)}.", "method_not_allowed")
    yield
    return EncodedResponse(refused.status, refused.body, headers=(("Allow", ", ".join(methods)),))


def _stored(context: RequestContext, response_id: str, action: str | None) -> Steps[EncodedResponse]:
    record = yield from state.stored_response_steps(context, response_id)
    if record is None:
        shown_id = response_id[: state.MAX_ID_CHARS]
        message = f"Response with id '{shown_id}' not found." + state.storage_failure(context, response_id)
        return _error(context, 404, message, "response_not_found", "response_id")
    if action == "/cancel":
        return _error(context, 400, "Only a background response can be cancelled.", "invalid_value")
    if action == "/input_items":
        return (yield from _input_items(context, record))
    if context.method == "DELETE":
        yield from state.delete_steps(context, record)
        return EncodedResponse(200, _json.write({"id": response_id, "object": "response", "deleted": True}))
    if parse_qs(context.query).get("stream", ["false"])[-1].lower() in ("true", "1"):
        return _error(context, 400, "A stored response cannot be streamed.", "unsupported_parameter", "stream")
    return EncodedResponse(200, (yield from _json.write_steps(record["response"])))


def _count(context: RequestContext, body: bytes) -> EncodedResponse:
    try:
        return run_steps(local_steps(_json.read_object(body), context))
    except Refused as refused:
        return _refused(refused, context)


def local_steps(members: dict[str, Any], context: RequestContext) -> Steps[EncodedResponse]:
    """Estimate the tokens of a parsed body, in steps."""
    try:
        request = yield from read_for_count(members, context)
    except Refused as refused:
        return _refused(refused, context)
    count = yield from count_steps(request)
    return EncodedResponse(200, _json.write({"object": "response.input_tokens", "input_tokens": count}))


def _refused(refused: Refused, context: RequestContext) -> EncodedResponse:
    return _error(context, refused.status, refused.message, refused.code or "invalid_value", refused.param)


def _input_items(context: RequestContext, record: Mapping[str, Any]) -> Steps[EncodedResponse]:
    """Return one page of the input items of a response; by default the latest first."""
    parameters = {name: values[-1] for name, values in parse_qs(context.query).items()}
    limit = parameters.get("limit", str(DEFAULT_PAGE_ITEMS))
    order, after = parameters.get("order", "desc"), parameters.get("after")
    if not (limit.isascii() and limit.isdigit() and len(limit) < 4 and 1 <= int(limit) <= MAX_PAGE_ITEMS):
        return _error(context, 400, f"limit must be between 1 and {MAX_PAGE_ITEMS}.", "invalid_value", "limit")
    if order not in ("asc", "desc"):
        return _error(context, 400, "order must be asc or desc.", "invalid_value", "order")
    items = record["items"][: len(record["items"]) - len(record["response"]["output"])]
    if order == "desc":
        items = items[::-1]
    if after is not None:
        positions = [position for position, item in enumerate(items) if item["id"] == after]
        if not positions:
            message = f"Item with id '{after[: state.MAX_ID_CHARS]}' not found."
            return _error(context, 404, message, "item_not_found", "after")
        items = items[positions[0] + 1 :]
    page = items[: int(limit)]
    item_list = {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(page) < len(items),
    }
    return EncodedResponse(200, (yield from _json.write_steps(item_list)))


def _error(context: RequestContext, status: int, message: str, code: str, param: str | None = None) -> EncodedResponse:
    failure = Failure(status, message, code, "invalid_request_error", param)
    return render_error(failure, context.request_id)
