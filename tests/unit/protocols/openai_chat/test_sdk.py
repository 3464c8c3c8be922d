"""The openai SDK reads what the renderer writes, and what it sends is read: over loopback, with scripted events."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from relayd.protocols.canon import (
    Begin,
    End,
    Event,
    Failure,
    Finish,
    Reasoning,
    ReasoningDelta,
    RefusalDelta,
    Request,
    TextDelta,
    ToolCall,
    ToolDelta,
    ToolResult,
    ToolStart,
    Usage,
)
from relayd.protocols.dialect import Options, Refused
from relayd.protocols.openai_chat import DIALECT
from tests.aids.memories import Kept
from tests.unit.protocols.openai_chat.asked import an_ask
from tests.unit.protocols.openai_chat.strict import offences

openai = pytest.importorskip("openai")
pytestmark = pytest.mark.client

USER = [{"role": "user", "content": "What is the weather in Oslo and Rome?"}]
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "d", "strict": True,
                 "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
                                "additionalProperties": False}},
}  # fmt: skip
BEGIN = Begin("chatcmpl-7", "m-7", 1_800_000_000)
TEXT: list[Event] = [BEGIN, ReasoningDelta("hm"), TextDelta("Grüß "), TextDelta("Gott ☃"), Finish("stop"), Usage(9, 4, 5, 0, 1), End()]
CALLS: list[Event] = [
    BEGIN, ToolStart(0, "a", "weather"), ToolDelta(0, '{"city":'), ToolStart(1, "b", "weather"), ToolDelta(1, '{"city":"Rome"}'),
    ToolDelta(0, '"Oslo"}'), Finish("tool_calls"), Usage(9, 4), End(),
]  # fmt: skip


class Gateway:
    """A server that reads with this dialect, checks what a strict endpoint would get, and renders scripted events."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.answer: Callable[[Request], list[Event]] = lambda request: TEXT
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                gateway.handle(self)

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        self.client = openai.OpenAI(
            base_url=f"http://127.0.0.1:{self.server.server_port}/v1", api_key="k", max_retries=0, timeout=60
        )

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        assert DIALECT.read_request and DIALECT.renderer and DIALECT.write_request and handler.path.endswith(DIALECT.paths)
        body = handler.rfile.read(int(handler.headers["content-length"]))
        context = an_ask()
        try:
            request = DIALECT.read_request(body, context)
            sent = DIALECT.write_request(request, Options(), Kept()).body
            assert offences(sent) == [], sent
        except Refused as refused:
            rendered = DIALECT.render_error(Failure(refused.status, refused.message, refused.code, "", refused.param), "r-1")
            self.reply(handler, rendered.status, rendered.content_type, [rendered.body], rendered.headers)
            return
        self.requests.append(request)
        events = self.answer(request)
        if isinstance(events[0], Failure):
            rendered = DIALECT.render_error(events[0], "r-1")
            self.reply(handler, rendered.status, rendered.content_type, [rendered.body], rendered.headers)
            return
        renderer = DIALECT.renderer(request, context)
        if request.stream:
            frames = [renderer.keepalive(), *(renderer.render([event]) for event in events)]
            self.reply(handler, 200, "text/event-stream", frames)
        else:
            renderer.render(events)
            rendered = renderer.response()
            self.reply(handler, rendered.status, rendered.content_type, [rendered.body], rendered.headers)

    @staticmethod
    def reply(
        handler: BaseHTTPRequestHandler, status: int, kind: str, pieces: list[bytes], headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        handler.send_response(status)
        for name, value in (("Content-Type", kind), ("Connection", "close"), *headers):
            handler.send_header(name, value)
        handler.end_headers()
        for piece in pieces:
            handler.wfile.write(piece)

    def close(self) -> None:
        self.client.close()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    one = Gateway()
    yield one
    one.close()


def test_a_plain_answer(gateway: Gateway) -> None:
    answer = gateway.client.chat.completions.create(model="m", messages=USER)
    assert answer.choices[0].message.content == "Grüß Gott ☃" and answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.reasoning_content == "hm"
    assert (answer.id, answer.model, answer.created) == ("chatcmpl-7", "m-7", 1_800_000_000)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (9, 13)
    assert answer.usage.prompt_tokens_details.cached_tokens == 5
    assert answer.usage.completion_tokens_details.reasoning_tokens == 1


def test_a_stream(gateway: Gateway) -> None:
    for options in ({}, {"stream_options": {"include_usage": True}}):
        chunks = list(gateway.client.chat.completions.create(model="m", messages=USER, stream=True, **options))
        text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
        assert text == "Grüß Gott ☃" and {chunk.id for chunk in chunks} == {"chatcmpl-7"}
        assert chunks[0].choices[0].delta.role == "assistant"
        assert [chunk.usage.total_tokens for chunk in chunks if chunk.usage] == ([13] if options else [])


def test_the_stream_helper_assembles_the_plain_response(gateway: Gateway) -> None:
    for events in (TEXT, CALLS):
        gateway.answer = lambda request, events=events: events  # type: ignore[misc]
        asked: dict[str, Any] = {"model": "m", "messages": USER, "tools": [WEATHER]}
        with gateway.client.chat.completions.stream(**asked, stream_options={"include_usage": True}) as stream:
            streamed = stream.get_final_completion()
        plain = gateway.client.chat.completions.create(**asked)
        for one in (streamed, plain):
            assert one.choices[0].finish_reason == events[-3].reason  # type: ignore[union-attr]
        assert (streamed.choices[0].message.content or "") == (plain.choices[0].message.content or "")
        assert streamed.usage == plain.usage
        calls = [
            [(call.id, call.function.name, call.function.arguments) for call in one.choices[0].message.tool_calls or ()]
            for one in (streamed, plain)
        ]
        assert calls[0] == calls[1] and len(calls[0]) == (2 if events is CALLS else 0)


def test_a_tool_loop(gateway: Gateway) -> None:
    gateway.answer = lambda request: TEXT if any(message.role == "tool" for message in request.messages) else CALLS
    messages: list[Any] = list(USER)
    answer = gateway.client.chat.completions.create(model="m", messages=messages, tools=[WEATHER], tool_choice="required")
    calls = answer.choices[0].message.tool_calls
    assert [json.loads(call.function.arguments)["city"] for call in calls] == ["Oslo", "Rome"]
    messages.append(answer.choices[0].message)
    messages += [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in calls]
    answer = gateway.client.chat.completions.create(model="m", messages=messages, tools=[WEATHER])
    assert answer.choices[0].message.content == "Grüß Gott ☃"
    parts = [part for message in gateway.requests[1].messages for part in message.parts]
    assert [part.name for part in parts if isinstance(part, ToolCall)] == ["weather", "weather"]
    assert [part.call_id for part in parts if isinstance(part, ToolResult)] == ["a", "b"]


def test_a_custom_tool_and_the_thought_behind_it(gateway: Gateway) -> None:
    gateway.answer = lambda request: [BEGIN, ReasoningDelta("hm"), ToolStart(0, "a", "patch"), ToolDelta(0, '{"input":"raw"}'),
                                      Finish("tool_calls"), End()]  # fmt: skip
    tools = [{"type": "custom", "custom": {"name": "patch", "description": "d"}}]
    answer = gateway.client.chat.completions.create(model="m", messages=USER, tools=tools)
    [call] = answer.choices[0].message.tool_calls
    assert (call.type, call.custom.name, call.custom.input) == ("custom", "patch", "raw")
    history = [*USER, answer.choices[0].message, {"role": "tool", "tool_call_id": "a", "content": "ok"}]
    gateway.client.chat.completions.create(model="m", messages=history, tools=tools)
    assert gateway.requests[1].messages[1].parts == (Reasoning("hm"), ToolCall("a", "patch", "raw", "custom"))


def test_two_choices(gateway: Gateway) -> None:
    gateway.answer = lambda request: [
        BEGIN, TextDelta("a", 0), TextDelta("b", 1), TextDelta("A", 0), Finish("stop", 0), Finish("length", 1), End(),
    ]  # fmt: skip
    plain = gateway.client.chat.completions.create(model="m", messages=USER, n=2)
    found = [(choice.index, choice.message.content, choice.finish_reason) for choice in plain.choices]
    assert found == [(0, "aA", "stop"), (1, "b", "length")]
    gateway.answer = lambda request: [BEGIN, TextDelta("a", 0), TextDelta("b", 1), TextDelta("A", 0), Finish("stop", 1),
                                      Finish("stop", 0), End()]  # fmt: skip
    with gateway.client.chat.completions.stream(model="m", messages=USER, n=2) as stream:
        streamed = stream.get_final_completion()
    assert [(choice.index, choice.message.content) for choice in streamed.choices] == [(0, "aA"), (1, "b")]


def test_structured_output_is_parsed(gateway: Gateway) -> None:
    pydantic = pytest.importorskip("pydantic")
    position = pydantic.create_model("Place", name=(str, ...), people=(int, ...))
    gateway.answer = lambda request: [BEGIN, TextDelta('{"name":"Oslo",'), TextDelta('"people":7}'), Finish("stop"), End()]
    parsed = gateway.client.chat.completions.parse(model="m", messages=USER, response_format=position)
    assert (parsed.choices[0].message.parsed.name, parsed.choices[0].message.parsed.people) == ("Oslo", 7)
    with gateway.client.chat.completions.stream(model="m", messages=USER, response_format=position) as stream:
        assert stream.get_final_completion().choices[0].message.parsed.people == 7
    form = gateway.requests[0].format
    assert form is not None and (form.kind, form.name, form.strict) == ("json_schema", "Place", True)
    gateway.answer = lambda request: [BEGIN, RefusalDelta("no"), Finish("content_filter"), End()]
    assert gateway.client.chat.completions.create(model="m", messages=USER).choices[0].message.refusal == "no"


def test_a_failure_in_the_middle_is_an_error_of_the_sdk(gateway: Gateway) -> None:
    gateway.answer = lambda request: [BEGIN, TextDelta("x"), Failure(500, "it broke", "boom")]
    stream = gateway.client.chat.completions.create(model="m", messages=USER, stream=True)
    with pytest.raises(openai.APIError, match="it broke") as caught:
        list(stream)
    assert caught.value.code == "boom"
    with pytest.raises(openai.InternalServerError, match="it broke"):
        gateway.client.chat.completions.create(model="m", messages=USER)


REFUSED: list[Event] = [Failure(429, "slow down", retry_after_s=0.01)]


def test_errors_keep_status_code_and_wait(gateway: Gateway) -> None:
    gateway.answer = lambda request: [Failure(429, "slow down", "rate_limit_exceeded", "requests", retry_after_s=0.01)]
    with pytest.raises(openai.RateLimitError) as caught:
        gateway.client.chat.completions.create(model="m", messages=USER)
    assert (caught.value.code, caught.value.type, caught.value.response.headers["retry-after-ms"]) == ("rate_limit_exceeded", "requests", "10")
    answers = iter([REFUSED, TEXT])
    gateway.answer = lambda request: next(answers)
    retried = gateway.client.with_options(max_retries=1).chat.completions.create(model="m", messages=USER)
    assert retried.choices[0].message.content == "Grüß Gott ☃"


def test_an_invalid_request_names_its_field(gateway: Gateway) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        gateway.client.chat.completions.create(model="m", messages=USER, temperature="hot")
    assert caught.value.param == "temperature"
