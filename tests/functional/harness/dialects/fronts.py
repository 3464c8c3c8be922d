"""Clients of each dialect: requests as their SDKs write them, answers read by the strictest grammar there is."""

from __future__ import annotations

import json
from typing import Any, Protocol

from tests.aids import responses_grammar
from tests.functional.harness.dialects.said import LOOK_UP, Call, Heard
from tests.functional.harness.message import Message, request
from tests.unit.protocols.anthropic_messages import grammar as messages_grammar

Body = dict[str, Any]


class Front(Protocol):
    """One client dialect. `path` is where it asks; a stream's answer is read by `read` as a plain one is."""

    name: str
    path: str

    def ask(self, model: str, prompt: str, *, stream: bool = False, tools: bool = False) -> Body:
        """A request."""

    def read(self, message: Message, stream: bool) -> Heard:
        """A whole answer. Raises AssertionError where it breaks a rule."""

    def error(self, message: Message) -> str:
        """The words of an error answer."""


class FullFront(Front, Protocol):
    """A dialect that has streams and tools as well."""

    def follow(self, body: Body, heard: Heard, results: list[str]) -> Body:
        """The next request of a tool loop: the whole history, with the results of the calls that were heard."""

    def cut(self, body: bytes) -> Heard:
        """What a stream says that failed after its first words; `failed` is the reason that it gives."""


def wire(front: Front, body: Body, *lines: bytes, path: str = "") -> bytes:
    """The bytes of a request."""
    if front.name == "anthropic_messages":
        lines = (b"anthropic-version: 2023-06-01", *lines)
    return request(
        (path or front.path).encode(), b"Content-Type: application/json", *lines, method=b"POST",
        body=json.dumps(body, ensure_ascii=False).encode(),
    )  # fmt: skip


def of_type(message: Message, kind: bytes) -> None:
    assert message.status == 200, (message.start, message.body)
    assert (message.get("content-type") or b"").startswith(kind), message.fields
    assert message.complete


def openai_error(message: Message) -> str:
    error = json.loads(message.body)["error"]
    assert {"message", "type", "param", "code"} <= error.keys()
    return str(error["message"])


def data_frames(body: bytes) -> list[str]:
    frames = body.decode().split("\n\n")
    assert frames.pop() == "", body[-60:]
    return [frame.removeprefix("data: ") for frame in frames if not frame.startswith(":")]


class ChatFront:
    name, path = "openai_chat", "/v1/chat/completions"

    def ask(self, model: str, prompt: str, *, stream: bool = False, tools: bool = False) -> Body:
        body: Body = {"model": model, "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt}]}
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        if tools:
            body["tools"] = [{"type": "function", "function": {"name": "look_up", "parameters": LOOK_UP}}]
        return body

    def follow(self, body: Body, heard: Heard, results: list[str]) -> Body:
        calls = [{"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}} for call in heard.calls]
        assistant: Body = {"role": "assistant", "tool_calls": calls}
        if heard.text:
            assistant["content"] = heard.text
        answers = [{"role": "tool", "tool_call_id": call.id, "content": text} for call, text in zip(heard.calls, results, strict=True)]
        return body | {"messages": [*body["messages"], assistant, *answers]}

    def read(self, message: Message, stream: bool) -> Heard:
        of_type(message, b"text/event-stream" if stream else b"application/json")
        if stream:
            frames = data_frames(message.body)
            assert frames.pop() == "[DONE]"
            return self.fold([json.loads(frame) for frame in frames], whole=True)
        body = json.loads(message.body)
        (choice,) = body["choices"]
        said = choice["message"]
        assert body["object"] == "chat.completion" and body["id"] and said["role"] == "assistant" and "content" in said
        calls = [Call(one["id"], one["function"]["name"], one["function"]["arguments"]) for one in said.get("tool_calls") or ()]
        return Heard(
            said["content"] or "", said.get("reasoning_content") or "", calls, choice["finish_reason"],
            usage_of(body), whole=True, answer=body,
        )  # fmt: skip

    def fold(self, chunks: list[Body], whole: bool) -> Heard:
        heard, calls = Heard(whole=whole), {}  # type: tuple[Heard, dict[int, list[str]]]
        assert len({(chunk["id"], chunk["object"], chunk["model"]) for chunk in chunks}) == 1
        assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
        for chunk in chunks:
            if chunk.get("usage"):
                assert chunk["choices"] == [] and heard.finish
                heard.usage = usage_of(chunk)
            for choice in chunk["choices"]:
                assert not heard.finish, "nothing follows finish_reason"
                delta = choice["delta"]
                heard.text += delta.get("content") or ""
                heard.thought += delta.get("reasoning_content") or ""
                for one in delta.get("tool_calls") or ():
                    if "id" in one:
                        assert one["index"] == len(calls) and one["type"] == "function"
                        calls[one["index"]] = [one["id"], one["function"]["name"], ""]
                    calls[one["index"]][2] += one["function"].get("arguments", "")
                heard.finish = choice.get("finish_reason") or ""
        heard.calls = [Call(*parts) for parts in calls.values()]
        assert not whole or heard.finish
        return heard

    def cut(self, body: bytes) -> Heard:
        assert b"[DONE]" not in body
        chunks = [json.loads(frame) for frame in data_frames(body)]
        error = chunks.pop()["error"]
        heard = self.fold(chunks, whole=False)
        assert not heard.finish
        heard.failed = error["message"]
        return heard

    error = staticmethod(openai_error)


def usage_of(body: Body) -> tuple[int, int]:
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    return usage["prompt_tokens"], usage["completion_tokens"]


class ResponsesFront:
    name, path = "openai_responses", "/v1/responses"

    def ask(self, model: str, prompt: str, *, stream: bool = False, tools: bool = False) -> Body:
        body: Body = {"model": model, "instructions": "Be brief.", "input": [{"role": "user", "content": prompt}], "store": False}
        if stream:
            body["stream"] = True
        if tools:
            body["tools"] = [{"type": "function", "name": "look_up", "description": "A city.", "parameters": LOOK_UP, "strict": True}]
        return body

    def follow(self, body: Body, heard: Heard, results: list[str]) -> Body:
        answers = [{"type": "function_call_output", "call_id": call.id, "output": text} for call, text in zip(heard.calls, results, strict=True)]
        return body | {"input": [*body["input"], *heard.answer["output"], *answers]}

    def read(self, message: Message, stream: bool) -> Heard:
        of_type(message, b"text/event-stream" if stream else b"application/json")
        if stream:
            return self.heard(responses_grammar.read_stream(message.body))
        response = json.loads(message.body)
        responses_grammar.check_response(response)
        return self.heard(response)

    def heard(self, response: Body) -> Heard:
        heard = Heard(whole=response["status"] == "completed", answer=response)
        for item in response["output"]:
            if item["type"] == "message":
                heard.text += "".join(part.get("text", "") for part in item["content"])
            elif item["type"] == "reasoning":
                heard.thought += "".join(part["text"] for part in item["summary"])
            else:
                heard.calls.append(Call(item["call_id"], item["name"], item["arguments"]))
        details = response["incomplete_details"] or {}
        heard.finish = {"max_output_tokens": "length", "content_filter": "content_filter"}.get(
            details.get("reason", ""), "tool_calls" if heard.calls else "stop"
        )
        usage = response["usage"]
        heard.usage = None if usage is None else (usage["input_tokens"], usage["output_tokens"])
        heard.failed = (response["error"] or {}).get("message", "")
        return heard

    def cut(self, body: bytes) -> Heard:
        heard = self.heard(responses_grammar.read_stream(body))
        assert heard.answer["status"] == "failed"
        heard.text = "".join(
            event["delta"] for event in responses_grammar.frames(body) if event["type"] == "response.output_text.delta"
        )
        return heard

    error = staticmethod(openai_error)


class MessagesFront:
    name, path = "anthropic_messages", "/v1/messages"

    def ask(self, model: str, prompt: str, *, stream: bool = False, tools: bool = False) -> Body:
        body: Body = {
            "model": model, "max_tokens": 500, "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
            "messages": [{"role": "user", "content": prompt}],
        }  # fmt: skip
        if stream:
            body["stream"] = True
        if tools:
            body["tools"] = [{"name": "look_up", "description": "A city.", "input_schema": LOOK_UP}]
        return body

    def follow(self, body: Body, heard: Heard, results: list[str]) -> Body:
        answers = [{"type": "tool_result", "tool_use_id": call.id, "content": text} for call, text in zip(heard.calls, results, strict=True)]
        history = [{"role": "assistant", "content": heard.answer["content"]}, {"role": "user", "content": answers}]
        return body | {"messages": [*body["messages"], *history]}

    def read(self, message: Message, stream: bool) -> Heard:
        of_type(message, b"text/event-stream" if stream else b"application/json")
        if stream:
            return self.heard(messages_grammar.check(message.body))
        body = json.loads(message.body)
        messages_grammar.check_message(body)
        return self.heard(body)

    def heard(self, body: Body) -> Heard:
        heard = Heard(whole=True, answer=body)
        for block in body["content"]:
            if block["type"] == "text":
                heard.text += block["text"]
            elif block["type"] == "thinking":
                heard.thought += block["thinking"]
            else:
                heard.calls.append(Call(block["id"], block["name"], json.dumps(block["input"], ensure_ascii=False)))
        reasons = {"end_turn": "stop", "max_tokens": "length", "tool_use": "tool_calls", "refusal": "content_filter"}
        heard.finish = reasons[body["stop_reason"]]
        usage = body["usage"]
        heard.usage = usage["input_tokens"] + usage["cache_read_input_tokens"], usage["output_tokens"]
        return heard

    def cut(self, body: bytes) -> Heard:
        error = messages_grammar.check_failed(body)
        deltas = [one["delta"] for one in messages_grammar.frames(body) if one["type"] == "content_block_delta"]
        return Heard("".join(delta.get("text", "") for delta in deltas), failed=error["message"])

    def error(self, message: Message) -> str:
        body = json.loads(message.body)
        assert body["type"] == "error" and body["error"]["type"] and body["request_id"]
        return str(body["error"]["message"])


class SimpleFront:
    name, path = "simple_chat", "/chat"

    def ask(self, model: str, prompt: str, *, stream: bool = False, tools: bool = False) -> Body:
        return {"model": model, "messages": [{"role": "user", "content": prompt}], "temperature": 0.5, "max_tokens": 50}

    def read(self, message: Message, stream: bool) -> Heard:
        of_type(message, b"application/json")
        body = json.loads(message.body)
        assert body.keys() == {"id", "object", "created", "model", "backend", "choices"}
        assert body["object"] == "chat.completion" and body["id"].startswith("chat-")
        (choice,) = body["choices"]
        assert choice["message"]["role"] == "assistant"
        return Heard(choice["message"]["content"], finish=choice["finish_reason"], whole=True, answer=body)

    error = staticmethod(openai_error)


class DialogflowFront:
    name, path = "dialogflow", "/webhook"

    def ask(self, model: str, prompt: str, *, stream: bool = False, tools: bool = False) -> Body:
        query = {"queryText": prompt, "intent": {"displayName": "ask"}, "languageCode": "de"}
        return {"responseId": "r", "session": f"projects/p/agent/sessions/{model}", "queryResult": query}

    def read(self, message: Message, stream: bool) -> Heard:
        of_type(message, b"application/json")
        body = json.loads(message.body)
        assert body.keys() == {"fulfillmentText"}
        return Heard(body["fulfillmentText"], finish="stop", whole=True, answer=body)

    error = staticmethod(openai_error)


FULL: tuple[FullFront, ...] = (ChatFront(), ResponsesFront(), MessagesFront())
FRONTS: tuple[Front, ...] = (*FULL, SimpleFront(), DialogflowFront())
