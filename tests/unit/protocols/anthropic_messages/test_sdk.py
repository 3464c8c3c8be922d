"""The Anthropic SDK reads what the renderer writes, and its requests are read: over a loopback socket."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from relayd.protocols.canon import (
    Begin,
    End,
    Event,
    Failure,
    Finish,
    Image,
    ReasoningDelta,
    Request,
    Text,
    TextDelta,
    ToolDelta,
    ToolResult,
    ToolStart,
    Usage,
)
from tests.clients.messages_server import MessagesServer

anthropic = pytest.importorskip("anthropic", reason="the SDK is not installed")
pydantic = pytest.importorskip("pydantic", reason="the SDK is not installed")

THOUGHT: list[Event] = [Begin(), ReasoningDelta("Let me "), ReasoningDelta("see."), ReasoningDelta(signature="EqQB")]
ANSWER: list[Event] = [*THOUGHT, TextDelta("Grüße"), TextDelta(" 😀"), Usage(30, 12, cached_read=20), Finish("stop"), End()]
CALLS: list[Event] = [
    Begin(),
    TextDelta("I look."),
    ToolStart(0, "call_a", "weather"),
    ToolStart(1, "call_b", "weather"),
    ToolDelta(0, '{"city": '),
    ToolDelta(1, '{"city": "Ro'),
    ToolDelta(0, '"Paris"}'),
    ToolDelta(1, 'me"}'),
    Usage(9, 4),
    Finish("stop"),
    End(),
]
TOOLS: Any = [{"name": "weather", "description": "Now.", "input_schema": {"type": "object", "properties": {}}}]
ASK: Any = {"model": "m", "max_tokens": 4000, "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
def served() -> Iterator[tuple[MessagesServer, Any]]:
    with MessagesServer(lambda request: ANSWER) as server:
        with anthropic.Anthropic(base_url=server.url, api_key="k", max_retries=0) as client:
            yield server, client


def test_a_plain_message(served: tuple[MessagesServer, Any]) -> None:
    _, client = served
    message = client.messages.create(**ASK)
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.content[0].signature == "EqQB" and message.content[1].text == "Grüße 😀"
    assert (message.stop_reason, message.usage.input_tokens, message.usage.cache_read_input_tokens) == ("end_turn", 10, 20)
    assert message._request_id


def test_the_accumulated_stream_is_the_plain_message(served: tuple[MessagesServer, Any]) -> None:
    _, client = served
    with client.messages.stream(**ASK, thinking={"type": "enabled", "budget_tokens": 2000}) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_message()
    assert {"thinking", "signature", "text", "content_block_stop", "message_stop"} <= set(kinds)
    whole = client.messages.create(**ASK)
    dumped = streamed.model_dump(exclude={"id"}, exclude_none=True)
    for block in dumped["content"]:
        block.pop("parsed_output", None)
    assert dumped == whole.model_dump(exclude={"id"}, exclude_none=True)
    assert streamed.stop_reason == "end_turn" and streamed.usage.output_tokens == 12


def test_raw_events_come_in_the_types_of_the_sdk(served: tuple[MessagesServer, Any]) -> None:
    _, client = served
    with client.messages.create(**ASK, stream=True) as stream:
        events = list(stream)
    assert all(isinstance(event, anthropic.BaseModel) for event in events)
    assert [event.type for event in events if event.type.startswith("message")] == [
        "message_start", "message_delta", "message_stop"]  # fmt: skip


def test_a_tool_loop_with_calls_whose_fragments_came_in_turns(served: tuple[MessagesServer, Any]) -> None:
    server, client = served
    server.script = lambda request: ANSWER if any(m.role == "tool" for m in request.messages) else CALLS
    with client.messages.stream(**ASK, tools=TOOLS) as stream:
        message = stream.get_final_message()
    assert message.stop_reason == "tool_use"
    calls = [block for block in message.content if block.type == "tool_use"]
    assert [(call.id, call.input) for call in calls] == [("call_a", {"city": "Paris"}), ("call_b", {"city": "Rome"})]
    results = [{"type": "tool_result", "tool_use_id": call.id, "content": "rain"} for call in calls]
    turns = [
        *ASK["messages"],
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [*results, {"type": "text", "text": "So?"}]},
    ]
    final = client.messages.create(**(ASK | {"messages": turns}), tools=TOOLS)
    assert final.content[-1].text == "Grüße 😀"
    roles = [m.role for m in server.requests[-1].messages]
    assert roles == ["user", "assistant", "tool", "user"]
    assert server.requests[-1].messages[2].parts[1] == ToolResult("call_b", (Text("rain"),))


def test_the_sdks_tool_runner_completes_its_loop(served: tuple[MessagesServer, Any]) -> None:
    server, client = served
    server.script = lambda request: ANSWER if any(m.role == "tool" for m in request.messages) else CALLS
    asked = []

    def weather(city: str) -> str:
        """The weather now.

        Args:
            city: Where.
        """
        asked.append(city)
        return f"rain in {city}"

    final = client.beta.messages.tool_runner(**ASK, tools=[anthropic.beta_tool(weather)]).until_done()
    assert asked == ["Paris", "Rome"]
    assert final.content[-1].text == "Grüße 😀"


def test_structured_output(served: tuple[MessagesServer, Any]) -> None:
    server, client = served

    class City(pydantic.BaseModel):  # type: ignore[misc, name-defined]
        name: str

    server.script = lambda request: [Begin(), TextDelta('{"name": '), TextDelta('"Rome"}'), Finish("stop"), End()]
    message = client.messages.parse(**ASK, output_format=City)
    assert message.parsed_output == City(name="Rome")
    found = server.requests[-1].format
    assert found is not None and found.kind == "json_schema" and found.schema and "name" in found.schema["properties"]


def test_images_arrive(served: tuple[MessagesServer, Any]) -> None:
    server, client = served
    source = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    client.messages.create(**(ASK | {"messages": [{"role": "user", "content": [{"type": "image", "source": source}]}]}))
    assert server.requests[-1].messages[0].parts == (Image("data:image/png;base64,AAAA"),)


def test_tokens_are_counted(served: tuple[MessagesServer, Any]) -> None:
    _, client = served
    counted = client.messages.count_tokens(model="m", messages=ASK["messages"], tools=TOOLS)
    assert counted.input_tokens > 5


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, "BadRequestError"), (401, "AuthenticationError"), (404, "NotFoundError"), (429, "RateLimitError"),
     (500, "InternalServerError"), (503, "InternalServerError"), (529, "InternalServerError")],
)  # fmt: skip
def test_an_error_is_the_exception_of_its_status(served: tuple[MessagesServer, Any], status: int, error: str) -> None:
    server, client = served
    server.script = lambda request: [Failure(status, "Not now.", retry_after_s=2)]
    with pytest.raises(anthropic.APIStatusError, match="Not now") as raised:
        client.messages.create(**ASK)
    assert isinstance(raised.value, getattr(anthropic, error)) and raised.value.status_code == status
    assert raised.value.response.headers["retry-after"] == "2"
    assert raised.value.request_id


def test_an_error_in_the_middle_of_a_stream_is_raised(served: tuple[MessagesServer, Any]) -> None:
    server, client = served
    server.script = lambda request: [*THOUGHT, TextDelta("half"), Failure(502, "The upstream's answer was cut.")]
    with pytest.raises(anthropic.APIStatusError, match="was cut"):
        with client.messages.stream(**ASK) as stream:
            stream.until_done()


def test_a_wrong_request_is_a_bad_request(served: tuple[MessagesServer, Any]) -> None:
    _, client = served
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        client.messages.create(**(ASK | {"max_tokens": 0}))


def test_the_retry_that_the_sdk_makes_succeeds() -> None:
    answers: list[list[Event]] = [[Failure(529, "busy", retry_after_s=0.01)], ANSWER]

    def script(request: Request) -> list[Event]:
        return answers.pop(0)

    with MessagesServer(script) as server:
        with anthropic.Anthropic(base_url=server.url, api_key="k", max_retries=1) as client:
            assert client.messages.create(**ASK).content[-1].text == "Grüße 😀"
    assert len(server.requests) == 2
