"""Real SDKs of other dialects before a Gemini endpoint that is as strict as Gemini 3, translated without a socket."""

from __future__ import annotations

import base64
import itertools
import json
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from relayd.protocols import anthropic_messages, openai_chat, openai_responses
from relayd.protocols.canon import Request
from relayd.protocols.dialect import Dialect, Memory, Options, Refused, RequestContext
from relayd.protocols.gemini import DIALECT as GEMINI
from tests.aids.sdk import http_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    openai = pytest.importorskip("openai")
    anthropic = pytest.importorskip("anthropic")
    httpx = http_of("openai")

pytestmark = [pytest.mark.client, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
LOOK = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CITIES = ("Köln", "Bern")


class Scripted:
    """A Gemini 3 that calls `look` twice, wants its signature back, calls once more, then answers."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.status = 200
        self.cut = False

    def reply(self, path: str, body: dict[str, Any]) -> tuple[int, list[dict[str, Any]]]:
        self.bodies.append(body)
        fault = self._fault(body)
        if fault:
            return 400, [{"error": {"code": 400, "message": fault, "status": "INVALID_ARGUMENT"}}]
        if self.status != 200:
            details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.2s"}]
            word = {"code": self.status, "message": "Quota.", "status": "RESOURCE_EXHAUSTED", "details": details}
            return self.status, [{"error": word}]
        answers = sum("functionResponse" in part for turn in body["contents"] for part in turn["parts"])
        if answers == 0 and "tools" in body:
            first = {"functionCall": {"name": "look", "args": {"city": CITIES[0]}, "id": "g1"}, "thoughtSignature": "c2lnMQ=="}
            second = {"functionCall": {"name": "look", "args": {"city": CITIES[1]}, "id": "g2"}}
            turns = [[{"text": "I should look. ", "thought": True}], [{"text": "Let me see."}], [first], [second]]
        elif answers == 2:
            turns = [[{"functionCall": {"name": "look", "args": {"city": "Rom"}, "id": "g3"}, "thoughtSignature": "c2lnMg=="}]]
        else:
            turns = [[{"text": "It rains "}], [{"text": "in Köln. 🌧"}]]
        frames: list[dict[str, Any]] = [
            {"candidates": [{"content": {"role": "model", "parts": parts}, "index": 0}], "modelVersion": "g3", "responseId": "r"}
            for parts in turns
        ]
        frames[-1]["candidates"][0]["finishReason"] = "STOP"
        frames[-1]["usageMetadata"] = {
            "promptTokenCount": 100, "candidatesTokenCount": 20, "thoughtsTokenCount": 5, "cachedContentTokenCount": 40,
        }  # fmt: skip
        return 200, frames[:-1] if self.cut else frames

    def _fault(self, body: dict[str, Any]) -> str:
        roles = [turn["role"] for turn in body["contents"]]
        if roles[0] != "user" or any(a == b for a, b in itertools.pairwise(roles)):
            return f"roles {roles}"
        issued = {"g1": "c2lnMQ==", "g2": None, "g3": "c2lnMg=="}
        for turn, following in zip(body["contents"], [*body["contents"][1:], {"parts": []}], strict=True):
            calls = [part for part in turn["parts"] if "functionCall" in part]
            answers = [part["functionResponse"]["id"] for part in following["parts"] if "functionResponse" in part]
            if calls and [one["functionCall"]["id"] for one in calls] != answers:
                return f"{len(calls)} calls, answers {answers}"
            for one in calls:
                if one.get("thoughtSignature") != issued[one["functionCall"]["id"]]:
                    return "Function call is missing a thought_signature"
            if any(not part for part in turn["parts"]) or any(part.get("text") == "" for part in turn["parts"]):
                return "empty part"
        return ""


class Between:
    """What the gateway does between a client's HTTP library and the endpoint, without one socket."""

    def __init__(self, front: Dialect, endpoint: Scripted, memory: Memory, http: Any = httpx) -> None:
        self.front, self.endpoint, self.memory, self.http = front, endpoint, memory, http

    def __call__(self, request: Any) -> Any:
        context = RequestContext(request.method, request.url.path, "", dict(request.headers), "req-1", self.memory)
        assert self.front.read_request and self.front.renderer and GEMINI.write_request and GEMINI.reader
        try:
            asked: Request = self.front.read_request(request.content, context)
            sending = GEMINI.write_request(asked, Options(), self.memory)
        except Refused as refused:
            raise AssertionError(refused.message) from None
        assert ("streamGenerateContent?alt=sse" in sending.path) == asked.stream
        status, frames = self.endpoint.reply(sending.path, json.loads(sending.body))
        renderer = self.front.renderer(asked, context)
        if status != 200:
            rendered = self.front.render_error(GEMINI.read_error(status, {}, json.dumps(frames[0]).encode()), "req-1")
            return self.http.Response(rendered.status, content=rendered.body, headers=[("Content-Type", rendered.content_type), *rendered.headers])
        reader = GEMINI.reader(asked, Options(), self.memory)
        if asked.stream:
            return self.http.Response(200, headers={"Content-Type": "text/event-stream"}, content=self._frames(reader, renderer, frames))
        whole = {key: value for frame in frames for key, value in frame.items()}
        whole["candidates"][0]["content"]["parts"] = [
            part for frame in frames for part in frame["candidates"][0]["content"]["parts"]
        ]
        assert renderer.render(reader.decode(json.dumps(whole).encode()) + reader.finish()) == b""
        rendered = renderer.response()
        return self.http.Response(rendered.status, content=rendered.body, headers={"Content-Type": rendered.content_type})

    @staticmethod
    def _frames(reader: Any, renderer: Any, frames: list[dict[str, Any]]) -> Iterator[bytes]:
        data = b"".join(b"data: " + json.dumps(frame).encode() + b"\r\n\r\n" for frame in frames)
        for position in range(0, len(data), 37):
            if out := renderer.render(reader.decode(data[position : position + 37])):
                yield out
        yield renderer.render(reader.finish())


@pytest.fixture
def gemini() -> Scripted:
    return Scripted()


def chat_client(gemini: Scripted, memory: Memory) -> Any:
    http = httpx.Client(transport=httpx.MockTransport(Between(openai_chat.DIALECT, gemini, memory)))
    return openai.OpenAI(base_url="http://relayd.test/v1", api_key="k", http_client=http, max_retries=0)


TOOLS = [{"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": LOOK}}]


def plain_history(message: Any) -> dict[str, Any]:
    """The message as most clients bring it back: without the fields that they do not know."""
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": call.function.arguments}}
        for call in message.tool_calls
    ]
    return {"role": "assistant", "content": message.content, "tool_calls": calls}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("whole_history", [False, True])
def test_a_chat_clients_tool_loop_over_two_turns_keeps_the_signatures(gemini: Scripted, memory: Any, stream: bool, whole_history: bool) -> None:
    client = chat_client(gemini, memory)
    history: list[Any] = [{"role": "system", "content": "Be kind"}, {"role": "user", "content": "Rain?"}]
    texts = []
    for _ in range(3):
        if stream:
            message, usage = self_assembled(client, history)
        else:
            completion = client.chat.completions.create(model="gemini-3-flash", messages=history, tools=TOOLS)
            message, usage = completion.choices[0].message, completion.usage
        assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (100, 25, 125)
        assert usage.prompt_tokens_details.cached_tokens == 40 and usage.completion_tokens_details.reasoning_tokens == 5
        texts.append(message.content)
        if not message.tool_calls:
            break
        history.append(message if whole_history else plain_history(message))
        # The answers in the other order: that is the client's right.
        for call in reversed(message.tool_calls):
            city = json.loads(call.function.arguments)["city"]
            history.append({"role": "tool", "tool_call_id": call.id, "content": f"Rain in {city}"})
    assert texts == ["Let me see.", None, "It rains in Köln. 🌧"] or texts == ["Let me see.", "", "It rains in Köln. 🌧"]
    last = gemini.bodies[-1]
    assert last["systemInstruction"] == {"parts": [{"text": "Be kind"}]}
    answers = [part["functionResponse"] for turn in last["contents"] for part in turn["parts"] if "functionResponse" in part]
    assert [one["response"]["result"] for one in answers] == ["Rain in Köln", "Rain in Bern", "Rain in Rom"]


def self_assembled(client: Any, history: list[Any]) -> tuple[Any, Any]:
    """The SDK's own assembling of a stream."""
    with client.chat.completions.stream(
        model="gemini-3-flash", messages=history, tools=TOOLS, stream_options={"include_usage": True}
    ) as stream:
        for _ in stream:
            pass
        completion = stream.get_final_completion()
    assert completion.choices[0].finish_reason in ("stop", "tool_calls")
    return completion.choices[0].message, completion.usage


def test_thoughts_reach_a_chat_client_as_reasoning_content(gemini: Scripted, memory: Any) -> None:
    client = chat_client(gemini, memory)
    chunks = list(client.chat.completions.create(
        model="gemini-3-flash", messages=[{"role": "user", "content": "Rain?"}], tools=TOOLS, stream=True, reasoning_effort="low",
    ))  # fmt: skip
    thoughts = "".join(getattr(one.choices[0].delta, "reasoning_content", None) or "" for one in chunks if one.choices)
    assert thoughts == "I should look. "
    assert gemini.bodies[0]["generationConfig"]["thinkingConfig"] == {"thinkingLevel": "LOW", "includeThoughts": True}
    assert {call.index for one in chunks if one.choices for call in one.choices[0].delta.tool_calls or ()} == {0, 1}


def test_images_settings_and_schema_of_a_chat_client_arrive(gemini: Scripted, memory: Any) -> None:
    picture = base64.b64encode(bytes(range(256))).decode()
    chat_client(gemini, memory).chat.completions.create(
        model="models/gemini-3-flash", temperature=0, max_completion_tokens=9, stop="x", seed=1,
        messages=[{"role": "user", "content": [
            {"type": "text", "text": "What is it?"},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
        ]}],
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": LOOK, "strict": True}},
    )  # fmt: skip
    body = gemini.bodies[0]
    assert body["contents"][0]["parts"][1] == {"inlineData": {"mimeType": "image/png", "data": picture}}
    assert body["generationConfig"] == {
        "temperature": 0, "maxOutputTokens": 9, "stopSequences": ["x"], "seed": 1,
        "responseMimeType": "application/json", "responseJsonSchema": LOOK,
    }  # fmt: skip


def test_errors_and_cut_streams_are_errors_to_a_chat_client(gemini: Scripted, memory: Any) -> None:
    client = chat_client(gemini, memory)
    question: list[Any] = [{"role": "user", "content": "Hi"}]
    gemini.status = 429
    with pytest.raises(openai.RateLimitError) as limited:
        client.chat.completions.create(model="gemini-3-flash", messages=question)
    assert limited.value.response.headers["Retry-After"] == "1" and "Quota." in limited.value.message
    gemini.status, gemini.cut = 200, True
    with pytest.raises(openai.APIError, match="ended before"):
        list(client.chat.completions.create(model="gemini-3-flash", messages=question, stream=True))


@pytest.mark.parametrize("stream", [False, True])
def test_a_messages_clients_tool_loop_keeps_the_signatures(gemini: Scripted, memory: Any, stream: bool) -> None:
    # Newer releases of this SDK have another HTTP library of the same form.
    library = http_of("anthropic")
    between = Between(anthropic_messages.DIALECT, gemini, memory, library)
    http = library.Client(transport=library.MockTransport(between))
    client = anthropic.Anthropic(base_url="http://relayd.test", api_key="k", http_client=http, max_retries=0)
    tools = [{"name": "look", "description": "Looks.", "input_schema": LOOK}]
    history: list[Any] = [{"role": "user", "content": "Rain?"}]
    for _ in range(3):
        members = {"model": "gemini-3-flash", "max_tokens": 99, "system": "Be kind", "tools": tools, "messages": history}
        if stream:
            with client.messages.stream(**members) as events:
                message = events.get_final_message()
        else:
            message = client.messages.create(**members)
        history.append({"role": "assistant", "content": message.content})
        calls = [block for block in message.content if block.type == "tool_use"]
        assert message.stop_reason == ("tool_use" if calls else "end_turn")
        if not calls:
            break
        results = [{"type": "tool_result", "tool_use_id": call.id, "content": f"Rain in {call.input['city']}"} for call in calls]
        history.append({"role": "user", "content": results})
    assert [block.text for block in message.content] == ["It rains in Köln. 🌧"] and len(gemini.bodies) == 3


@pytest.mark.parametrize("stream", [False, True])
def test_a_responses_clients_tool_loop_keeps_the_signatures(gemini: Scripted, memory: Any, stream: bool) -> None:
    http = httpx.Client(transport=httpx.MockTransport(Between(openai_responses.DIALECT, gemini, memory)))
    client = openai.OpenAI(base_url="http://relayd.test/v1", api_key="k", http_client=http, max_retries=0)
    tools = [{"type": "function", "name": "look", "description": "Looks.", "parameters": LOOK, "strict": False}]
    items: list[Any] = [{"role": "user", "content": "Rain?"}]
    for _ in range(3):
        if stream:
            with client.responses.stream(model="gemini-3-flash", input=items, tools=tools, store=False) as events:
                for _event in events:
                    pass
                response = events.get_final_response()
        else:
            response = client.responses.create(model="gemini-3-flash", input=items, tools=tools, store=False)
        assert response.status == "completed"
        calls = [item for item in response.output if item.type == "function_call"]
        if not calls:
            break
        items += [item.model_dump(exclude_none=True) for item in response.output]
        for call in calls:
            output = f"Rain in {json.loads(call.arguments)['city']}"
            items.append({"type": "function_call_output", "call_id": call.call_id, "output": output})
    assert response.output_text == "It rains in Köln. 🌧" and len(gemini.bodies) == 3
    assert response.usage.output_tokens_details.reasoning_tokens == 5
