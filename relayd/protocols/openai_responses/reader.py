"""A Responses endpoint's answer, stream or plain body, to canonical events: one fold for both.

Laws:
1. What decides between a stream and a plain body is the first byte of the answer, not what was asked for.
2. The closing events are believed where deltas were missing: what an item said at its end and had not said before is
   given then, and nothing is given twice.
3. Only a terminal event ends an answer well; an end without one is a cut stream.
4. Nothing grows without a bound, and nothing that an endpoint sends raises.
"""

from __future__ import annotations

from typing import Any

from relayd.protocols import _json
from relayd.protocols._bounds import LONGEST_WORD, MOST_CALLS, MOST_ITEMS
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
    ToolDelta,
    ToolStart,
    Usage,
)
from relayd.protocols.dialect import Memory, Options
from relayd.protocols.openai_responses.state import new_id
from relayd.protocols.openai_responses.thoughts import pack_native
from relayd.wire.body import MAX_DEPTH
from relayd.wire.sse import Event as Frame
from relayd.wire.sse import SseError, SseSplitter

MAX_LINE_BYTES = 16 * 1024 * 1024
MAX_PLAIN_BYTES = 64 * 1024 * 1024
_CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
_THOUGHTS = ("response.reasoning_summary_text.delta", "response.reasoning_text.delta", "response.reasoning.delta")
_TERMINAL = ("response.completed", "response.incomplete", "response.failed", "response.cancelled")


class _Said:
    """What an output item has said so far; owned by the reader."""

    __slots__ = ("call", "channel", "custom", "refusal", "size", "summary", "text")

    def __init__(self) -> None:
        self.call = -1  # the canonical number of a call that was begun
        self.custom = False
        self.channel = ""  # of the thoughts: the first one counts
        self.summary = 0
        self.size = 0  # characters of arguments, or of thoughts
        self.text: dict[int, int] = {}  # characters by content_index
        self.refusal: dict[int, int] = {}


class ResponsesReader:
    """Reads one answer; owned by the attempt."""

    def __init__(self) -> None:
        self._head = b""
        self._plain: list[bytes] | None = None
        self._size_bytes = 0
        self._splitter: SseSplitter | None = None
        self._begun = self._over = False
        self._said: dict[int, _Said] = {}
        self._finished: set[int] = set()
        self._parts = 0
        self._calls = 0
        self._events: list[Event] = []

    def feed(self, data: bytes) -> list[Event]:
        """See dialect.Reader."""
        if self._over or not data:
            return []
        if self._splitter is None and self._plain is None:
            data = self._head + data
            first = data.lstrip(b" \t\r\n")[:1]
            if not first:
                self._head = data[-4096:]
                return []
            if first in b"{[<":
                self._plain = []
            else:
                self._splitter = SseSplitter(MAX_LINE_BYTES, 2 * MAX_LINE_BYTES)
        if self._splitter is not None:
            try:
                frames = self._splitter.feed(data)
            except SseError:
                return self._fail("The upstream sent a frame that is too large.")
            for frame in frames:
                self._frame(frame)
            return self._taken()
        assert self._plain is not None
        self._plain.append(data)
        self._size_bytes += len(data)
        if self._size_bytes > MAX_PLAIN_BYTES:
            return self._fail("The upstream's answer is too large.")
        return []

    def end(self) -> list[Event]:
        """See dialect.Reader."""
        if self._over:
            return []
        if self._plain is not None:
            return self._whole(b"".join(self._plain))
        if self._splitter is not None:
            try:
                frames = self._splitter.feed(b"\n\n") if self._splitter.rest.strip() else []
            except SseError:
                frames = []
            for frame in frames:
                self._frame(frame)
            events = self._taken()
            if events and isinstance(events[-1], End | Failure):
                return events
            return events + self._fail("The upstream's stream ended before its answer was complete.", "upstream_cut")
        return self._fail("The upstream sent an empty answer.")

    def _taken(self) -> list[Event]:
        events, self._events = self._events, []
        # What a whole item said behind the place where the answer was given up is not said.
        last = next((place for place, event in enumerate(events) if isinstance(event, Failure)), len(events))
        return events[: last + 1]

    def _fail(self, message: str, code: str = "upstream_malformed") -> list[Event]:
        self._failed(Failure(502, message, code))
        return self._taken()

    def _failed(self, failure: Failure) -> None:
        if self._over:
            return
        self._over = True
        self._events.append(failure)

    def _whole(self, body: bytes) -> list[Event]:
        try:
            value = _json.parse(body)
        except ValueError:
            return self._fail("The upstream's answer is not JSON, or not all of it.")
        response = _json.an_object(value)
        if response.get("error") or not isinstance(response.get("output"), list):
            failure = failure_of(value, status_in(value, 502)) if response.get("error") else None
            self._failed(failure or Failure(502, "The upstream's answer is no response.", "upstream_malformed"))
        else:
            self._begin(response)
            self._terminal(response)
        return self._taken()

    # ---- frames

    def _frame(self, frame: Frame) -> None:
        if self._over or not frame.data or frame.data.strip() == b"[DONE]":
            return
        try:
            event = _json.an_object(_json.parse(frame.data))
        except ValueError:
            self._failed(Failure(502, "The upstream sent a frame that is not JSON.", "upstream_malformed"))
            return
        kind = _json.a_text(event.get("type"))
        response = _json.an_object(event.get("response"))
        if kind == "error" or (not kind and event.get("error")):
            described = event if event.get("error") else {"error": event}
            self._failed(failure_of(described, status_in(described, 502)) or _unsaid())
        elif kind in _TERMINAL:
            self._begin(response)
            self._terminal(response)
        elif response:
            self._begin(response)
        elif kind.startswith("response."):
            self._item_event(kind, event)

    def _begin(self, response: dict[str, Any]) -> None:
        if not self._begun:
            self._begun = True
            identity, model = (_json.a_text(response.get(key))[:LONGEST_WORD] for key in ("id", "model"))
            self._events.append(Begin(identity, model, _json.a_count(response.get("created_at"))))

    def _item_event(self, kind: str, event: dict[str, Any]) -> None:
        place = _json.a_count(event.get("output_index"))
        delta = _json.a_text(event.get("delta"))
        if place in self._finished:
            return
        if place not in self._said and len(self._said) + len(self._finished) >= MOST_ITEMS:
            self._failed(_TOO_MANY)
            return
        said = self._said.setdefault(place, _Said())
        if kind == "response.output_text.delta":
            self._text(said, _json.a_count(event.get("content_index")), delta, event.get("logprobs"))
        elif kind == "response.refusal.delta":
            self._refusal(said, _json.a_count(event.get("content_index")), delta)
        elif kind in _THOUGHTS:
            if said.channel in ("", kind):
                said.channel = kind
                self._thought(said, _json.a_count(event.get("summary_index")), delta)
        elif kind == "response.output_item.added":
            self._call(said, _json.an_object(event.get("item")))
        elif kind in ("response.function_call_arguments.delta", "response.custom_tool_call_input.delta"):
            self._arguments(said, delta)
        elif kind == "response.output_item.done":
            self._item(place, _json.an_object(event.get("item")))

    def _text(self, said: _Said, part: int, text: str, logprobs: Any = None) -> None:
        if text and self._counted(said.text, part):
            said.text[part] = said.text.get(part, 0) + len(text)
            tokens = () if _json.is_deeper(logprobs, 8) else tuple(_json.a_list(logprobs))
            self._events.append(TextDelta(text, logprobs=tokens or None))

    def _counted(self, parts: dict[int, int], part: int) -> bool:
        """Whether there may be this part, where it is a new one."""
        if part not in parts:
            self._parts += 1
            if self._parts > MOST_ITEMS:
                self._failed(_TOO_MANY)
                return False
        return True

    def _refusal(self, said: _Said, part: int, text: str) -> None:
        if text and self._counted(said.refusal, part):
            said.refusal[part] = said.refusal.get(part, 0) + len(text)
            self._events.append(RefusalDelta(text))

    def _thought(self, said: _Said, part: int, text: str) -> None:
        if text:
            if part > said.summary:
                text = "\n\n" + text if said.size else text
                said.summary = part
            said.size += len(text)
            self._events.append(ThoughtDelta(text))

    def _call(self, said: _Said, item: dict[str, Any]) -> None:
        name = _json.a_text(item.get("name"))
        if item.get("type") not in _CALLS or said.call >= 0 or not name:
            return
        if self._calls >= MOST_CALLS or len(name) > LONGEST_WORD:
            self._failed(_TOO_MANY)
            return
        said.call, said.custom = self._calls, item["type"] == "custom_tool_call"
        self._calls += 1
        identity = _json.a_text(item.get("call_id"))[:LONGEST_WORD] or new_id("call")
        self._events.append(ToolStart(said.call, identity, name))
        if said.custom:
            self._events.append(ToolDelta(said.call, '{"input":"'))

    def _arguments(self, said: _Said, text: str) -> None:
        if text and said.call >= 0:
            said.size += len(text)
            self._events.append(ToolDelta(said.call, _json.write_text(text)[1:-1] if said.custom else text))

    def _item(self, place: int, item: dict[str, Any]) -> None:
        """An item is complete: what it has not said yet is said now."""
        if place in self._finished or self._over:
            return
        if place not in self._said and len(self._said) + len(self._finished) >= MOST_ITEMS:
            self._failed(_TOO_MANY)
            return
        self._finished.add(place)
        said = self._said.pop(place, None) or _Said()
        kind = item.get("type")
        if kind == "message":
            for number, entry in enumerate(_json.a_list(item.get("content"))):
                part = _json.an_object(entry)
                if part.get("type") == "refusal":
                    self._refusal(said, number, _json.a_text(part.get("refusal"))[said.refusal.get(number, 0) :])
                else:
                    text = _json.a_text(part.get("text"))[said.text.get(number, 0) :]
                    self._text(said, number, text, part.get("logprobs"))
        elif kind == "reasoning":
            self._whole_thought(said, item)
        elif kind in _CALLS:
            if _json.is_deeper(item.get(_CALLS[kind]), MAX_DEPTH):
                self._failed(Failure(502, "The upstream sent arguments that are nested too deeply."))
                return
            self._call(said, item)
            self._arguments(said, _written(item.get(_CALLS[kind]))[said.size :])
            if said.custom and said.call >= 0:
                self._events.append(ToolDelta(said.call, '"}'))

    def _whole_thought(self, said: _Said, item: dict[str, Any]) -> None:
        if not said.size:
            entries = _json.a_list(item.get("summary")) or _json.a_list(item.get("content"))
            for number, entry in enumerate(entries):
                self._thought(said, number, _json.a_text(_json.an_object(entry).get("text")))
        encrypted = _json.a_text(item.get("encrypted_content"))
        if encrypted:
            signature = pack_native(_json.a_text(item.get("id")) or new_id("rs"), encrypted)
            self._events.append(ThoughtDelta(signature=signature))

    def _terminal(self, response: dict[str, Any]) -> None:
        status, usage = response.get("status"), response.get("usage")
        if isinstance(usage, dict):
            self._events.append(_usage(usage))
        if status in ("failed", "cancelled") or response.get("error"):
            failure = failure_of(response, status_in(response, 502)) if response.get("error") else None
            self._failed(failure or _unsaid())
            return
        for place, item in enumerate(_json.a_list(response.get("output"))):
            self._item(place, _json.an_object(item))
            if self._over:
                return
        reason = _json.an_object(response.get("incomplete_details")).get("reason")
        if status == "incomplete":
            finish = "content_filter" if reason == "content_filter" else "length"
        else:
            finish = "tool_calls" if self._calls else "stop"
        self._events += [Finish(finish), End()]
        self._over = True


def reader(request: Request, options: Options, memory: Memory) -> ResponsesReader:
    """The reader for an endpoint's answer."""
    return ResponsesReader()


_TOO_MANY = Failure(502, "The upstream's answer has too many items.")


def _unsaid() -> Failure:
    return Failure(502, "The upstream reported a failure without saying why.")


def _written(value: Any) -> str:
    return _json.write_text(value) if isinstance(value, dict) else _json.a_text(value)


def _usage(usage: dict[str, Any]) -> Usage:
    read = _json.an_object(usage.get("input_tokens_details"))
    count = _json.a_count
    return Usage(
        count(usage.get("input_tokens")),
        count(usage.get("output_tokens")),
        count(read.get("cached_tokens")),
        count(read.get("cache_write_tokens")),
        count(_json.an_object(usage.get("output_tokens_details")).get("reasoning_tokens")),
    )
