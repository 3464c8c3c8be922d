"""OpenRouter at the back-end's side: Chat Completions with the members and habits of its own.

Sources: OpenRouter's documentation of its API (responses, errors, streaming, reasoning tokens). Comments stand between the
events of a stream while a provider works; the last chunk has usage with costs, and a choice that is empty; finish reasons
come with those of the provider; errors of a provider are in `metadata.raw`, and behind status 200 in the choice. A model of
Google refuses the next turn of a tool loop that lacks the `reasoning_details` of its calls.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.functional.harness.dialects.backend import Refusal
from tests.functional.harness.dialects.chat_backend import Chat, usage
from tests.functional.harness.dialects.said import Asked, Say

COMMENT = b": OPENROUTER PROCESSING\n\n"
PROVIDER = "Google AI Studio"
NATIVE = {"stop": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY", "tool_calls": "STOP", "error": "MALFORMED_FUNCTION_CALL"}
FORMAT = "google-gemini-v1"
RAW = "The flux of the provider is not aligned."
OWN = ("reasoning_details", "reasoning")  # of messages


class OpenRouter(Chat):
    """A model of Google behind OpenRouter. `Say.finish` "error" is a failure behind status 200. `proofs` are the details
    that each call's turn must bring back."""

    base = "/api/v1"

    def __init__(self) -> None:
        super().__init__()
        self.proofs: dict[str, dict[str, Any]] = {}

    def read(self, target: str, headers: dict[str, str], body: dict[str, Any]) -> Asked:
        if target != "/api/v1/chat/completions":
            raise Refusal(f"no {target} here")
        messages = body["messages"]
        for message in messages:
            for call in message.get("tool_calls") or ():
                proof = self.proofs.get(call["id"])
                if proof is not None and proof not in (message.get("reasoning_details") or ()):
                    raise Refusal("Function call is missing a thought_signature in functionCall parts.")
        plain = [{name: value for name, value in message.items() if name not in OWN} for message in messages]
        return super().read("/v1/chat/completions", headers, {**body, "messages": plain})

    def frames(self, asked: Asked, say: Say) -> Iterator[bytes]:
        yield COMMENT + COMMENT
        deltas: list[dict[str, Any]] = []
        if say.thought:
            half = len(say.thought) // 2
            for part in (say.thought[:half], say.thought[half:]):
                detail = {"type": "reasoning.text", "text": part, "format": FORMAT, "index": 0}
                deltas.append({"reasoning": part, "reasoning_details": [detail]})
        deltas += [{"content": piece} for piece in say.pieces]
        for number, call in enumerate(say.calls):
            function = {"name": call.name, "arguments": call.arguments}
            deltas.append({
                "content": None, "tool_calls": [{"index": number, "id": call.id, "type": "function", "function": function}],
                "reasoning_details": [self.proof(call.id)],
            })  # fmt: skip
        for delta in deltas:
            yield self.frame(asked, choices=[self.choice({"role": "assistant", "content": "", **delta}, None)])
            yield COMMENT
        last = self.choice({"role": "assistant", "content": ""}, say.reason)
        yield self.frame(asked, choices=[last | (self.failure() if say.finish == "error" else {})])
        yield self.frame(asked, choices=[self.choice({"role": "assistant", "content": ""}, None)], usage=with_costs(say))

    def choice(self, delta: dict[str, Any], finish: str | None) -> dict[str, Any]:
        native = None if finish is None else NATIVE[finish]
        return {"index": 0, "delta": delta, "finish_reason": finish, "native_finish_reason": native, "logprobs": None}

    def proof(self, call_id: str) -> dict[str, Any]:
        made = {"type": "reasoning.encrypted", "data": f"proof-of-{call_id}", "id": call_id, "format": FORMAT, "index": 0}
        self.proofs[call_id] = made
        return made

    def frame(self, asked: Asked, **members: Any) -> bytes:
        chunk = {
            "id": "gen-1", "provider": PROVIDER, "model": asked.model, "object": "chat.completion.chunk", "created": 1700000000, **members,
        }  # fmt: skip
        return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"

    def plain(self, asked: Asked, say: Say) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": say.text, "refusal": None, "reasoning": say.thought or None}
        details = [{"type": "reasoning.text", "text": say.thought, "format": FORMAT, "index": 0}] if say.thought else []
        if say.calls:
            message["tool_calls"] = [
                {"index": number, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for number, call in enumerate(say.calls)
            ]
            details += [self.proof(call.id) for call in say.calls]
        if details:
            message["reasoning_details"] = details
        choice = {"logprobs": None, "finish_reason": say.reason, "native_finish_reason": NATIVE[say.reason], "index": 0, "message": message}
        return {
            "id": "gen-1", "provider": PROVIDER, "model": asked.model, "object": "chat.completion", "created": 1700000000,
            "choices": [choice | (self.failure() if say.finish == "error" else {})], "usage": with_costs(say),
        }  # fmt: skip

    def failure(self) -> dict[str, Any]:
        return {"error": {"code": 502, "message": "Upstream error", "metadata": metadata()}}

    def error(self, status: int, message: str, code: str) -> dict[str, Any]:
        return {"error": {"message": "Provider returned error", "code": status, "metadata": metadata(message)}, "user_id": "user_1"}

    def error_frame(self, message: str) -> bytes:
        chunk = {
            "id": "gen-1", "provider": PROVIDER, "object": "chat.completion.chunk", "created": 1700000000, "model": "google/gemini-3-pro",
            "error": {"code": "server_error", "message": message}, "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}],
        }  # fmt: skip
        return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def metadata(message: str = RAW) -> dict[str, Any]:
    return {"provider_name": PROVIDER, "raw": json.dumps({"error": {"code": 503, "message": message, "status": "UNAVAILABLE"}})}


def with_costs(say: Say) -> dict[str, Any]:
    costs = {"upstream_inference_cost": None, "upstream_inference_prompt_cost": 0.00011, "upstream_inference_completions_cost": 0.00003}
    return usage(say) | {"cost": 0.00014, "is_byok": False, "cost_details": costs, "completion_tokens_details": {"reasoning_tokens": 2}}
