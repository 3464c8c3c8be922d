"""OpenAI's SDK and agents read the rendered responses and send the requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from relayd.protocols.canon import (
    Begin,
    End,
    Event,
    Failure,
    Finish,
    ReasoningDelta,
    RefusalDelta,
    Request,
    TextDelta,
    ToolDelta,
    ToolResult,
    ToolStart,
    Usage,
)
from relayd.protocols.openai_responses.renderer import ResponsesRenderer
from tests.aids.responses_grammar import frames
from tests.unit.protocols.openai_responses.harness import make_context, read
from tests.unit.protocols.openai_responses.loopback import endpoint

openai = pytest.importorskip("openai")
pydantic = pytest.importorskip("pydantic")
pytestmark = [
    pytest.mark.client,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

WEATHER = {"type": "function", "name": "weather", "description": "of a place", "strict": True, "parameters": {
    "type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"], "additionalProperties": False,
}}  # fmt: skip


def answer_events(*pieces: str, reason: str = "stop") -> list[Event]:
    return [Begin(), *(TextDelta(piece) for piece in pieces), Finish(reason), Usage(11, 7, 3, 0, 2), End()]


def model(request: Request) -> list[Event]:
    """A scripted model: it calls the first tool, repeats a tool output, and obeys keywords in the prompt."""
    last = request.messages[-1]
    prompt = " ".join(part.text for message in request.messages for part in message.parts if hasattr(part, "text"))
    if isinstance(last.parts[0], ToolResult):
        text = "".join(part.text for part in last.parts[0].parts if hasattr(part, "text"))
        return answer_events("The tool said ", text)
    if request.tools:
        return [Begin(), ReasoningDelta("I need "), ReasoningDelta("a tool"), ToolStart(0, "call_1", request.tools[0].name),
                ToolDelta(0, '{"place":'), ToolDelta(0, '"Bonn"}'), Finish("tool_calls"), Usage(5, 5), End()]  # fmt: skip
    if request.format is not None and request.format.kind == "json_schema":
        return answer_events('{"name": "A', 'da", "age": 36}')
    if "REFUSE" in prompt:
        return [Begin(), RefusalDelta("I can"), RefusalDelta("not"), Finish("stop"), End()]
    if "LONG" in prompt:
        return answer_events("cut", reason="length")
    if "BUSY" in prompt:
        return [Failure(429, "Slow down.", "rate_limit", retry_after_s=0.01)]
    if "BREAK" in prompt:
        return [Begin(), TextDelta("half"), Failure(502, "The upstream's answer was cut.", "upstream_cut")]
    return answer_events("You said: ", str(len(request.messages)))


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with endpoint(model) as url:
        yield url


@pytest.fixture
def client(base_url: str) -> Iterator[Any]:
    with openai.OpenAI(base_url=base_url, api_key="k", max_retries=0) as made:
        yield made


RUNS: list[tuple[dict[str, Any], list[Event]]] = [
    ({}, answer_events("a", "b")),
    ({}, [Begin(), ReasoningDelta("x"), TextDelta("a"), RefusalDelta("no"), Finish("content_filter"), End()]),
    ({"tools": [WEATHER]}, [Begin(), ToolStart(0, "c", "weather"), ToolDelta(0, "{}"), Finish("tool_calls"), End()]),
    ({"tools": [{"type": "custom", "name": "p"}]}, [Begin(), ToolStart(0, "c", "p"), ToolDelta(0, '{"input": "raw"}'), End()]),
    ({"include": ["message.output_text.logprobs"]}, [Begin(), TextDelta("a", logprobs=({"token": "a", "logprob": -1},)), End()]),
    ({}, [Begin(), TextDelta("a"), Failure(502, "cut", "server_error")]),
]


@pytest.mark.parametrize(("members", "events"), RUNS)
def test_every_event_matches_the_declarations_of_the_sdk(members: dict[str, Any], events: list[Event]) -> None:
    adapter = pydantic.TypeAdapter(openai.types.responses.ResponseStreamEvent)
    context = make_context()
    stream = ResponsesRenderer(read(context, stream=True, **members), context).render(events)
    for event in frames(stream):
        adapter.validate_python(event)
        if "response" in event:
            openai.types.responses.Response.model_validate(event["response"])


def test_a_plain_answer(client: Any) -> None:
    answer = client.responses.create(model="m", input="hi")
    assert answer.output_text == "You said: 1" and answer.status == "completed"
    assert (answer.usage.input_tokens, answer.usage.output_tokens_details.reasoning_tokens) == (11, 2)


def test_a_stream_accumulates_to_the_same_response(client: Any) -> None:
    with client.responses.stream(model="m", input="hi") as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == final.output_text == "You said: 1"


def test_structured_output_is_parsed(client: Any) -> None:
    class Person(pydantic.BaseModel):  # type: ignore[name-defined,misc]
        name: str
        age: int

    person = Person(name="Ada", age=36)
    assert client.responses.parse(model="m", input="who?", text_format=Person).output_parsed == person
    with client.responses.stream(model="m", input="who?", text_format=Person) as stream:
        assert stream.get_final_response().output_parsed == person


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_loop_with_the_whole_history(client: Any, stream: bool) -> None:
    history: list[Any] = [{"role": "user", "content": "weather?"}]
    for _ in range(2):
        if stream:
            with client.responses.stream(model="m", input=history, tools=[WEATHER], store=False) as events:
                answer = events.get_final_response()
        else:
            answer = client.responses.create(model="m", input=history, tools=[WEATHER], store=False)
        calls = [item for item in answer.output if item.type == "function_call"]
        history += [item.to_dict() for item in answer.output]
        for call in calls:
            place = json.loads(call.arguments)["place"]
            history.append({"type": "function_call_output", "call_id": call.call_id, "output": f"rain in {place}"})
    assert answer.output_text == "The tool said rain in Bonn"


def test_a_chain_and_its_stored_responses(client: Any, base_url: str) -> None:
    first = client.responses.create(model="m", input="one")
    second = client.responses.create(model="m", input="two", previous_response_id=first.id)
    assert second.output_text == "You said: 3"
    assert client.responses.retrieve(second.id).output_text == second.output_text
    listed = [item.content[0].text for item in client.responses.input_items.list(second.id, order="asc", limit=2)]
    assert listed == ["one", "You said: 1", "two"]
    with openai.OpenAI(base_url=base_url, api_key="other", max_retries=0) as other:
        with pytest.raises(openai.NotFoundError):
            other.responses.retrieve(second.id)
        with pytest.raises(openai.BadRequestError) as refused:
            other.responses.create(model="m", input="x", previous_response_id=first.id)
        assert refused.value.code == "previous_response_not_found"
    with pytest.raises(openai.BadRequestError):
        client.responses.cancel(second.id)
    client.responses.delete(second.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(second.id)


def test_a_conversation_continues_from_a_compaction(client: Any) -> None:
    compacted = client.responses.compact(model="m", input=[{"role": "user", "content": "one"}])
    assert [item.type for item in compacted.output] == ["message", "compaction"]
    history = [item.to_dict(warnings=False) for item in compacted.output]  # its types do not know user messages
    assert client.responses.create(model="m", input=[*history, {"role": "user", "content": "x"}]).output_text == "You said: 3"


def test_failures_reach_the_client(client: Any, base_url: str) -> None:
    assert client.responses.create(model="m", input="REFUSE").output[0].content[0].refusal == "I cannot"
    cut = client.responses.create(model="m", input="LONG")
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    with pytest.raises(openai.RateLimitError) as limited:
        client.responses.create(model="m", input="BUSY")
    assert limited.value.response.headers["retry-after"] == "1"
    with pytest.raises(openai.InternalServerError):
        client.responses.create(model="m", input="BREAK")
    events = list(client.responses.create(model="m", input="BREAK", stream=True))
    assert events[-1].type == "response.failed" and "cut" in events[-1].response.error.message
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="m", input=[{"role": "user", "content": [{"type": "made_up"}]}])
    assert refused.value.param == "input[0].content[0].type"


def test_turns_over_a_websocket(client: Any) -> None:
    pytest.importorskip("websockets")
    with client.responses.connect() as connection:

        def turn(**members: Any) -> Any:
            connection.response.create(model="m", **members)
            for event in connection:
                if event.type in ("response.completed", "response.failed", "error"):
                    return event
            raise AssertionError("the connection ended")

        first = turn(input="one", store=False).response
        assert first.output[0].content[0].text == "You said: 1"
        second = turn(input="two", store=False, previous_response_id=first.id).response
        assert second.output[0].content[0].text == "You said: 3"
        lost = turn(input="x", previous_response_id=first.id)
        assert (lost.type, lost.error.code) == ("error", "previous_response_not_found")
        assert turn(input="clean").response.output[0].content[0].text == "You said: 1"


@pytest.mark.parametrize("streaming", [False, True])
def test_an_agent_uses_its_tool_and_replays_all_items(base_url: str, streaming: bool) -> None:
    agents = pytest.importorskip("agents")
    agents.set_tracing_disabled(True)

    def weather(place: str) -> str:
        """The weather of a place."""
        return f"sun in {place}"

    async def talk() -> Any:
        async with openai.AsyncOpenAI(base_url=base_url, api_key="k", max_retries=0) as client:
            chosen = agents.OpenAIResponsesModel(model="m", openai_client=client)
            agent = agents.Agent(name="a", instructions="help", model=chosen, tools=[agents.function_tool(weather)])
            if not streaming:
                return (await agents.Runner.run(agent, "weather?")).final_output
            run = agents.Runner.run_streamed(agent, "weather?")
            async for _ in run.stream_events():
                pass
            return run.final_output

    assert asyncio.run(talk()) == "The tool said sun in Bonn"
