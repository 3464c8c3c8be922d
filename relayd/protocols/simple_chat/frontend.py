"""The client's half of the plain chat front: requests are a subset of Chat Completions, responses come in one piece.

The body has model, messages, temperature, max_tokens, and the other settings of one text response. `stream` is accepted
and answered in one piece; tools and several choices are Refused. `backend` in the response is the name of the upstream
that answered, or the route's name for it. A request without a limit gets the limit of earlier gateways with this API: a
long response from Gemini's models, a short one from local models.
"""

from __future__ import annotations

import dataclasses
import secrets
from typing import Any

from relayd import clock
from relayd.protocols import _json, _openai_errors
from relayd.protocols._bounds import Allowance, ResponseTooLarge, TextBuffer
from relayd.protocols.canon import Begin, End, Event, Failure, Finish, RefusalDelta, Request, TextDelta
from relayd.protocols.dialect import EncodedResponse, Refused, Renderer, RequestContext, run_steps
from relayd.protocols.openai_chat.read_request import read_steps as read_chat_steps
from relayd.wire.json_steps import Steps

LONG_ANSWERS = ("gemini", "models/gemini")  # prefixes of models with long responses
LONG_MAX_TOKENS, SHORT_MAX_TOKENS = 2048, 150


def read_request(body: bytes, context: RequestContext) -> Request:
    """See dialect.Dialect."""
    return run_steps(read_steps(_json.read_object(body), context))


def read_steps(members: dict[str, Any], context: RequestContext) -> Steps[Request]:
    """See dialect.Dialect."""
    request = yield from read_chat_steps(members, context)
    if request.tools:
        raise Refused("This API does not support tools.", "tools", "unsupported_value")
    if request.n is not None and request.n > 1:
        raise Refused("This API returns one choice.", "n", "unsupported_value")
    max_tokens = request.max_tokens
    if max_tokens is None:
        max_tokens = LONG_MAX_TOKENS if request.model.lower().startswith(LONG_ANSWERS) else SHORT_MAX_TOKENS
    return dataclasses.replace(
        request,
        max_tokens=max_tokens,
        stream=False,
        include_usage=False,
        tool_choice=None,
        parallel_tool_calls=None,
        n=None,
        logprobs=None,
        top_logprobs=None,
        extra={},
    )


def renderer(request: Request, context: RequestContext) -> Renderer:
    """See dialect.Dialect."""
    return SimpleRenderer(request, context)


class SimpleRenderer(Renderer):
    """Collects one response; owned by the exchange."""

    __slots__ = (
        "_allowance", "_backend", "_begin", "_failure", "_finish", "_is_ended", "_model", "_request_id", "_texts",
    )  # fmt: skip

    def __init__(self, request: Request, context: RequestContext) -> None:
        self._model, self._request_id = request.model, context.request_id
        self._backend = ""
        self._texts, self._allowance = TextBuffer(), Allowance()
        self._begin = Begin()
        self._finish = "stop"
        self._failure: Failure | None = None
        self._is_ended = False

    def set_upstream_name(self, name: str) -> None:
        """See dialect.Renderer."""
        self._backend = name

    def render(self, events: list[Event]) -> bytes:
        """Collect the events; no bytes before the end."""
        for event in events:
            if self._is_ended:
                break
            if isinstance(event, TextDelta | RefusalDelta):
                if event.choice == 0:
                    try:
                        self._allowance.charge(len(event.text))
                    except ResponseTooLarge as fault:
                        self._is_ended, self._failure = True, Failure(502, str(fault))
                        break
                    self._texts.add(event.text)
            elif isinstance(event, Begin):
                self._begin = event
            elif isinstance(event, Finish):
                if event.choice == 0 and event.reason != "tool_calls":  # this API has no tools
                    self._finish = event.reason
            elif isinstance(event, End | Failure):
                self._is_ended = True
                self._failure = event if isinstance(event, Failure) else None
        return b""

    def keepalive(self) -> bytes:
        """A plain response has no keep-alive."""
        return b""

    def response_steps(self) -> Steps[EncodedResponse]:
        """The plain response."""
        if not self._is_ended:
            self._failure = Failure(502, "The upstream's answer is not complete.")
        if self._failure is not None:
            return _openai_errors.render_error(self._failure, self._request_id)
        message = {"role": "assistant", "content": self._texts.text()}
        body = {
            "id": f"chat-{secrets.token_hex(12)}",
            "object": "chat.completion",
            "created": self._begin.created or int(clock.wall()),
            "model": self._model,
            "backend": self._backend,
            "choices": [{"index": 0, "message": message, "finish_reason": self._finish}],
        }
        return EncodedResponse(200, (yield from _json.write_sized_steps(body, self._allowance.charged)))
