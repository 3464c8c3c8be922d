"""An endpoint's Chat Completions answer, stream or plain body, to canonical events: one fold for both.

Laws:
1. What decides between a stream and a plain body is the first byte of the answer, not what was asked for.
2. Deltas are out in the call that completed their frame; Finish, Usage and End wait for the end of the answer, because
   imitators send usage in any chunk and tool calls behind a finish reason.
3. An end without finish reason and without [DONE] is a cut stream, never an answer.
4. Nothing grows without a bound, and nothing that an endpoint sends raises.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from relayd.protocols import _json
from relayd.protocols._bounds import LONGEST_WORD, Allowance, TooMuch
from relayd.protocols._openai_errors import failure_of, status_in
from relayd.protocols.canon import (
    Begin,
    End,
    Event,
    Failure,
    Finish,
    RefusalDelta,
    Request,
    TextDelta,
    ThoughtDelta,
    Usage,
)
from relayd.protocols.dialect import Memory, Options
from relayd.protocols.openai_chat.calls import MOST_ARGUMENTS_CHARS, CallFold
from relayd.wire.sse import Event as Frame
from relayd.wire.sse import SseError, SseSplitter

MAX_LINE_BYTES = 16 * 1024 * 1024
MAX_PLAIN_BYTES = 64 * 1024 * 1024
MAX_CHOICES = 128

_FINISH = {
    "stop": "stop", "end_turn": "stop", "eos": "stop", "stop_sequence": "stop",
    "length": "length", "max_tokens": "length", "model_length": "length", "max_output_tokens": "length",
    "tool_calls": "tool_calls", "function_call": "tool_calls", "tool_use": "tool_calls",
    "content_filter": "content_filter", "safety": "content_filter", "refusal": "content_filter",
}  # fmt: skip
_BROKEN = {"error": 502, "abort": 502, "insufficient_system_resource": 503}


class _Choice:
    """What one choice has said so far; owned by the reader."""

    __slots__ = ("calls", "finish", "stop")

    def __init__(self, calls: CallFold) -> None:
        self.calls = calls
        self.finish: str | None = None
        self.stop: str | None = None

    def reason(self) -> str:
        """Tool calls are trusted over the finish reason; an answer that was cut short stays one."""
        reason = _FINISH.get(self.finish or "stop", "stop")
        if reason in ("stop", "tool_calls"):
            return "tool_calls" if self.calls.begun else "stop"
        return reason


class ChatReader:
    """Reads one answer; owned by the attempt."""

    __slots__ = (
        "_arguments", "_begun", "_choices", "_head", "_memory", "_mint", "_over", "_plain", "_size", "_splitter",
        "_usage",
    )  # fmt: skip

    def __init__(self, memory: Memory | None = None, mint: Callable[[], str] | None = None) -> None:
        self._memory = memory
        self._mint = mint or minted_call_id
        self._choices: dict[int, _Choice] = {}
        self._arguments = Allowance(MOST_ARGUMENTS_CHARS, "The upstream sent arguments that are too large.")
        self._usage: Usage | None = None
        self._begun = self._over = False
        self._head = b""  # what came before it was known whether this is a stream
        self._plain: list[bytes] | None = None
        self._size = 0
        self._splitter: SseSplitter | None = None

    # ---- bytes

    def feed(self, data: bytes) -> list[Event]:
        if self._over or not data:
            return []
        if self._splitter is not None:
            return self._stream(data)
        if self._plain is None:
            data = self._head + data
            first = data.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n")[:1]
            if not first or b"\xef\xbb\xbf".startswith(data):
                self._head = data[-4096:]
                return []
            self._head = b""
            if first not in (b"{", b"[", b"<"):
                self._splitter = SseSplitter(MAX_LINE_BYTES, 2 * MAX_LINE_BYTES)
                return self._stream(data)
            self._plain = []
        self._size += len(data)
        self._plain.append(data)
        if self._size > MAX_PLAIN_BYTES:
            return self._fail(502, "The upstream's answer is too large.")
        return []

    def end(self) -> list[Event]:
        if self._over:
            return []
        if self._splitter is not None:
            return self._end_of_stream(self._splitter)
        if self._plain is None:
            return self._fail(502, "The upstream sent an empty answer.")
        body = b"".join(self._plain)
        self._plain = []
        return self._whole(body)

    def _stream(self, data: bytes) -> list[Event]:
        assert self._splitter is not None
        try:
            frames = self._splitter.feed(data)
        except SseError:
            return self._fail(502, "The upstream sent a frame that is too large.")
        events: list[Event] = []
        for frame in frames:
            self._frame(frame, events)
            if self._over:
                break
        return events

    def _end_of_stream(self, splitter: SseSplitter) -> list[Event]:
        """The last frame may lack its blank line; a frame that is no JSON then is one that was cut."""
        events: list[Event] = []
        if splitter.rest.strip():
            try:
                frames = splitter.feed(b"\n\n")
            except SseError:
                frames = []
            for frame in frames:
                if not self._over:
                    self._frame(frame, events, last=True)
        if self._over:
            return events
        if self._choices and all(choice.finish is not None for choice in self._choices.values()):
            return events + self._finish()
        if not self._begun:
            return events + self._fail(502, "The upstream's answer is no chat completion.")
        return events + self._fail(502, "The upstream's stream ended before its answer was complete.", "upstream_cut")

    def _whole(self, body: bytes) -> list[Event]:
        try:
            value = _json.parse(body.removeprefix(b"\xef\xbb\xbf"))
        except ValueError:
            return self._fail(502, "The upstream's answer is not JSON, or not all of it.")
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, dict) and not _is_error(value) and _json.a_list(value.get("choices")):
            events: list[Event] = []
            self._chunk(value, events, whole=True)
            return events if self._over else events + self._finish()
        failure = failure_of(value, status_in(value, 502)) if _is_error(value) else None
        if failure is not None:
            return self._failed(failure)
        return self._fail(502, "The upstream's answer is no chat completion.")

    # ---- frames

    def _frame(self, frame: Frame, events: list[Event], last: bool = False) -> None:
        data = frame.data
        if data is None:
            stray = frame.raw.strip()
            if not stray.startswith(b'{"'):
                return
            data = stray  # an error that some gateway wrote between the frames, without `data:`
        if data == b"[DONE]" or data.strip() == b"[DONE]":
            events += self._finish()
            return
        if not data:
            return
        try:
            chunk = _json.parse(data)
        except ValueError:
            if frame.event == b"error":
                text = data[:2000].decode("utf-8", "replace")
                events += self._failed(failure_of(text, 502) or Failure(502, "The upstream reported an error."))
            elif last:
                events += self._fail(502, "The upstream's stream ended in the middle of a frame.", "upstream_cut")
            else:
                events += self._fail(502, "The upstream sent a frame that is not JSON.")
            return
        if frame.event == b"error" or _is_error(chunk):
            failure = failure_of(chunk, status_in(chunk, 502))
            events += self._failed(failure or Failure(502, "The upstream reported an error."))
        elif isinstance(chunk, dict):
            self._chunk(chunk, events)

    def _chunk(self, chunk: dict[str, Any], events: list[Event], whole: bool = False) -> None:
        choices = chunk.get("choices")
        usage = chunk.get("usage") or _json.an_object(chunk.get("x_groq")).get("usage")
        if usage.__class__ is dict:
            self._usage = read_usage(usage)
        if not self._begun and (choices or usage):  # Azure's first chunk has neither, and no id
            self._begun = True
            identity, model = (_json.a_text(chunk.get(key))[:LONGEST_WORD] for key in ("id", "model"))
            events.append(Begin(identity, model, _json.a_count(chunk.get("created"))))
        if choices.__class__ is not list:
            return
        for place, item in enumerate(choices):
            if item.__class__ is dict:
                self._choice(item, place, events, whole)
                if self._over:
                    return

    def _choice(self, item: dict[str, Any], place: int, events: list[Event], whole: bool) -> None:
        number = item.get("index")
        if number.__class__ is not int or number < 0:
            number = place
        choice = self._choices.get(number)
        if choice is None:
            if len(self._choices) >= MAX_CHOICES:
                events += self._fail(502, "The upstream sent too many choices.")
                return
            choice = self._choices[number] = _Choice(CallFold(number, self._mint, self._memory, self._arguments))
        delta = item.get("delta")
        if delta.__class__ is not dict:
            delta = item.get("message")
        if delta.__class__ is dict:
            try:
                _delta(delta, item.get("logprobs"), number, choice, events, whole)
            except TooMuch as fault:
                events += self._fail(502, str(fault))
                return
        finish = item.get("finish_reason")
        if finish.__class__ is str and finish:
            if finish in _BROKEN:
                events += self._fail(_BROKEN[finish], f"The upstream stopped its answer: {finish}.", "")
                return
            choice.finish = finish
            met = item.get("stop_reason") or item.get("matched_stop")
            if isinstance(met, str) and finish == "stop":
                choice.stop = met[:LONGEST_WORD]
        usage = item.get("usage")
        if usage.__class__ is dict and usage:
            self._usage = read_usage(usage)

    # ---- ends

    def _finish(self) -> list[Event]:
        self._over = True
        events: list[Event] = []
        if not self._begun:
            self._begun = True
            events.append(Begin())
        for number, choice in sorted(self._choices.items()):
            try:
                choice.calls.close(events)
            except TooMuch as fault:
                return events + self._failed(Failure(502, str(fault)))
            events.append(Finish(choice.reason(), number, choice.stop))
        if not self._choices:
            events.append(Finish("stop"))
        if self._usage is not None:
            events.append(self._usage)
        events.append(End())
        return events

    def _fail(self, status: int, message: str, code: str = "upstream_malformed") -> list[Event]:
        return self._failed(Failure(status, message, code))

    def _failed(self, failure: Failure) -> list[Event]:
        """What was used up to here was used: it goes before the failure."""
        self._over = True
        self._plain = None
        return [failure] if self._usage is None else [self._usage, failure]


def _delta(
    delta: dict[str, Any], logprobs: Any, number: int, choice: _Choice, events: list[Event], whole: bool
) -> None:
    thought = delta.get("reasoning_content") or delta.get("reasoning")
    if thought.__class__ is str and thought:
        events.append(ThoughtDelta(thought, number))
    content = delta.get("content")
    tokens = _json.a_list(logprobs.get("content")) if logprobs.__class__ is dict else None
    if tokens and not _json.is_deeper(tokens, 8):
        events.append(TextDelta(_json.a_text(content), number, tuple(tokens)))
    elif content.__class__ is str:
        if content:
            events.append(TextDelta(content, number))
    elif content.__class__ is list:
        _parts(content, number, events)
    refusal = delta.get("refusal")
    if refusal.__class__ is str and refusal:
        events.append(RefusalDelta(refusal, number))
    fragments = delta.get("tool_calls")
    if fragments.__class__ is list:
        for place, fragment in enumerate(fragments):
            if fragment.__class__ is dict:
                choice.calls.add(fragment, place, events, whole)
    legacy = delta.get("function_call")
    if legacy.__class__ is dict:
        choice.calls.add({"function": legacy}, -1, events, whole)


def _parts(parts: list[Any], number: int, events: list[Event]) -> None:
    """Content in parts, as reasoning models of one maker send it: text, and thinking that holds parts again."""
    for part in parts:
        kind = _json.an_object(part).get("type")
        if kind == "text" and _json.a_text(part.get("text")):
            events.append(TextDelta(part["text"], number))
        elif kind == "thinking":
            inner = part.get("thinking")
            pieces = [_json.a_text(_json.an_object(one).get("text")) for one in _json.a_list(inner)]
            if text := _json.a_text(inner) or "".join(pieces):
                events.append(ThoughtDelta(text, number))


def _is_error(chunk: Any) -> bool:
    if isinstance(chunk, list):
        chunk = chunk[0] if chunk else None
    return isinstance(chunk, dict) and bool(chunk.get("error") or chunk.get("object") == "error")


def read_usage(usage: dict[str, Any]) -> Usage:
    """Usage in Chat's words, and in those of its imitators."""
    count = _json.a_count
    before = _json.an_object(usage.get("prompt_tokens_details"))
    after = _json.an_object(usage.get("completion_tokens_details"))
    return Usage(
        count(usage.get("prompt_tokens")),
        count(usage.get("completion_tokens")),
        count(before.get("cached_tokens"))
        or count(usage.get("prompt_cache_hit_tokens"))
        or count(usage.get("cached_tokens")),
        count(before.get("cache_write_tokens")) or count(before.get("cache_creation_tokens")),
        count(after.get("reasoning_tokens")) or count(usage.get("reasoning_tokens")),
    )


def minted_call_id() -> str:
    """An id for a call whose endpoint gave none."""
    return f"call_{secrets.token_hex(12)}"


def reader(request: Request, options: Options, memory: Memory) -> ChatReader:
    """The reader of one attempt."""
    return ChatReader(memory)
