"""What never goes upstream: the counting of tokens, which is an estimate, and the HEAD requests by which clients look
who is there.
"""

from __future__ import annotations

from typing import Any

from relayd.protocols import _json
from relayd.protocols._token_estimate import counting
from relayd.protocols.anthropic_messages.errors import render_error
from relayd.protocols.anthropic_messages.read_request import read_members
from relayd.protocols.canon import Failure
from relayd.protocols.dialect import EncodedResponse, Refused, RequestContext, at_once
from relayd.wire.json_steps import Steps

COUNT_PATH = "/messages/count_tokens"
_HEAD_PATHS = ("/messages", COUNT_PATH, "/v1", "/models")


def local(ask: RequestContext, body: bytes) -> EncodedResponse | None:
    """The answer to what is for relayd itself, else None."""
    path = ask.path.rstrip("/")
    if ask.method == "HEAD" and (not path or path.endswith(_HEAD_PATHS)):
        return EncodedResponse(200, b"")
    if ask.method != "POST" or not path.endswith(COUNT_PATH):
        return None
    try:
        return at_once(local_steps(_json.read_object(body), ask))
    except Refused as fault:
        return refused(fault, ask)


def local_steps(members: dict[str, Any], ask: RequestContext) -> Steps[EncodedResponse]:
    """The count of tokens of a parsed body, in steps."""
    try:
        request = yield from read_members(members, None)
    except Refused as fault:
        return refused(fault, ask)
    count = yield from counting(request)
    return EncodedResponse(200, _json.write({"input_tokens": count}))


def refused(fault: Refused, ask: RequestContext) -> EncodedResponse:
    """The error that says why nothing could be counted."""
    failure = Failure(fault.status, fault.message, fault.code, param=fault.param)
    return render_error(failure, ask.request_id)
