"""The OpenAI SDK, and the chat gateway's own fronts, before a scripted Ollama, translated without a socket."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from relayd.protocols import dialogflow, openai_chat, simple_chat
from relayd.protocols.dialect import Dialect, Options, RequestContext
from relayd.protocols.ollama import DIALECT as OLLAMA
from tests.aids.memories import Kept
from tests.aids.sdk import http_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    openai = pytest.importorskip("openai")
    httpx = http_of("openai")

pytestmark = [pytest.mark.client, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
LOOK = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": LOOK}}]
PNG = "data:image/png;base64,QUJD"


class Scripted:
    """An Ollama that looks once, twice at a time, and then answers."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.broken = ""

    def lines(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        self.bodies.append(body)
        answered = [message for message in body["messages"] if message["role"] == "tool"]
        if "tools" in body and not answered:
            calls = [{"function": {"name": "look", "arguments": {"city": city}}} for city in ("Köln", "Bern")]
            received: list[dict[str, Any]] = [{"thinking": "Hm."}, {"content": "Let me see."}, {"tool_calls": calls}]
        else:
            received = [{"content": "It "}, {"content": "rains."}]
        lines = [{"model": "m", "message": {"role": "assistant", "content": ""} | one, "done": False} for one in received]
        if self.broken:
            return [*lines[:-1], {"error": self.broken}]
        last = {"model": "m", "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"}
        return [*lines, last | {"prompt_eval_count": 10, "eval_count": 4}]


def whole(lines: list[dict[str, Any]]) -> bytes:
    """What Ollama answers to `stream: false`."""
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    for line in lines:
        for key, value in line.get("message", {}).items():
            if key == "tool_calls":
                message[key] = value
            elif key != "role":
                message[key] = message.get(key, "") + value
    return json.dumps(lines[-1] | {"message": message}).encode()


def exchanged(front: Dialect, ollama: Scripted, body: bytes, memory: Kept) -> tuple[int, str, list[bytes]]:
    context = RequestContext("POST", front.paths[0], "", {}, "req-1", memory)
    assert front.read_request and front.renderer and OLLAMA.write_request and OLLAMA.reader
    request = front.read_request(body, context)
    lines = ollama.lines(json.loads(OLLAMA.write_request(request, Options(), memory).body))
    reader, renderer = OLLAMA.reader(request, Options(), memory), front.renderer(request, context)
    renderer.set_upstream_name("ollama")
    if not request.stream:
        renderer.render(reader.decode(whole(lines)) + reader.finish())
        rendered = renderer.response()
        return rendered.status, rendered.content_type, [rendered.body]
    pieces = [renderer.render(reader.decode(json.dumps(line).encode() + b"\n")) for line in lines]
    return 200, "text/event-stream", [*pieces, renderer.render(reader.finish())]


@pytest.fixture
def scripted() -> Scripted:
    return Scripted()


@pytest.fixture
def client(scripted: Scripted) -> Iterator[Any]:
    memory = Kept()

    def answer(request: Any) -> Any:
        status, kind, pieces = exchanged(openai_chat.DIALECT, scripted, request.content, memory)
        return httpx.Response(status, headers={"Content-Type": kind}, content=iter(pieces))

    http = httpx.Client(transport=httpx.MockTransport(answer))
    yield openai.OpenAI(base_url="http://relayd.test/v1", api_key="k", http_client=http, max_retries=0)
    http.close()


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_clients_tool_loop_with_an_image(client: Any, scripted: Scripted, stream: bool) -> None:
    history: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "Rain?"}, {"type": "image_url", "image_url": {"url": PNG}}]}]
    for _ in range(2):
        if stream:
            with client.chat.completions.stream(model="m", messages=history, tools=TOOLS, stream_options={"include_usage": True}) as events:
                for _event in events:
                    pass
                completion = events.get_final_completion()
        else:
            completion = client.chat.completions.create(model="m", messages=history, tools=TOOLS)
        message = completion.choices[0].message
        assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (10, 4)
        if not message.tool_calls:
            break
        assert completion.choices[0].finish_reason == "tool_calls" and message.content == "Let me see."
        history.append(message)
        for call in message.tool_calls:
            city = json.loads(call.function.arguments)["city"]
            history.append({"role": "tool", "tool_call_id": call.id, "content": f"Rain in {city}"})
    assert message.content == "It rains."
    asked, tools = scripted.bodies[1]["messages"][0], scripted.bodies[1]["messages"][2:]
    assert asked == {"role": "user", "content": "Rain?", "images": ["QUJD"]}
    assert [(one["tool_name"], one["content"]) for one in tools] == [("look", "Rain in Köln"), ("look", "Rain in Bern")]


def test_an_error_in_the_stream_reaches_a_chat_client(client: Any, scripted: Scripted) -> None:
    scripted.broken = "an error was encountered while running the model"
    with pytest.raises(openai.APIError, match="while running the model"):
        list(client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}], stream=True))
    with pytest.raises(openai.InternalServerError, match="while running the model"):
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])


def test_the_seeds_chat_is_answered(scripted: Scripted) -> None:
    body = {"model": "mistral-7b-instruct", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 50}
    status, _, (answer,) = exchanged(simple_chat.DIALECT, scripted, json.dumps(body).encode(), Kept())
    received = json.loads(answer)
    assert status == 200 and received["backend"] == "ollama" and received["id"].startswith("chat-")
    assert received["choices"][0] == {"index": 0, "message": {"role": "assistant", "content": "It rains."}, "finish_reason": "stop"}
    assert scripted.bodies[0]["options"] == {"num_predict": 50} and scripted.bodies[0]["stream"] is False


def test_a_spoken_conversation_goes_on(scripted: Scripted) -> None:
    memory = Kept()
    for text in ("Rain?", "And tomorrow?"):
        body = {"session": "s", "queryResult": {"queryText": text, "languageCode": "en"}}
        _, _, (answer,) = exchanged(dialogflow.DIALECT, scripted, json.dumps(body).encode(), memory)
        assert json.loads(answer) == {"fulfillmentText": "It rains."}
    assert [message["role"] for message in scripted.bodies[1]["messages"]] == ["system", "user", "assistant", "user"]
