"""Failures that a response of each dialect reports behind status 200, found in its frames or in its body."""

from __future__ import annotations

import gzip
import itertools
import json
from typing import Any

import pytest

from relayd.protocols import registry
from relayd.protocols.canon import Failure
from relayd.protocols.reported_failure import reported_failure
from relayd.protocols.tap import MAX_PLAIN_BYTES, Tap, may_report_failure

SAID = "no slot"
CHAT = {"id": "c", "object": "chat.completion.chunk", "model": "m"}


def choice(**members: Any) -> dict[str, Any]:
    return {**CHAT, "choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": None, **members}]}


def sse(*values: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + json.dumps(value).encode() + b"\n\n" for value in values)


def events(*values: dict[str, Any]) -> bytes:
    return b"".join(b"event: %b\ndata: %b\n\n" % (one["type"].encode(), json.dumps(one).encode()) for one in values)


def lines(*values: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


FAILED = {
    "chat, in a choice": ("openai_chat", sse(choice(), choice(error={"message": SAID}, finish_reason="error"), choice())),
    "chat, alone": ("openai_chat", sse(choice(), {"error": {"message": SAID}}) + b"data: [DONE]\n\n"),
    "chat, a text": ("openai_chat", sse(choice(), {"error": SAID})),
    "messages": ("anthropic_messages", events({"type": "error", "error": {"type": "overloaded_error", "message": SAID}})),
    "responses, failed": ("openai_responses", events(
        {"type": "response.failed", "response": {"id": "r", "status": "failed", "error": {"message": SAID}, "output": []}})),
    "responses, an event": ("openai_responses", events({"type": "error", "code": "server_error", "message": SAID})),
    "gemini": ("gemini", sse({"candidates": []}, {"error": {"code": 503, "message": SAID, "status": "UNAVAILABLE"}})),
    "ollama": ("ollama", lines({"message": {"content": "hi"}, "done": False}, {"error": SAID})),
}  # fmt: skip
WHOLE = {
    "chat": ("openai_chat", {"error": {"message": SAID}}),
    "chat, in a choice": ("openai_chat", {**CHAT, "choices": [{"index": 0, "message": {"content": ""}, "error": {"message": SAID}}]}),
    "messages": ("anthropic_messages", {"type": "error", "error": {"type": "api_error", "message": SAID}}),
    "responses": ("openai_responses", {"id": "r", "status": "failed", "error": {"message": SAID}, "output": []}),
    "gemini": ("gemini", {"error": {"code": 503, "message": SAID, "status": "UNAVAILABLE"}}),
}  # fmt: skip
SOUND = {
    "the word in a text": ("openai_chat", sse(choice(delta={"content": 'say "error": {"message": 1} or error'}))),
    "the word is the text": ("openai_chat", sse(choice(delta={"content": "error"}))),
    "null": ("openai_chat", sse(choice(error=None))),
    "a call that failed": ("openai_responses", events({"type": "response.output_item.done", "output_index": 0, "item": {
        "type": "mcp_call", "id": "i", "name": "n", "arguments": "{}", "server_label": "s", "error": SAID}})),
}  # fmt: skip


def found(name: str, data: bytes, size: int, coding: str = "") -> Failure | None:
    dialect = registry.load(name)
    assert dialect.tap is not None
    tap = Tap(dialect.tap, coding)
    for start in range(0, len(data), size):
        tap.observe(data[start : start + size])
    part, is_stream = tap.possible_failure
    return reported_failure(dialect, part, stream=is_stream)


@pytest.mark.parametrize(("name", "data"), FAILED.values(), ids=FAILED)
def test_a_failure_in_a_stream_is_found_however_it_is_cut(name: str, data: bytes) -> None:
    for size, compressed in itertools.product((1, 7, 100_000), (False, True)):
        failure = found(name, gzip.compress(data) if compressed else data, size, "gzip" if compressed else "")
        assert failure is not None and SAID in failure.message, (size, compressed)


@pytest.mark.parametrize(("name", "body"), WHOLE.values(), ids=WHOLE)
def test_a_failure_in_a_plain_body_is_found(name: str, body: dict[str, Any]) -> None:
    data = json.dumps(body).encode()
    failure = found(name, data, 10)
    assert failure is not None and SAID in failure.message and may_report_failure(data)


@pytest.mark.parametrize(("name", "data"), SOUND.values(), ids=SOUND)
def test_what_only_looks_like_a_failure_is_none(name: str, data: bytes) -> None:
    assert found(name, data, 50) is None


def test_an_answer_without_the_word_and_a_large_one_are_not_read() -> None:
    whole = json.dumps({**CHAT, "choices": [{"index": 0, "message": {"content": 'an "error": 1'}, "error": None}]}).encode()
    assert not may_report_failure(whole) and found("openai_chat", whole, 1000) is None
    large = json.dumps({"error": {"message": "x" * MAX_PLAIN_BYTES}}).encode()
    assert not may_report_failure(large) and found("openai_chat", large, 1 << 16) is None
    assert reported_failure(registry.load("openai_chat"), b"", stream=True) is None
