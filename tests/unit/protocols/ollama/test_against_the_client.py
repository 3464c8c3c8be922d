"""Ollama's own Python client as a judge: what it writes is what is written here, and it reads what is scripted here."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from relayd.protocols.canon import Format, Image, Message, Request, Text, Thinking, Tool, ToolCall, ToolResult

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    ollama = pytest.importorskip("ollama")
    httpx = pytest.importorskip("httpx")

pytestmark = pytest.mark.client
PARAMETERS = {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]}


def test_the_client_writes_the_same_for_the_same_question(context: Callable[..., Request], write: Callable[..., dict[str, Any]]) -> None:
    sent: list[Any] = []

    def answer(request: Any) -> Any:
        sent.append(request)
        return httpx.Response(200, json={"model": "qwen3", "message": {"role": "assistant", "content": "Hi"}, "done": True})

    client = ollama.Client("http://127.0.0.1:9", transport=httpx.MockTransport(answer))
    client.chat(
        "qwen3",
        messages=[
            {"role": "system", "content": "Be kind"},
            {"role": "user", "content": "see", "images": [b"ABC"]},
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "look", "arguments": {"x": "1"}}}]},
            {"role": "tool", "content": "y", "tool_name": "look"},
        ],
        tools=[{"type": "function", "function": {"name": "look", "description": "Looks", "parameters": PARAMETERS}}],
        format={"type": "object"},
        options={"num_predict": 9, "temperature": 0.5, "stop": ["x"], "seed": 3},
        think=True,
    )
    ours = write(context(
        Message("system", (Text("Be kind"),)),
        Message("user", (Text("see"), Image("data:image/png;base64,QUJD"))),
        Message("assistant", (ToolCall("c1", "look", '{"x":"1"}'),)),
        Message("tool", (ToolResult("c1", (Text("y"),)),)),
        model="qwen3", tools=(Tool("look", "Looks", PARAMETERS),), format=Format("json_schema", "f", {"type": "object"}),
        max_tokens=9, temperature=0.5, stop=("x",), seed=3, thinking=Thinking(enabled=True),
    ))  # fmt: skip
    assert sent[0].url.path == "/api/chat"
    # The client does not know ids of calls; the server does, and skips what it does not know;
    # the client leaves an empty text out.
    del ours["messages"][2]["tool_calls"][0]["id"], ours["messages"][3]["tool_call_id"], ours["messages"][2]["content"]
    assert json.loads(sent[0].content) == ours


def test_the_client_reads_what_is_scripted_here(context: Callable[..., Request], read: Callable[..., list[Any]]) -> None:
    lines = [
        {"model": "m", "created_at": "2026-11-20T10:00:00Z", "message": {"role": "assistant", "content": "a", "thinking": "t"}, "done": False},
        {"model": "m", "message": {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]}, "done": False},
        {"model": "m", "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop", "prompt_eval_count": 9, "eval_count": 3},
    ]  # fmt: skip
    data = b"".join(json.dumps(one).encode() + b"\n" for one in lines)
    client = ollama.Client("http://127.0.0.1:9", transport=httpx.MockTransport(lambda _: httpx.Response(200, content=data)))
    parts = list(client.chat("m", messages=[], stream=True))
    events = read(context(stream=True), data)
    assert [type(event).__name__ for event in events] == [
        "Begin", "ReasoningDelta", "TextDelta", "ToolStart", "ToolDelta", "Usage", "Finish", "End",
    ]  # fmt: skip
    assert parts[0].message.thinking == events[1].text and parts[0].message.content == events[2].text
    assert parts[1].message.tool_calls[0].function.arguments == json.loads(events[4].arguments)
    assert (parts[2].prompt_eval_count, parts[2].eval_count) == (events[5].input, events[5].output)
