"""Requests that never go upstream: the estimate of token counts, and HEAD requests with which clients probe relayd."""

from __future__ import annotations

from typing import Any

from relayd.protocols import _json
from relayd.protocols._token_estimate import count_steps
from relayd.protocols.anthropic_messages.errors import render_error
from relayd.protocols.anthropic_messages.read_request import read_members
from relayd.protocols.canon import Failure
from relayd.protocols.dialect import EncodedResponse, Refused, RequestContext, run_steps
from relayd.wire.json_steps import Steps

COUNT_PATH = "/messages/count_tokens"
_HEAD_PATHS = ("/messages", COUNT_PATH, "/v1", "/models")


def local(context: RequestContext, body: bytes) -> EncodedResponse | None:
    """The response to a request for relayd itself, else None."""
    path = context.path.rstrip("/")
    if context.method == "HEAD" and (not path or path.endswith(_HEAD_PATHS)):
        return EncodedResponse(200, b"")
    if context.method != "POST" or not path.endswith(COUNT_PATH):
        return None
    try:
        return run_steps(local_steps(_json.read_object(body), context))
    except Refused as fault:
        return refused(fault, context)


def local_steps(members: dict[str, Any], context: RequestContext) -> Steps[EncodedResponse]:
    """The token count of a parsed body, in steps."""
    try:
        request = yield from read_members(members, None)
    except Refused as fault:
        return refused(fault, context)
    count = yield from count_steps(request)
    return EncodedResponse(200, _json.write({"input_tokens": count}))


def refused(fault: Refused, context: RequestContext) -> EncodedResponse:
    """The error response for an invalid request."""
    failure = Failure(fault.status, fault.message, fault.code, param=fault.param)
    return render_error(failure, context.request_id)
