"""Canonical events to a Chat Completions client: the chunks of a stream, or one completion merged from the same deltas.

Laws:
1. Every event becomes deltas first; a stream sends them, a plain response merges them, so that both agree.
2. All chunks have the same id, creation time and model. The first chunk of a choice has the role; only the last one has
   the finish reason. Usage comes in a chunk of its own, and only if the client requested it.
3. A failure in a stream is an error frame without [DONE]. Nothing follows [DONE] or a failure.
4. Tool calls are sent one after the other (tool_call_serializer.py). The call of a custom tool is a `custom` call with
   its raw input; a client of the old `functions` gets `function_call`.
5. The buffered part of a response is bounded: a larger response fails.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

from relayd import clock
from relayd.protocols import _json
from relayd.protocols._bounds import Allowance, ResponseTooLarge, TextBuffer
from relayd.protocols._openai_errors import error_object, render_error
from relayd.protocols.canon import (
    Begin,
    End,
    Event,
    Failure,
    Finish,
    ReasoningDelta,
    RefusalDelta,
    Request,
    TextDelta,
    ToolDelta,
    ToolStart,
    Usage,
)
from relayd.protocols.dialect import EncodedResponse, Renderer, RequestContext
from relayd.protocols.openai_chat.tool_call_serializer import ToolCallSerializer
from relayd.wire.json_steps import Steps

_TOKEN_CHARS = 1024  # the approximate size of a token's object with its alternatives

# A delta of a choice: its members, its logprobs, its finish reason.
Delta = tuple[int, dict[str, Any], list[Any] | None, str | None]


class _Choice:
    """The state of one choice; owned by the renderer."""

    __slots__ = ("begun", "calls", "finished")

    def __init__(self, custom: frozenset[str], allowance: Allowance) -> None:
        self.begun = self.finished = False
        self.calls = ToolCallSerializer(custom, allowance)


class ChatRenderer(Renderer):
    """Renders one response; owned by the exchange."""

    __slots__ = (
        "_allowance", "_begin", "_choices", "_custom", "_failure", "_frame_prefix", "_frame_suffix",
        "_includes_usage", "_is_ended", "_legacy", "_model", "_request_id", "_usage", "_whole",
    )  # fmt: skip

    def __init__(self, request: Request, context: RequestContext) -> None:
        self._model, self._includes_usage = request.model, request.include_usage
        self._request_id = context.request_id
        self._custom = frozenset(tool.name for tool in request.tools if tool.kind == "custom")
        self._legacy = "functions" in request.extra
        self._allowance = Allowance()
        self._choices: dict[int, _Choice] = {}
        self._begin: dict[str, Any] | None = None
        self._frame_prefix = self._frame_suffix = b""
        self._usage: Usage | None = None
        self._failure: Failure | None = None
        self._is_ended = False
        self._whole: dict[int, _WholeChoice] | None = None if request.stream else {}

    def render(self, events: list[Event]) -> bytes:
        """The frames of these events; b"" for a plain response."""
        frames: list[bytes] = []
        for event in events:
            if self._is_ended:
                break
            if isinstance(event, Usage):
                self._usage = event
            elif isinstance(event, Begin):
                self._start(event)
            elif isinstance(event, End):
                self._is_ended = True
                frames += self._end()
            elif isinstance(event, Failure):
                frames.append(self._failed(event))
            else:
                try:
                    for delta in self._deltas(event):
                        if self._whole is not None:
                            self._collect(delta)
                        else:
                            frames.append(self._frame(delta))
                except ResponseTooLarge as fault:
                    frames.append(self._failed(Failure(502, str(fault))))
        return b"" if self._whole is not None else b"".join(frames)

    def _failed(self, failure: Failure) -> bytes:
        self._is_ended = True
        self._failure = failure
        return b"data: " + _json.write({"error": error_object(failure)}) + b"\n\n"

    def _collect(self, delta: Delta) -> None:
        """Add a delta to a plain response. ToolCallSerializer charges the arguments of calls."""
        number, members, logprobs, _ = delta
        text = members.get("content") or members.get("reasoning_content") or members.get("refusal") or ""
        self._allowance.charge(len(text) + _TOKEN_CHARS * len(logprobs or ()))
        assert self._whole is not None
        self._whole.setdefault(number, _WholeChoice()).add(delta)

    def keepalive(self) -> bytes:
        """A keep-alive frame."""
        return b"" if self._whole is not None else b": keep-alive\n\n"

    def response_steps(self) -> Steps[EncodedResponse]:
        """The plain response."""
        if self._failure is not None:
            return render_error(self._failure, self._request_id)
        if not self._is_ended:
            return render_error(Failure(502, "The upstream's answer is not complete."), self._request_id)
        choices = sorted((self._whole or {}).items())
        body: dict[str, Any] = dict(self._start(Begin()))
        body["object"] = "chat.completion"
        body["choices"] = []
        for number, choice in choices:
            body["choices"].append(choice.value(number))
            yield
        if self._usage is not None:
            body["usage"] = usage_object(self._usage)
        return EncodedResponse(200, (yield from _json.write_sized_steps(body, self._allowance.charged)))

    # ---- frames

    def _start(self, event: Begin) -> dict[str, Any]:
        """The common members of all chunks, set by the first Begin."""
        if self._begin is None:
            identity = event.id if event.id.startswith("chatcmpl-") else f"chatcmpl-{event.id or secrets.token_hex(12)}"
            self._begin = {
                "id": identity,
                "object": "chat.completion.chunk",
                "created": event.created or int(clock.wall()),
                "model": event.model or self._model,
            }
            self._frame_prefix = b"data: " + _json.write(self._begin)[:-1] + b',"choices":[{"index":'
            # If a stream has a usage chunk, OpenAI writes a null in every other chunk.
            self._frame_suffix = b',"usage":null}\n\n' if self._includes_usage else b"}\n\n"
        return self._begin

    def _frame(self, delta: Delta) -> bytes:
        number, members, logprobs, finish = delta
        if not self._frame_prefix:
            self._start(Begin())
        reason = b"null" if finish is None else b'"' + finish.encode() + b'"'
        tokens = b"null" if logprobs is None else _json.write({"content": logprobs, "refusal": None})
        return (
            b'%s%d,"delta":%s,"logprobs":%s,"finish_reason":%s}]%s'
            % (self._frame_prefix, number, _json.write(members), tokens, reason, self._frame_suffix)
        )  # fmt: skip

    def _end(self) -> Iterator[bytes]:
        """The last chunks: a finish reason for each choice without one, the usage, and [DONE]."""
        for number in list(self._choices) or [0]:
            choice = self._choices.get(number)
            if choice is None or not choice.finished:
                for delta in self._deltas(Finish("stop", number)):
                    if self._whole is not None:
                        self._collect(delta)
                    else:
                        yield self._frame(delta)
        if self._includes_usage and self._usage is not None:
            chunk = {**self._start(Begin()), "choices": [], "usage": usage_object(self._usage)}
            yield b"data: " + _json.write(chunk) + b"\n\n"
        yield b"data: [DONE]\n\n"

    # ---- deltas

    def _deltas(
        self, event: TextDelta | RefusalDelta | ReasoningDelta | ToolStart | ToolDelta | Finish
    ) -> Iterator[Delta]:
        number = event.choice
        choice = self._choices.get(number)
        if choice is None:
            choice = self._choices[number] = _Choice(self._custom, self._allowance)
        if choice.finished:
            return
        if not choice.begun:
            choice.begun = True
            yield number, {"role": "assistant", "content": None if isinstance(event, ToolStart) else ""}, None, None
        if isinstance(event, TextDelta):
            tokens = None if event.logprobs is None else list(event.logprobs)
            if event.text or tokens:
                yield number, {"content": event.text}, tokens, None
        elif isinstance(event, ReasoningDelta):
            if event.text:
                yield number, {"reasoning_content": event.text}, None, None
        elif isinstance(event, ToolDelta):
            yield from self._calls(number, choice.calls.add(event))
        elif isinstance(event, ToolStart):
            yield from self._calls(number, choice.calls.start(event))
        elif isinstance(event, RefusalDelta):
            if event.text:
                yield number, {"refusal": event.text}, None, None
        else:
            yield from self._finish(event, choice)

    def _calls(self, number: int, entries: Iterator[dict[str, Any]]) -> Iterator[Delta]:
        for entry in entries:
            if not self._legacy:
                yield number, {"tool_calls": [entry]}, None, None
            elif entry["index"] == 0:  # the old form supports one call
                yield number, {"function_call": entry["function"]}, None, None

    def _finish(self, event: Finish, choice: _Choice) -> Iterator[Delta]:
        yield from self._calls(event.choice, choice.calls.close())
        choice.finished = True
        reason = "function_call" if self._legacy and event.reason == "tool_calls" else event.reason
        yield event.choice, {}, None, reason


class _WholeChoice:
    """One choice of a plain response, merged from its deltas; owned by the renderer."""

    __slots__ = ("_calls", "_finish", "_function", "_logprobs", "_refusal", "_text", "_thought")

    def __init__(self) -> None:
        self._text, self._thought, self._refusal = TextBuffer(), TextBuffer(), TextBuffer()
        self._calls: dict[int, tuple[dict[str, Any], str, str, TextBuffer]] = {}
        self._function: tuple[dict[str, Any], TextBuffer] | None = None
        self._logprobs: list[Any] | None = None
        self._finish: str | None = None

    def add(self, delta: Delta) -> None:
        """Merge one delta, as a client of a stream does."""
        _, members, logprobs, finish = delta
        if text := members.get("content"):
            self._text.add(text)
        if text := members.get("reasoning_content"):
            self._thought.add(text)
        if text := members.get("refusal"):
            self._refusal.add(text)
        for call in members.get("tool_calls", ()):
            state = self._calls.get(call["index"])
            if state is None:
                kind = "custom" if "custom" in call else "function"
                field = "input" if kind == "custom" else "arguments"
                state = self._calls[call["index"]] = call, kind, field, TextBuffer()
            state[3].add(call[state[1]][state[2]])
        function = members.get("function_call")
        if function is not None:
            if self._function is None:
                self._function = function, TextBuffer()
            self._function[1].add(function["arguments"])
        if logprobs is not None:
            self._logprobs = self._logprobs if self._logprobs is not None else []
            self._logprobs += logprobs
        self._finish = finish or self._finish

    def value(self, number: int) -> dict[str, Any]:
        """The choice in the form of a plain response."""
        has_calls = bool(self._calls or self._function)
        text = self._text.text()
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if not text and (has_calls or self._refusal) else text,
            "refusal": self._refusal.text() or None,
        }
        if self._thought:
            message["reasoning_content"] = self._thought.text()
        if self._calls:
            message["tool_calls"] = [
                {
                    **{key: value for key, value in call.items() if key != "index"},
                    kind: {**call[kind], field: pieces.text()},
                }
                for _, (call, kind, field, pieces) in sorted(self._calls.items())
            ]
        if self._function is not None:
            message["function_call"] = {**self._function[0], "arguments": self._function[1].text()}
        logprobs = None if self._logprobs is None else {"content": self._logprobs, "refusal": None}
        return {"index": number, "message": message, "logprobs": logprobs, "finish_reason": self._finish}


def usage_object(usage: Usage) -> dict[str, Any]:
    """Usage as Chat's object, always with the details."""
    prompt_details = {"cached_tokens": usage.cached_read}
    if usage.cache_creation:
        prompt_details["cache_write_tokens"] = usage.cache_creation
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": prompt_details,
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


def renderer(request: Request, context: RequestContext) -> ChatRenderer:
    """The renderer of one exchange."""
    return ChatRenderer(request, context)
