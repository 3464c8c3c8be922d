"""Ollama's /api/chat at the back-end's side."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.functional.harness.dialects.backend import Refusal
from tests.functional.harness.dialects.said import Asked, Say

KNOWN = {"model", "messages", "stream", "tools", "format", "options", "think", "keep_alive", "logprobs", "top_logprobs"}
ROLES = ("system", "user", "assistant", "tool")


class Ollama:
    name, base, stream_type, end = "ollama", "", "application/x-ndjson", b""
    key_field = ("Authorization", "Bearer ")

    def read(self, target: str, headers: dict[str, str], body: dict[str, Any]) -> Asked:
        if target != "/api/chat":
            raise Refusal(f"no {target} here")
        for name in body.keys() - KNOWN:
            raise Refusal(f"unknown {name}")
        said, results, system = [], [], []
        for message in body["messages"]:
            if message["role"] not in ROLES or not isinstance(message["content"], str):
                raise Refusal("a role or a content")
            if message["role"] == "tool":
                results.append((message.get("tool_call_id", ""), message["content"]))
                continue
            results = []
            if message["role"] == "system":
                system.append(message["content"])
                continue
            if any(not isinstance(call["function"]["arguments"], dict) for call in message.get("tool_calls", ())):
                raise Refusal("arguments are an object")
            said.append((message["role"], message["content"]))
        tools = tuple(tool["function"]["name"] for tool in body.get("tools", ()))
        return Asked(body["model"], body.get("stream", True), "\n".join(system), tuple(said), tuple(results), tools, body, headers)

    def object(self, asked: Asked, message: dict[str, Any], **members: Any) -> dict[str, Any]:
        return {"model": asked.model, "created_at": "2026-01-01T00:00:00.123456Z", "message": {"role": "assistant", "content": "", **message}, "done": False, **members}

    def last(self, say: Say) -> dict[str, Any]:
        read, written, _ = say.usage
        reason = "length" if say.reason == "length" else "stop"
        return {"done": True, "done_reason": reason, "total_duration": 5, "prompt_eval_count": read, "eval_count": written}

    def calls(self, say: Say) -> list[dict[str, Any]]:
        return [{"function": {"name": call.name, "arguments": call.values}} for call in say.calls]

    def frames(self, asked: Asked, say: Say) -> Iterator[bytes]:
        if say.thought:
            yield line(self.object(asked, {"thinking": say.thought}))
        for piece in say.pieces:
            yield line(self.object(asked, {"content": piece}))
        for call in self.calls(say):
            yield line(self.object(asked, {"tool_calls": [call]}))
        yield line(self.object(asked, {}, **self.last(say)))

    def plain(self, asked: Asked, say: Say) -> dict[str, Any]:
        message: dict[str, Any] = {"content": say.text}
        if say.thought:
            message["thinking"] = say.thought
        if say.calls:
            message["tool_calls"] = self.calls(say)
        return self.object(asked, message, **self.last(say))

    def error(self, status: int, message: str, code: str) -> dict[str, Any]:
        return {"error": message}

    def error_frame(self, message: str) -> bytes:
        return line({"error": message})


def line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"
