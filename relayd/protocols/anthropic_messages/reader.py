"""A Messages endpoint's answer to events, from a stream or from a plain message.

Laws:
1. Only message_stop ends a stream well. An `error` event, a cut, or what is no JSON is a Failure.
2. Blocks of server tools, citations and unknown events are read past; so are deltas of another type than their block.
3. Usage is cumulative: a member that comes again replaces the one before it.
4. What is kept of an answer is bounded: the thoughts of one loop, the ids of its blocks, one unfinished frame.
"""

from __future__ import annotations

from typing import Any

from relayd.protocols import _json
from relayd.protocols._bounds import LONGEST_WORD, MOST_CALLS, Allowance, TooMuch
from relayd.protocols.anthropic_messages import errors, remembered
from relayd.protocols.canon import (
    Begin,
    End,
    Event,
    Failure,
    Finish,
    Reasoning,
    Request,
    TextDelta,
    ThoughtDelta,
    ToolDelta,
    ToolStart,
    Usage,
)
from relayd.protocols.dialect import Memory, Options
from relayd.wire.body import MAX_DEPTH
from relayd.wire.sse import SseError, SseSplitter

MOST_PLAIN_BYTES = 64 * 1024 * 1024
MOST_BLOCKS = 4096
MOST_INPUT_CHARS = 16 * 1024 * 1024  # of whole inputs, where blocks begin with them

_CUT = Failure(502, "The upstream's answer was cut.", code="upstream_cut")
_NO_JSON = Failure(502, "The upstream's answer is not valid JSON.", code="upstream_malformed")
_NO_MESSAGE = Failure(502, "The upstream's answer is no message.", code="upstream_malformed")
_TOO_LARGE = Failure(502, "The upstream's answer is too large.", code="upstream_malformed")

_FINISH = {
    "end_turn": "stop", "stop_sequence": "stop", "pause_turn": "stop", "max_tokens": "length",
    "model_context_window_exceeded": "length", "tool_use": "tool_calls", "refusal": "content_filter",
}  # fmt: skip
_BLANK = b" \t\r\n"


def reader(request: Request, options: Options, memory: Memory) -> Reader:
    """The reader of the answer to what write_request gave for this request."""
    return Reader(memory)


class Reader:
    """Reads one answer; owned by its attempt. The first byte tells a plain message from a stream."""

    def __init__(self, memory: Memory) -> None:
        self._message = _Message(memory)
        self._splitter: SseSplitter | None = None
        self._plain = bytearray()
        self._is_plain = False

    def feed(self, data: bytes) -> list[Event]:
        """The events that these bytes complete."""
        if self._message.over:
            return []
        if self._splitter is None:
            self._plain += data
            if not self._is_plain:
                first = self._plain.lstrip(_BLANK)[:1]
                if not first:
                    self._plain.clear()
                    return []
                self._is_plain = first in b"{[<"
            if self._is_plain:
                return self._message.fail(_TOO_LARGE) if len(self._plain) > MOST_PLAIN_BYTES else []
            data, self._plain = bytes(self._plain), bytearray()
            self._splitter = SseSplitter(max_line=4 * 1024 * 1024, max_event=8 * 1024 * 1024)
        return self._frames(self._splitter, data)

    def _frames(self, splitter: SseSplitter, data: bytes) -> list[Event]:
        try:
            frames = splitter.feed(data)
        except SseError:
            return self._message.fail(_TOO_LARGE)
        events: list[Event] = []
        for frame in frames:
            if frame.data is None or frame.data == b"[DONE]":
                continue
            try:
                value = _json.parse(frame.data)
            except ValueError:
                events += self._message.fail(_NO_JSON)
                break
            events += self._message.take(_json.an_object(value))
        return events

    def end(self) -> list[Event]:
        """The endpoint's bytes have ended: the rest of the events."""
        if self._message.over:
            return []
        if self._splitter is None:
            return self._whole()
        events = self._frames(self._splitter, b"\n\n") if self._splitter.rest else []
        return events + self._message.fail(_CUT)

    def _whole(self) -> list[Event]:
        if not self._plain.strip():
            return self._message.fail(_CUT)
        try:
            value = _json.parse(bytes(self._plain))
        except ValueError:
            return self._message.fail(_NO_JSON)
        return self._message.take_whole(_json.an_object(value))


class _Message:
    """The state of one answer; owned by its reader. Each stream event has a method of its name."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.over = False
        self._began = False
        self._blocks: dict[Any, _Block] = {}  # the open ones
        self._count = 0
        self._calls = 0
        self._inputs = Allowance(MOST_INPUT_CHARS)
        self._thoughts: list[Reasoning] = []  # since the last call
        self._thought_chars = 0
        self._usage: dict[str, int] = {}
        self._stop: tuple[str, str | None] = ("", None)

    def fail(self, failure: Failure) -> list[Event]:
        """The end of an answer that is not well; nothing, if it has ended before."""
        if self.over:
            return []
        self.over = True
        return [failure]

    def take(self, value: dict[str, Any]) -> list[Event]:
        """One event of the stream."""
        if self.over:
            return []
        kind = value.get("type")
        if kind == "content_block_delta":
            return self._delta(value)
        if kind == "content_block_start":
            return self._start(value.get("index"), _json.an_object(value.get("content_block")))
        if kind == "content_block_stop":
            return self._close(value.get("index"))
        if kind == "message_start":
            return self._begin(_json.an_object(value.get("message")))
        if kind == "message_delta":
            delta = _json.an_object(value.get("delta"))
            self._stopped(delta)
            return self._used(value.get("usage"))
        if kind == "message_stop":
            return self._end()
        if kind == "error" or value.get("error"):
            return self.fail(errors.failure_in_stream(value))
        return []

    def take_whole(self, value: dict[str, Any]) -> list[Event]:
        """A plain message, by the same steps."""
        if value.get("type") == "error" or value.get("error"):
            return self.fail(errors.failure_in_stream(value))
        if not isinstance(value.get("content"), list):
            return self.fail(_NO_MESSAGE)
        events = self._begin(value)
        for index, one in enumerate(value["content"]):
            events += self._start(index, _json.an_object(one))
            if self.over:
                return events
            events += self._close(index)
        self._stopped(value)
        return events + self._end()

    # ---- the message

    def _begin(self, message: dict[str, Any]) -> list[Event]:
        if self._began:
            return []
        self._began = True
        begin = Begin(_json.a_text(message.get("id"))[:LONGEST_WORD], _json.a_text(message.get("model"))[:LONGEST_WORD])
        return [begin, *self._used(message.get("usage"))]

    def _used(self, usage: Any) -> list[Event]:
        known = len(self._usage)
        for key, value in _json.an_object(usage).items():
            if key.endswith("_tokens") and value.__class__ is int and (key in self._usage or known < 16):
                self._usage[key] = _json.a_count(value)
            elif key == "output_tokens_details":
                self._usage["reasoning"] = _json.a_count(_json.an_object(value).get("thinking_tokens"))
        if not self._usage:
            return []
        counts = self._usage.get
        cached, written = counts("cache_read_input_tokens", 0), counts("cache_creation_input_tokens", 0)
        total = counts("input_tokens", 0) + cached + written
        return [Usage(total, counts("output_tokens", 0), cached, written, counts("reasoning", 0))]

    def _stopped(self, delta: dict[str, Any]) -> None:
        reason = _json.a_text(delta.get("stop_reason"))
        if reason:
            self._stop = reason[:LONGEST_WORD], _json.a_text(delta.get("stop_sequence"))[:LONGEST_WORD] or None

    def _end(self) -> list[Event]:
        if not self._began:
            return self.fail(_NO_MESSAGE)
        events: list[Event] = []
        for index in list(self._blocks):
            events += self._close(index)
        self.over = True
        reason, sequence = self._stop
        finish = _FINISH.get(reason, "stop")
        if self._calls and finish == "stop":
            finish = "tool_calls"
        elif not self._calls and finish == "tool_calls":
            finish = "stop"
        return [*events, Finish(finish, stop=sequence if reason == "stop_sequence" else None), End()]

    # ---- its blocks

    def _start(self, index: Any, block: dict[str, Any]) -> list[Event]:
        if index.__class__ is not int:
            return []
        events: list[Event] = [] if self._began else self._begin({})
        self._count += 1
        if self._count > MOST_BLOCKS:
            return events + self.fail(_TOO_LARGE)
        kind = _json.a_text(block.get("type"))
        events += self._close(index)
        opened = self._blocks[index] = _Block(kind)
        if kind == "text":
            events += self._text(_json.a_text(block.get("text")))
        elif kind == "thinking":
            events += self._thought(opened, _json.a_text(block.get("thinking")))
            opened.signature = _json.a_text(block.get("signature"))
        elif kind == "redacted_thinking":
            data = _json.a_text(block.get("data"))
            self._think(Reasoning("", redacted=data), len(data))
            events.append(ThoughtDelta(redacted=data))
        elif kind == "tool_use":
            events += self._call(opened, block)
        return events

    def _call(self, opened: _Block, block: dict[str, Any]) -> list[Event]:
        identity, name = _json.a_text(block.get("id")), _json.a_text(block.get("name"))
        if not identity or not name:
            return self.fail(Failure(502, "The upstream's answer has a tool call without a name or an id."))
        if len(identity) > LONGEST_WORD or len(name) > LONGEST_WORD or self._calls >= MOST_CALLS:
            return self.fail(_TOO_LARGE)
        given = _json.an_object(block.get("input"))
        if _json.is_deeper(given, MAX_DEPTH):
            return self.fail(_TOO_LARGE)
        opened.call, opened.input = self._calls, _json.write_text(given)
        try:
            self._inputs.take(len(opened.input))
        except TooMuch:
            return self.fail(_TOO_LARGE)
        self._calls += 1
        if self._thought_chars <= remembered.LARGEST_CHARS:
            remembered.keep(self._memory, identity, self._thoughts)
        self._thoughts, self._thought_chars = [], 0
        return [ToolStart(opened.call, identity, name)]

    def _delta(self, value: dict[str, Any]) -> list[Event]:
        index = value.get("index")
        block = self._blocks.get(index) if index.__class__ is int else None
        delta = value.get("delta")
        if block is None or not isinstance(delta, dict):
            return []
        kind, of = delta.get("type"), block.kind
        if kind == "text_delta" and of == "text":
            return self._text(_json.a_text(delta.get("text")))
        if kind == "input_json_delta" and of == "tool_use":
            piece = _json.a_text(delta.get("partial_json"))
            block.has_pieces = block.has_pieces or bool(piece)
            return [ToolDelta(block.call, piece)] if piece else []
        if kind == "thinking_delta" and of == "thinking":
            return self._thought(block, _json.a_text(delta.get("thinking")))
        if kind == "signature_delta" and of == "thinking" and len(block.signature) < remembered.LARGEST_CHARS:
            block.signature += _json.a_text(delta.get("signature"))
        return []

    def _text(self, text: str) -> list[Event]:
        return [TextDelta(text)] if text else []

    def _thought(self, block: _Block, text: str) -> list[Event]:
        if not text:
            return []
        if self._thought_chars <= remembered.LARGEST_CHARS:  # beyond that they are not kept
            self._thought_chars += len(text)
            block.pieces.append(text)
        return [ThoughtDelta(text)]

    def _think(self, thought: Reasoning, more_chars: int) -> None:
        """A thought is complete: it is kept for the call that may follow."""
        self._thought_chars += more_chars
        if self._thought_chars <= remembered.LARGEST_CHARS:
            self._thoughts.append(thought)

    def _close(self, index: Any) -> list[Event]:
        block = self._blocks.pop(index, None) if index.__class__ is int else None
        if block is None:
            return []
        if block.kind == "thinking" and block.signature:
            self._think(Reasoning("".join(block.pieces), signature=block.signature), len(block.signature))
            return [ThoughtDelta(signature=block.signature)]
        if block.kind == "tool_use" and not block.has_pieces:
            return [ToolDelta(block.call, block.input)]
        return []


class _Block:
    """An open block; owned by its message."""

    __slots__ = ("call", "has_pieces", "input", "kind", "pieces", "signature")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.call = 0
        self.input = "{}"  # as the block's begin has it
        self.has_pieces = False
        self.pieces: list[str] = []
        self.signature = ""
