"""Answers of endpoints that are much work: large calls in every form, repetitions, and many small things in one body.

Used by the tests of bounded steps and by the bench. Each shape has the endpoint's dialect, whether it is a stream, and the
bytes.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any, NamedTuple

SCRAPS, PIECES = '[],{},"a",', 30_000
ARGUMENTS: dict[str, Callable[[int], str]] = {  # of about so many characters
    "escapes": lambda size: '{"a":"' + "x\\n" * (size // 3) + '"}',
    "brackets": lambda size: '{"a":[' + "[{}]," * (size // 5) + "1]}",
    "scraps": lambda size: '{"a":[' + SCRAPS * (size // 10) + "1]}",
    "strings": lambda size: '{"a":[' + '"abcdefghijklmnop",' * (size // 19) + "1]}",
}


class Answer(NamedTuple):
    """One answer: `kind` is json, sse or ndjson; `make` writes one of about so many bytes."""

    back: str
    kind: str
    make: Callable[[int], bytes]


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def events(*values: Any) -> bytes:
    """A stream of server-sent events, with their names where they have a type."""
    frames = []
    for value in values:
        name = f"event: {value['type']}\n" if isinstance(value, dict) and "type" in value else ""
        frames.append(f"{name}data: {value if isinstance(value, str) else _text(value)}\n\n")
    return "".join(frames).encode()


def lines(*values: Any) -> bytes:
    """A stream of lines of JSON."""
    return "".join(_text(value) + "\n" for value in values).encode()


def call(arguments: Any, index: int = 0) -> dict[str, Any]:
    """A call as Chat endpoints send it."""
    return {"index": index, "id": f"c{index}", "type": "function", "function": {"name": "f", "arguments": arguments}}


def chat(message: dict[str, Any], **more: Any) -> bytes:
    """A plain Chat answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": None} | message, "finish_reason": "stop"} | more
    return _text({"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}).encode()


def chat_stream(*deltas: dict[str, Any]) -> bytes:
    """A Chat stream."""
    chunks = [{"id": "x", "created": 1, "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    last = {"id": "x", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    return events(*chunks, last, "[DONE]")


def calls_of(*texts: str, size: int = 1 << 60) -> bytes:
    """A Chat stream of one call whose arguments come in these texts, each cut into pieces."""
    pieces = [text[at : at + size] for text in texts for at in range(0, len(text), size)]
    return chat_stream(*({"tool_calls": [call(piece)]} for piece in pieces))


def message(content: list[Any]) -> bytes:
    """A plain Messages answer."""
    usage = {"input_tokens": 1, "output_tokens": 1}
    return _text({"id": "x", "type": "message", "role": "assistant", "model": "m", "content": content, "stop_reason": "end_turn", "usage": usage}).encode()


def response(output: list[Any]) -> bytes:
    """A plain Responses answer."""
    return _text({"id": "x", "object": "response", "status": "completed", "model": "m", "output": output}).encode()


def candidate(parts: list[Any]) -> dict[str, Any]:
    """A Gemini answer, plain or a frame."""
    return {"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]}


def ollama(tool_calls: list[Any], done: bool = True) -> dict[str, Any]:
    """An Ollama answer, plain or a line."""
    return {"model": "m", "message": {"role": "assistant", "content": "", "tool_calls": tool_calls}, "done": done, "done_reason": "stop"}


TOKEN = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [{"token": "a", "logprob": -0.5, "bytes": [97]}]}


def _calls(kind: str) -> dict[str, Answer]:
    """Answers with one large call whose arguments are of this kind."""
    text = functools.cache(ARGUMENTS[kind])

    def value(size: int) -> Any:
        return json.loads(text(size))

    return {
        f"a plain call of {kind}": Answer("openai_chat", "json", lambda size: chat({"tool_calls": [call(text(size))]})),
        f"a call as an object of {kind}": Answer("openai_chat", "json", lambda size: chat({"tool_calls": [call(value(size))]})),
        f"a call in one frame of {kind}": Answer("openai_chat", "sse", lambda size: calls_of(text(size))),
        f"a call in pieces, and again, of {kind}": Answer("openai_chat", "sse", lambda size: calls_of(text(size), json.dumps(value(size)), size=PIECES)),
        f"a call in pieces, and again whole, of {kind}": Answer(
            "openai_chat", "sse", lambda size: calls_of(*(text(size)[at : at + PIECES] for at in range(0, len(text(size)), PIECES)), json.dumps(value(size)))),
        f"a cumulative call of {kind}": Answer("openai_chat", "sse", lambda size: calls_of(*(text(size)[: len(text(size)) * n // 8] for n in range(1, 9)))),
        f"Gemini's call of {kind}": Answer("gemini", "sse", lambda size: events(candidate([{"functionCall": {"name": "f", "args": value(size)}}]))),
        f"Ollama's call of {kind}": Answer("ollama", "ndjson", lambda size: lines(ollama([{"function": {"name": "f", "arguments": value(size)}}], False), ollama([]))),
        f"Ollama's call as text of {kind}": Answer("ollama", "json", lambda size: lines(ollama([{"function": {"name": "f", "arguments": text(size)}}])).strip()),
        f"Messages' call of {kind}": Answer("anthropic_messages", "json", lambda size: message([{"type": "tool_use", "id": "t1", "name": "f", "input": value(size)}])),
        f"Responses' call of {kind}": Answer(
            "openai_responses", "json", lambda size: response([{"type": "function_call", "id": "fc", "call_id": "c", "name": "f", "arguments": text(size)}])),
        f"Responses' custom call of {kind}": Answer(
            "openai_responses", "json", lambda size: response([{"type": "custom_tool_call", "id": "fc", "call_id": "c", "name": "f", "input": text(size)}])),
    }  # fmt: skip


CALLS = {name: answer for kind in ARGUMENTS for name, answer in _calls(kind).items()}
OTHERS = {
    "many calls": Answer("openai_chat", "json", lambda size: chat({"tool_calls": [call('{"a":"%s"}' % ("x\\n" * (size // 3000)), n) for n in range(1000)]})),
    "many fragments": Answer("openai_chat", "sse", lambda size: chat_stream({"tool_calls": [call('{"a":"')] + [{"index": 0, "function": {"arguments": "x"}}] * (size // 46)})),
    "tiny deltas of a call": Answer("openai_chat", "sse", lambda size: calls_of('{"a":"' + "x" * (size // 200) + '"}', size=1)),
    "many parts": Answer("openai_chat", "json", lambda size: chat({"content": [{"type": "text", "text": "a"}] * (size // 27)})),
    "many reasoning details": Answer("openai_chat", "json", lambda size: chat({"content": "a", "reasoning_details": [
        {"type": "reasoning.text", "text": "a", "index": n} for n in range(size // 50)]})),
    "many log probabilities": Answer("openai_chat", "json", lambda size: chat({"content": "a" * (size // 100)}, logprobs={"content": [TOKEN] * (size // 100)})),
    "many choices": Answer("openai_chat", "json", lambda size: _text({"id": "x", "choices": [
        {"index": n, "message": {"role": "assistant", "content": "x" * (size // 100)}, "finish_reason": "stop"} for n in range(100)]}).encode()),
    "a long text": Answer("openai_chat", "json", lambda size: chat({"content": "lorem ipsum\n" * (size // 12)})),
    "a long thought": Answer("anthropic_messages", "json", lambda size: message([
        {"type": "thinking", "thinking": "lorem ipsum\n" * (size // 12), "signature": "s"}, {"type": "text", "text": "a"}])),
    "many blocks": Answer("anthropic_messages", "json", lambda size: message([{"type": "text", "text": "a" * (size // 4000)}] * 4000)),
    "many items": Answer("openai_responses", "json", lambda size: response([
        {"type": "message", "id": f"m{n}", "role": "assistant", "content": [{"type": "output_text", "text": "a" * (size // 4000)}]} for n in range(4000)])),
    "Gemini's many parts": Answer("gemini", "json", lambda size: _text(candidate([{"text": "a"}] * (size // 12))).encode()),
    "Gemini's list of frames": Answer("gemini", "json", lambda size: _text([candidate([{"text": "a"}])] * (size // 80)).encode()),
    "tiny lines": Answer("ollama", "ndjson", lambda size: lines(*[{"model": "m", "message": {"role": "assistant", "content": "a"}, "done": False}] * (size // 70), ollama([]))),
    "empty events": Answer("openai_chat", "sse", lambda size: b"data: {}\n\n" * (size // 20) + b":\n\n" * (size // 6) + chat_stream({"content": "a"})),
    "one-byte lines": Answer("openai_chat", "sse", lambda size: b":\n" * (size // 4) + b"\n" * (size // 2) + chat_stream({"content": "a"})),
}  # fmt: skip
ANSWERS = CALLS | OTHERS
