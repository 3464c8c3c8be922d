"""A Responses endpoint at the back-end's side, spoken by the dialect's own halves, with what OpenAI refuses refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from relayd.protocols.canon import (
    Begin,
    End,
    Event,
    Failure,
    Finish,
    ReasoningDelta,
    Text,
    TextDelta,
    ToolDelta,
    ToolResult,
    ToolStart,
    Usage,
)
from relayd.protocols.dialect import Refused, RequestContext
from relayd.protocols.openai_responses import DIALECT
from relayd.stores.memory import Store
from tests.functional.harness.dialects.backend import Refusal
from tests.functional.harness.dialects.said import Asked, Say

KNOWN = {
    "model", "input", "instructions", "stream", "store", "tools", "tool_choice", "parallel_tool_calls", "max_output_tokens",
    "temperature", "top_p", "reasoning", "include", "text", "metadata", "user", "service_tier", "prompt_cache_key",
    "safety_identifier", "top_logprobs", "previous_response_id", "truncation",
}  # fmt: skip


class Responses:
    name, base, stream_type, end = "openai_responses", "/v1", "text/event-stream", b""
    key_field = ("Authorization", "Bearer ")

    def __init__(self, strict: bool = True) -> None:
        self.strict = strict
        self.store = Store(1000, 1 << 24, 60)

    def read(self, target: str, headers: dict[str, str], body: dict[str, Any]) -> Asked:
        if target != "/v1/responses":
            raise Refusal(f"no {target} here")
        for name in body.keys() - KNOWN if self.strict else ():
            raise Refusal(f"Unknown parameter: '{name}'")
        assert DIALECT.read_request is not None
        try:
            request = DIALECT.read_request(json.dumps(body).encode(), self.ask())
        except Refused as refused:
            raise Refusal(refused.message) from None
        said, results, system = [], [], []
        for message in request.messages:
            text = "".join(part.text for part in message.parts if isinstance(part, Text))
            if message.role in ("system", "developer"):
                system.append(text)
            elif message.role == "tool":
                results += [
                    (part.call_id, "".join(one.text for one in part.parts if isinstance(one, Text)))
                    for part in message.parts if isinstance(part, ToolResult)
                ]  # fmt: skip
            else:
                results = []
                said.append((message.role, text))
        tools = tuple(tool.name for tool in request.tools)
        return Asked(request.model, request.stream, "\n".join(system), tuple(said), tuple(results), tools, body, headers)

    def ask(self) -> RequestContext:
        return RequestContext("POST", "/v1/responses", "", {}, "req_1", self.store.space("there"))

    def events(self, say: Say) -> Iterator[Event]:
        yield Begin()
        if say.thought:
            yield ReasoningDelta(say.thought)
        yield from (TextDelta(piece) for piece in say.pieces)
        for number, call in enumerate(say.calls):
            yield ToolStart(number, call.id, call.name)
            yield ToolDelta(number, call.arguments)
        read, written, cached = say.usage
        yield Usage(read, written, cached)
        yield Finish(say.reason)
        yield End()

    def renderer(self, asked: Asked) -> Any:
        assert DIALECT.read_request is not None and DIALECT.renderer is not None
        ask = self.ask()
        return DIALECT.renderer(DIALECT.read_request(json.dumps(asked.body).encode(), ask), ask)

    def frames(self, asked: Asked, say: Say) -> Iterator[bytes]:
        renderer = self.renderer(asked)
        for event in self.events(say):
            if data := renderer.render([event]):
                yield data

    def plain(self, asked: Asked, say: Say) -> dict[str, Any]:
        renderer = self.renderer(asked)
        renderer.render(list(self.events(say)))
        told: dict[str, Any] = json.loads(renderer.response().body)
        return told

    def error(self, status: int, message: str, code: str) -> dict[str, Any]:
        return {"error": {"message": message, "type": "scripted_error", "param": None, "code": code or None}}

    def error_frame(self, message: str) -> bytes:
        renderer = self.renderer(Asked("m", True, "", (), (), (), {"model": "m", "input": "x", "stream": True}, {}))
        told: bytes = renderer.render([Failure(500, message, "flux")])
        return b"event: response.failed" + told.partition(b"event: response.failed")[2]
