"""The client side and the endpoint side of a Responses exchange, without sockets."""

from __future__ import annotations

import json
from typing import Any

from relayd.protocols.canon import Begin, End, Event, Failure, Finish, Request, TextDelta, Usage
from relayd.protocols.dialect import Refused, RequestContext
from relayd.protocols.openai_responses import DIALECT
from relayd.protocols.openai_responses.renderer import ResponsesRenderer
from tests.aids.memories import Kept
from tests.aids.responses_grammar import check_response, read_events, read_stream

KEY = b"a server's key of 32 bytes......"
HELLO: list[Event] = [Begin("x", "m"), TextDelta("Hel"), TextDelta("lo"), Finish("stop"), Usage(3, 2, 1, 0, 1), End()]


def make_context(
    path: str = "/v1/responses", method: str = "POST", memory: Any = None, socket: Any = None, query: str = ""
) -> RequestContext:
    return RequestContext(method, path, query, {}, "req_1", Kept() if memory is None else memory, socket, KEY)


def read(context: RequestContext | None = None, **members: Any) -> Request:
    assert DIALECT.read_request is not None
    if context is not None and context.socket is not None:
        members.setdefault("type", "response.create")
    body = {"model": "m", "input": "hi", **members}
    return DIALECT.read_request(json.dumps({k: v for k, v in body.items() if v is not ...}).encode(), context or make_context())


def refusal(context: RequestContext | None = None, **members: Any) -> Refused:
    try:
        read(context, **members)
    except Refused as refused:
        return refused
    raise AssertionError("the request was not refused")


def streamed(events: list[Event], context: RequestContext | None = None, **members: Any) -> dict[str, Any]:
    """Render a stream event by event and check its grammar; returns the final response."""
    context = context or make_context()
    renderer = ResponsesRenderer(read(context, stream=True, **members), context)
    return read_stream(b"".join(renderer.render([event]) for event in events))


def plain(events: list[Event], context: RequestContext | None = None, **members: Any) -> dict[str, Any]:
    """Render a plain answer and return its body."""
    context = context or make_context()
    renderer = ResponsesRenderer(read(context, **members), context)
    assert b"".join(renderer.render([event]) for event in events) == b""
    answer = renderer.response()
    body = json.loads(answer.body)
    if any(isinstance(event, Failure) for event in events):
        assert answer.status >= 400 and body["error"]["message"]
        return dict(body)
    assert answer.status == 200
    check_response(body)
    return dict(body)


def over_websocket(events: list[Event], context: RequestContext, **members: Any) -> dict[str, Any]:
    """Render a WebSocket turn and check its grammar; returns the final response."""
    renderer = ResponsesRenderer(read(context, **members), context)
    return read_events([json.loads(text) for event in events for text in renderer.messages([event])])
