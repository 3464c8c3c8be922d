"""Gemini's generateContent at the back-end's side, as strict as Gemini 3: signatures of calls must come back."""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

from tests.functional.harness.dialects.backend import Refusal
from tests.functional.harness.dialects.said import Asked, Say

REASONS = {"stop": "STOP", "tool_calls": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}
TARGET = re.compile(r"/v1beta/models/([^/:]+):(generateContent|streamGenerateContent\?alt=sse)")
SIGNATURE = base64.b64encode(b"signature of a thought").decode()
KNOWN = {"contents", "systemInstruction", "tools", "toolConfig", "generationConfig", "safetySettings", "cachedContent"}
REJECTED = {"additionalProperties", "$schema", "$ref", "$defs", "const", "oneOf"}


class Gemini:
    name, base, stream_type, end = "gemini", "/v1beta", "text/event-stream", b""
    key_field = ("x-goog-api-key", "")

    def __init__(self, strict: bool = True) -> None:
        self.strict = strict

    def read(self, target: str, headers: dict[str, str], body: dict[str, Any]) -> Asked:
        match = TARGET.fullmatch(target)
        if match is None:
            raise Refusal(f"no {target} here")
        for fault in self.faults(body):
            raise Refusal(fault)
        said, results = [], []
        for content in body["contents"]:
            said.append((content["role"].replace("model", "assistant"), "".join(part.get("text", "") for part in content["parts"])))
            results = [(part["functionResponse"].get("id", ""), text_of(part["functionResponse"]["response"]))
                       for part in content["parts"] if "functionResponse" in part]  # fmt: skip
        system = "".join(part["text"] for part in body.get("systemInstruction", {}).get("parts", ()))
        tools = tuple(one["name"] for tool in body.get("tools", ()) for one in tool["functionDeclarations"])
        return Asked(match[1], match[2].startswith("stream"), system, tuple(said), tuple(results), tools, body, headers)

    def faults(self, body: dict[str, Any]) -> Iterator[str]:
        yield from (f"Unknown name {name}" for name in body.keys() - KNOWN)
        contents = body["contents"]
        if not self.strict:
            return
        if not contents or contents[0]["role"] != "user":
            yield "the first turn is the user's"
        if any(one["role"] == other["role"] for one, other in itertools.pairwise(contents)):
            yield "turns alternate"
        calls: list[str] = []
        for content in contents:
            parts = content["parts"]
            if not parts or any(not part or part.get("text") == "" for part in parts):
                yield "empty part"
            answers = [part["functionResponse"]["name"] for part in parts if "functionResponse" in part]
            if sorted(answers) != sorted(calls):
                yield f"calls {calls}, answers {answers}"
            if any(not isinstance(part["functionResponse"]["response"], dict) for part in parts if "functionResponse" in part):
                yield "a response is an object"
            mine = [part for part in parts if "functionCall" in part]
            calls = [part["functionCall"]["name"] for part in mine]
            if mine and mine[0].get("thoughtSignature") not in (SIGNATURE, "skip_thought_signature_validator"):
                yield "Function call is missing a thought_signature"
            if any("thoughtSignature" in part for part in mine[1:]):
                yield "a signature that was never given"
        for tool in body.get("tools", ()):
            for one in tool["functionDeclarations"]:
                if "parameters" in one and REJECTED & set(json.dumps(one["parameters"]).replace('"', " ").split()):
                    yield "a keyword that parameters do not take"

    def candidates(self, asked: Asked, parts: list[dict[str, Any]], **members: Any) -> dict[str, Any]:
        return {"candidates": [{"content": {"role": "model", "parts": parts}, "index": 0, **members}], "modelVersion": asked.model, "responseId": "r1"}

    def parts(self, say: Say) -> Iterator[dict[str, Any]]:
        if say.thought:
            yield {"text": say.thought, "thought": True}
        yield from ({"text": piece} for piece in say.pieces)
        for number, call in enumerate(say.calls):
            part: dict[str, Any] = {"functionCall": {"name": call.name, "args": call.values}}
            if not number:
                part["thoughtSignature"] = SIGNATURE
            yield part

    def usage(self, say: Say) -> dict[str, Any]:
        read, written, cached = say.usage
        return {"promptTokenCount": read, "candidatesTokenCount": written - 2, "thoughtsTokenCount": 2, "cachedContentTokenCount": cached, "totalTokenCount": read + written}

    def frames(self, asked: Asked, say: Say) -> Iterator[bytes]:
        for part in self.parts(say):
            yield frame(self.candidates(asked, [part]))
        yield frame(self.candidates(asked, [{"text": ""}], finishReason=REASONS[say.reason]) | {"usageMetadata": self.usage(say)})

    def plain(self, asked: Asked, say: Say) -> dict[str, Any]:
        return self.candidates(asked, list(self.parts(say)), finishReason=REASONS[say.reason]) | {"usageMetadata": self.usage(say)}

    def error(self, status: int, message: str, code: str) -> dict[str, Any]:
        error: dict[str, Any] = {"code": status, "message": message, "status": code or "INVALID_ARGUMENT"}
        if status == 429:
            error["details"] = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7s"}]
        return {"error": error}

    def error_frame(self, message: str) -> bytes:
        return frame(self.error(503, message, "UNAVAILABLE"))


def frame(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\r\n\r\n"


def text_of(response: dict[str, Any]) -> str:
    return next((value for value in response.values() if isinstance(value, str)), json.dumps(response))
