"""Chat Completions at the back-end's side, with every refusal of the strictest endpoints."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from typing import Any

from tests.functional.harness.dialects.backend import Refusal
from tests.functional.harness.dialects.said import Asked, Say
from tests.unit.protocols.openai_chat.strict import offences


class Chat:
    """`usage_on_request`: usage comes in streams only where stream_options ask for it."""

    name, base, stream_type, end = "openai_chat", "/v1", "text/event-stream", b"data: [DONE]\n\n"
    key_field = ("Authorization", "Bearer ")

    def __init__(self, strict: bool = True) -> None:
        self.strict = strict

    def read(self, target: str, headers: dict[str, str], body: dict[str, Any]) -> Asked:
        if target != "/v1/chat/completions":
            raise Refusal(f"no {target} here")
        if self.strict and (wrong := offences(json.dumps(body).encode())):
            raise Refusal("; ".join(wrong))
        said, results, system = [], [], []
        for message in body["messages"]:
            text = text_of(message.get("content"))
            if message["role"] in ("system", "developer"):
                system.append(text)
            elif message["role"] == "tool":
                results.append((message["tool_call_id"], text))
            else:
                said.append((message["role"], text))
        tools = tuple(tool["function"]["name"] for tool in body.get("tools", ()))
        if body["messages"][-1]["role"] != "tool":
            results = []
        return Asked(body["model"], body.get("stream", False), "\n".join(system), tuple(said), tuple(results), tools, body, headers)

    def frames(self, asked: Asked, say: Say) -> Iterator[bytes]:
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": None}]
        if say.thought:
            deltas.append({"reasoning_content": say.thought})
        deltas += [{"content": piece} for piece in say.pieces]
        for number, call in enumerate(say.calls):
            half = len(call.arguments) // 2
            deltas.append({"tool_calls": [{"index": number, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}]})
            deltas += [{"tool_calls": [{"index": number, "function": {"arguments": part}}]} for part in (call.arguments[:half], call.arguments[half:])]
        for delta in deltas:
            choice = {"index": 0, "delta": delta, "finish_reason": None}
            if asked.body.get("logprobs") and delta.get("content"):
                choice["logprobs"] = {"content": [token(delta["content"])]}
            yield self.frame(asked, choices=[choice])
        yield self.frame(asked, choices=[{"index": 0, "delta": {}, "finish_reason": say.reason} | met(say)])
        if asked.body.get("stream_options", {}).get("include_usage"):
            yield self.frame(asked, choices=[], usage=usage(say))

    def frame(self, asked: Asked, **members: Any) -> bytes:
        chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000, "model": asked.model, **members}
        return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"

    def plain(self, asked: Asked, say: Say) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": say.text or None}
        if say.thought:
            message["reasoning_content"] = say.thought
        if say.calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}} for call in say.calls
            ]
        return {
            "id": "chatcmpl-1", "object": "chat.completion", "created": 1700000000, "model": asked.model, "usage": usage(say),
            "choices": [
                {"index": number, "message": message, "finish_reason": say.reason} | met(say) | self.logprobs(asked, say)
                for number in range(asked.body.get("n") or 1)
            ],
        }  # fmt: skip

    def logprobs(self, asked: Asked, say: Say) -> dict[str, Any]:
        return {"logprobs": {"content": [token(piece) for piece in say.pieces]}} if asked.body.get("logprobs") else {}

    def other(self, target: str, body: bytes) -> dict[str, Any] | None:
        """What is neither chat nor translated."""
        if target == "/v1/embeddings":
            asked = json.loads(body)
            inputs = asked["input"] if isinstance(asked["input"], list) else [asked["input"]]
            count = asked.get("dimensions", 3)
            numbers: Any = [0.25] * count
            if asked.get("encoding_format") == "base64":
                numbers = base64.b64encode(struct.pack(f"<{count}f", *numbers)).decode()
            data = [{"object": "embedding", "index": place, "embedding": numbers} for place in range(len(inputs))]
            return {"object": "list", "data": data, "model": asked["model"], "usage": {"prompt_tokens": 5, "total_tokens": 5}}
        if target == "/v1/completions":
            return {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": json.loads(body)["model"],
                    "choices": [{"index": 0, "text": " wide.", "finish_reason": "stop", "logprobs": None}],
                    "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}}  # fmt: skip
        if target == "/v1/images/generations":
            return {"created": 1, "data": [{"b64_json": "QUJD"}] * json.loads(body).get("n", 1)}
        return None

    def error(self, status: int, message: str, code: str) -> dict[str, Any]:
        return {"error": {"message": message, "type": "scripted_error", "param": None, "code": code or None}}

    def error_frame(self, message: str) -> bytes:
        return b"data: " + json.dumps(self.error(500, message, "flux")).encode() + b"\n\n"


def token(piece: str) -> dict[str, Any]:
    return {"token": piece, "logprob": -0.25, "bytes": list(piece.encode()), "top_logprobs": [{"token": piece, "logprob": -0.25, "bytes": list(piece.encode())}]}


def met(say: Say) -> dict[str, Any]:
    return {"stop_reason": say.stop} if say.stop else {}


def usage(say: Say) -> dict[str, Any]:
    read, written, cached = say.usage
    return {
        "prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": cached},
    }  # fmt: skip


def text_of(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""
