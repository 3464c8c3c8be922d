"""Anthropic's Messages API at the back-end's side."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

from tests.functional.harness.dialects.backend import Refusal
from tests.functional.harness.dialects.said import Asked, Say

KNOWN = {
    "model", "max_tokens", "messages", "system", "stop_sequences", "stream", "temperature", "top_p", "top_k", "tools",
    "tool_choice", "metadata", "thinking", "output_config", "service_tier",
}  # fmt: skip
VERSION = re.compile(r"20\d\d-\d\d-\d\d")
REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


class Anthropic:
    name, base, stream_type = "anthropic_messages", "/v1", "text/event-stream; charset=utf-8"
    end = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    key_field = ("x-api-key", "")

    def __init__(self, strict: bool = True) -> None:
        self.strict = strict

    def read(self, target: str, headers: dict[str, str], body: dict[str, Any]) -> Asked:
        if target.partition("?")[0] != "/v1/messages":
            raise Refusal(f"no {target} here")
        if not VERSION.fullmatch(headers.get("anthropic-version", "")):
            raise Refusal("anthropic-version")
        for fault in self.faults(body) if self.strict else ():
            raise Refusal(fault)
        said: list[tuple[str, str]] = []
        results: list[tuple[str, str]] = []
        for message in body["messages"]:
            blocks = blocks_of(message["content"])
            said.append((message["role"], "".join(block["text"] for block in blocks if block["type"] == "text")))
            results = [(block["tool_use_id"], "".join(one.get("text", "") for one in blocks_of(block.get("content", ""))))
                       for block in blocks if block["type"] == "tool_result"]  # fmt: skip
        system = "".join(block["text"] for block in blocks_of(body.get("system", "")))
        tools = tuple(tool["name"] for tool in body.get("tools", ()) if "input_schema" in tool)
        if body.get("tool_choice", {}).get("type") == "none":
            tools = ()
        return Asked(body["model"], body.get("stream", False), system, tuple(said), tuple(results), tools, body, headers)

    def faults(self, body: dict[str, Any]) -> Iterator[str]:
        yield from (f"{name}: Extra inputs are not permitted" for name in body.keys() - KNOWN)
        if not isinstance(body.get("max_tokens"), int) or body["max_tokens"] < 1:
            yield "max_tokens"
        if not 0 <= body.get("temperature", 0) <= 1:
            yield "temperature"
        if body.get("tool_choice") and not body.get("tools"):
            yield "tool_choice without tools"
        messages = body["messages"]
        if not messages or messages[0]["role"] != "user":
            yield "first message must be user"
        if any(one["role"] == other["role"] for one, other in itertools.pairwise(messages)):
            yield "roles must alternate"
        pending: list[str] = []
        for message in messages:
            blocks = blocks_of(message["content"])
            if not blocks or any(block["type"] == "text" and not block["text"].strip() for block in blocks):
                yield "empty content"
            answered = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
            if sorted(answered) != sorted(pending):
                yield f"tool_use {pending} answered by {answered}"
            if answered and any(block["type"] != "tool_result" for block in blocks[: len(answered)]):
                yield "tool_result blocks come first"
            pending = [block["id"] for block in blocks if block["type"] == "tool_use"]
            if any(not isinstance(block["input"], dict) for block in blocks if block["type"] == "tool_use"):
                yield "input is an object"
        if pending:
            yield "unanswered tool_use"
        if (pending or any("tool_use" in str(one["content"]) for one in messages)) and not body.get("tools"):
            yield "tools must be declared"

    def frames(self, asked: Asked, say: Say) -> Iterator[bytes]:
        read, written, cached = say.usage
        usage = {"input_tokens": read - cached, "cache_read_input_tokens": cached, "cache_creation_input_tokens": 0, "output_tokens": 1}
        start: dict[str, Any] = {"id": "msg_1", "type": "message", "role": "assistant", "model": asked.model, "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
        yield event("message_start", message=start)
        yield event("ping")
        blocks: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
        if say.thought:
            blocks.append(({"type": "thinking", "thinking": "", "signature": ""}, [
                {"type": "thinking_delta", "thinking": say.thought}, {"type": "signature_delta", "signature": "c2ln"}]))  # fmt: skip
        if say.pieces:
            blocks.append(({"type": "text", "text": ""}, [{"type": "text_delta", "text": piece} for piece in say.pieces]))
        for call in say.calls:
            half = len(call.arguments) // 2
            parts = [{"type": "input_json_delta", "partial_json": part} for part in ("", call.arguments[:half], call.arguments[half:])]
            blocks.append(({"type": "tool_use", "id": call.id, "name": call.name, "input": {}}, parts))
        for index, (block, deltas) in enumerate(blocks):
            yield event("content_block_start", index=index, content_block=block)
            for delta in deltas:
                yield event("content_block_delta", index=index, delta=delta)
            yield event("content_block_stop", index=index)
        yield event("message_delta", delta={"stop_reason": REASONS[say.reason], "stop_sequence": None}, usage=usage | {"output_tokens": written})

    def plain(self, asked: Asked, say: Say) -> dict[str, Any]:
        read, written, cached = say.usage
        content: list[dict[str, Any]] = []
        if say.thought:
            content.append({"type": "thinking", "thinking": say.thought, "signature": "c2ln"})
        if say.pieces:
            content.append({"type": "text", "text": say.text})
        content += [{"type": "tool_use", "id": call.id, "name": call.name, "input": call.values} for call in say.calls]
        return {
            "id": "msg_1", "type": "message", "role": "assistant", "model": asked.model, "content": content,
            "stop_reason": REASONS[say.reason], "stop_sequence": None,
            "usage": {"input_tokens": read - cached, "cache_read_input_tokens": cached, "cache_creation_input_tokens": 0, "output_tokens": written},
        }  # fmt: skip

    def error(self, status: int, message: str, code: str) -> dict[str, Any]:
        return {"type": "error", "error": {"type": code or "api_error", "message": message}, "request_id": "req_9"}

    def error_frame(self, message: str) -> bytes:
        return event("error", error={"type": "overloaded_error", "message": message})


def event(kind: str, **members: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), json.dumps({"type": kind, **members}, ensure_ascii=False).encode())


def blocks_of(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return list(content)
