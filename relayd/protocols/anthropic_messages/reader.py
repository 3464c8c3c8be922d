"""A Messages endpoint's response to events, from a stream or from a plain message.

Laws (in addition to those of _response_reader.py):
1. Only message_stop ends a stream successfully. An `error` event, truncation, invalid JSON or a stream without a block
   and without message_delta is a Failure.
2. Blocks of server tools, citations and unknown events are ignored; so are deltas of a type other than their block's.
3. Usage is cumulative: a repeated member replaces the one before it.
4. The buffered part of a response is bounded: the reasoning before one call, the ids and arguments of calls, one
   unfinished frame.
"""

from __future__ import annotations

import secrets
from typing import Any

from relayd.protocols import _json
from relayd.protocols._bounds import MAX_ID_CHARS, MOST_CALLS, Allowance, ResponseTooLarge
from relayd.protocols._call_arguments import CallArguments
from relayd.protocols._capabilities import MESSAGES
from relayd.protocols._openai_errors import unnamed_failure_of
from relayd.protocols._response_reader import CUT, MIB, TOO_LARGE, Framing, ResponseReader
from relayd.protocols._tool_arguments import written_steps
from relayd.protocols._turns import call_ids
from relayd.protocols.anthropic_messages.errors import failure_in_stream
from relayd.protocols.anthropic_messages.thinking_memory import LARGEST_CHARS, store
from relayd.protocols.anthropic_messages.usage import merge_usage, read_usage
from relayd.protocols.canon import (
    Begin,
    End,
    Event,
    Failure,
    Finish,
    Reasoning,
    ReasoningDelta,
    Request,
    TextDelta,
    ToolDelta,
    ToolStart,
)
from relayd.protocols.dialect import Memory, Options
from relayd.wire.json_scanner import MAX_DEPTH
from relayd.wire.json_steps import Steps

FRAMING = Framing(line_bytes=4 * MIB, frame_bytes=8 * MIB)
MOST_BLOCKS = 4096
STEP_BLOCKS = 256
MOST_INPUT_CHARS = 16 * 1024 * 1024  # of the inputs of all calls

_NO_MESSAGE = Failure(502, "The upstream's answer is not a message.", code="upstream_malformed")

_NO_CALL = Failure(502, "The upstream sent arguments of a call that it had not begun.", code="upstream_malformed")
_FINISH = {
    "": "stop", "stop": "stop", "length": "length", "tool_calls": "tool_calls", "content_filter": "content_filter",
    "end_turn": "stop", "stop_sequence": "stop", "pause_turn": "stop", "max_tokens": "length",
    "model_context_window_exceeded": "length", "tool_use": "tool_calls", "refusal": "content_filter",
}  # fmt: skip


def reader(request: Request, options: Options, memory: Memory, content_encoding: str = "") -> ResponseReader:
    """See dialect.Dialect."""
    decoder = MessagesDecoder(memory, call_ids(request.messages))
    return ResponseReader(decoder, stream=request.stream, content_encoding=content_encoding,
                        framing=FRAMING, names=MESSAGES.original_names(request),
                        stops=MESSAGES.split_stops(request)[1])  # fmt: skip


class MessagesDecoder:
    """Decodes one response; owned by its reader."""

    def __init__(self, memory: Memory, known: frozenset[str] = frozenset()) -> None:
        """`known`: the ids of the conversation's calls."""
        self._memory = memory
        self._ids = set(known)
        self.over = False
        self.begun = False
        self._blocks: dict[Any, _Block] = {}  # open blocks, by index
        self._count = 0
        self._latest = -1  # index of the block that began last
        self._calls = 0
        self._inputs = Allowance(MOST_INPUT_CHARS)
        self._thoughts: list[Reasoning] = []  # since the last call
        self._thought_chars = 0
        self._usage: dict[str, Any] = {}
        self._stop: tuple[str, str | None] = ("", None)
        self._is_explained = False  # the endpoint has said how the message ended

    # ---- called by the reader

    def value(self, value: Any, events: list[Event], is_error: bool) -> Steps[None] | None:
        """One event of the stream."""
        if value.__class__ is not dict:
            return None
        if value.get("type") == "content_block_delta":
            return self._delta(value, events)
        return self._event(value, events, is_error)

    def body(self, value: Any, events: list[Event]) -> Steps[None]:
        """A plain message."""
        yield from self._message(_json.an_object(value), events)

    def done_marker(self, events: list[Event]) -> None:
        """Ignored: not part of this dialect, but some gateways write one."""

    def end_of_stream(self, events: list[Event]) -> None:
        """The bytes have ended without message_stop."""
        self.fail(CUT, events)

    def fail(self, failure: Failure, events: list[Event]) -> None:
        """End the response with a failure."""
        events += self._failed(failure)

    def _failed(self, failure: Failure) -> list[Event]:
        if self.over:
            return []
        self.over = True
        return [failure]

    def _event(self, value: dict[str, Any], events: list[Event], is_error: bool) -> Steps[None]:
        events += yield from self._events_of(value, is_error)

    def _events_of(self, value: dict[str, Any], is_error: bool) -> Steps[list[Event]]:
        kind = value.get("type")
        if kind == "content_block_start":
            return (yield from self._start(value.get("index"), _json.an_object(value.get("content_block"))))
        if kind == "content_block_stop":
            return (yield from self._close(value.get("index")))
        if kind == "message_start":
            return self._begin(_json.an_object(value.get("message")))
        if kind == "message_delta":
            delta = _json.an_object(value.get("delta"))
            self._set_stop_reason(delta)
            return self._add_usage(value.get("usage"))
        if kind == "message_stop":
            return (yield from self._end())
        if kind == "error" or is_error or value.get("error"):
            return self._failed(failure_in_stream(value))
        failure = None if kind or self._stop[0] else unnamed_failure_of(value)
        return [] if failure is None else self._failed(failure)

    def _message(self, value: dict[str, Any], events: list[Event]) -> Steps[None]:
        """A plain message, processed like the events of a stream."""
        if value.get("type") == "error" or value.get("error"):
            events += self._failed(failure_in_stream(value))
            return
        if not isinstance(value.get("content"), list):
            events += self._failed(_NO_MESSAGE)
            return
        events += self._begin(value)
        for index, one in enumerate(value["content"]):
            events += yield from self._start(index, _json.an_object(one))
            if self.over:
                return
            events += yield from self._close(index)
            if index % STEP_BLOCKS == STEP_BLOCKS - 1:
                yield
        self._set_stop_reason(value)
        events += yield from self._end()

    # ---- the message

    def _begin(self, message: dict[str, Any]) -> list[Event]:
        if self.begun:
            return []
        self.begun = True
        begin = Begin(_json.a_text(message.get("id"))[:MAX_ID_CHARS], _json.a_text(message.get("model"))[:MAX_ID_CHARS])
        return [begin, *self._add_usage(message.get("usage"))]

    def _add_usage(self, usage: Any) -> list[Event]:
        merge_usage(self._usage, usage)
        return [read_usage(self._usage)] if self._usage else []

    def _set_stop_reason(self, delta: dict[str, Any]) -> None:
        self._is_explained = True
        if reason := _json.a_reason(delta.get("stop_reason")):
            self._stop = reason, _json.a_text(delta.get("stop_sequence"))[:MAX_ID_CHARS] or None

    def _end(self) -> Steps[list[Event]]:
        if not self.begun or not (self._count or self._is_explained):
            return self._failed(_NO_MESSAGE)
        events: list[Event] = []
        for index in list(self._blocks):
            events += yield from self._close(index)
        if self.over:
            return events
        reason, sequence = self._stop
        finish = _FINISH.get(reason)
        if finish is None:
            message = f"The upstream stopped its answer for an unknown reason: {reason}."
            return events + self._failed(Failure(502, message, code="upstream_malformed"))
        self.over = True
        if self._calls and finish == "stop":
            finish = "tool_calls"
        elif not self._calls and finish == "tool_calls":
            finish = "stop"
        return [*events, Finish(finish, stop=sequence if reason == "stop_sequence" else None), End()]

    # ---- its blocks

    def _start(self, index: Any, block: dict[str, Any]) -> Steps[list[Event]]:
        if index.__class__ is not int:
            index = self._latest + 1
        self._latest = index
        events: list[Event] = [] if self.begun else self._begin({})
        self._count += 1
        if self._count > MOST_BLOCKS:
            return events + self._failed(TOO_LARGE)
        kind = _json.a_text(block.get("type"))
        events += yield from self._close(index)
        if self.over:
            return events
        block_state = self._blocks[index] = _Block(kind)
        if kind == "text":
            events += self._text(_json.a_text(block.get("text")))
        elif kind == "thinking":
            events += self._add_thought(block_state, _json.a_text(block.get("thinking")))
            block_state.signature = _json.a_text(block.get("signature"))
        elif kind == "redacted_thinking":
            data = _json.a_text(block.get("data"))
            self._keep_thought(Reasoning("", redacted=data), len(data))
            events.append(ReasoningDelta(redacted=data))
        elif kind == "tool_use":
            events += yield from self._call(block_state, block)
        return events

    def _call(self, block_state: _Block, block: dict[str, Any]) -> Steps[list[Event]]:
        identity, name = _json.a_text(block.get("id")), _json.a_text(block.get("name"))
        if not identity or not name:
            return self._failed(Failure(502, "The upstream's answer has a tool call without a name or an id."))
        if len(identity) > MAX_ID_CHARS or len(name) > MAX_ID_CHARS or self._calls >= MOST_CALLS:
            return self._failed(TOO_LARGE)
        if (yield from _json.is_deeper_steps(block.get("input"), MAX_DEPTH)):
            return self._failed(TOO_LARGE)
        block_state.call, block_state.input = self._calls, (yield from written_steps(block.get("input")))
        try:
            self._inputs.charge(len(block_state.input))
        except ResponseTooLarge:
            return self._failed(TOO_LARGE)
        self._calls += 1
        block_state.arguments = CallArguments(self._inputs)
        if identity in self._ids:
            identity = "toolu_" + secrets.token_hex(12)
        self._ids.add(identity)
        if self._thought_chars <= LARGEST_CHARS:
            store(self._memory, identity, self._thoughts)
        self._thoughts, self._thought_chars = [], 0
        return [ToolStart(block_state.call, identity, name)]

    def _delta(self, value: dict[str, Any], events: list[Event]) -> Steps[None]:
        index = value.get("index")
        block = self._blocks.get(index if index.__class__ is int else self._latest)
        delta = value.get("delta")
        if not isinstance(delta, dict):
            return
        kind = delta.get("type")
        if block is None and (block := (yield from self._unannounced(index, kind, events))) is None:
            return
        block_kind = block.kind
        if kind == "text_delta":
            events += self._text(_json.a_text(delta.get("text")))
        elif kind == "input_json_delta" and block.arguments is not None:
            try:
                piece = yield from block.arguments.add(_json.a_text(delta.get("partial_json")))
            except ResponseTooLarge as fault:
                events += self._failed(Failure(502, str(fault), code="upstream_malformed"))
            else:
                events += [ToolDelta(block.call, piece)] if piece else []
        elif kind == "input_json_delta" and block_kind in ("text", "thinking"):
            events += self._failed(_NO_CALL)
        elif kind == "thinking_delta":
            events += self._add_thought(block, _json.a_text(delta.get("thinking")))
        elif kind == "signature_delta" and block_kind == "thinking" and len(block.signature) < LARGEST_CHARS:
            block.signature += _json.a_text(delta.get("signature"))

    def _unannounced(self, index: Any, kind: Any, events: list[Event]) -> Steps[_Block | None]:
        """The block of a delta without a content_block_start; arguments without a call are an error."""
        if kind == "input_json_delta":
            events += self._failed(_NO_CALL)
        if kind not in ("text_delta", "thinking_delta"):
            return None
        events += yield from self._start(index, {"type": kind.removesuffix("_delta")})
        return self._blocks.get(self._latest)

    def _text(self, text: str) -> list[Event]:
        return [TextDelta(text)] if text else []

    def _add_thought(self, block: _Block, text: str) -> list[Event]:
        if not text:
            return []
        if self._thought_chars <= LARGEST_CHARS:  # longer reasoning is not kept
            self._thought_chars += len(text)
            block.pieces.append(text)
        return [ReasoningDelta(text)]

    def _keep_thought(self, thought: Reasoning, more_chars: int) -> None:
        """A thought is complete: keep it for the call that may follow."""
        self._thought_chars += more_chars
        if self._thought_chars <= LARGEST_CHARS:
            self._thoughts.append(thought)

    def _close(self, index: Any) -> Steps[list[Event]]:
        block = self._blocks.pop(index if index.__class__ is int else self._latest, None)
        if block is None:
            return []
        if block.kind == "thinking" and block.signature:
            self._keep_thought(Reasoning("".join(block.pieces), signature=block.signature), len(block.signature))
            return [ReasoningDelta(signature=block.signature)]
        if block.arguments is None:
            return []
        if not block.arguments:
            return [ToolDelta(block.call, block.input)]
        try:
            piece = yield from block.arguments.close(is_cut=True)
        except ResponseTooLarge as fault:
            return self._failed(Failure(502, str(fault), code="upstream_malformed"))
        return [ToolDelta(block.call, piece)] if piece else []


class _Block:
    """An open block; owned by its message."""

    __slots__ = ("arguments", "call", "input", "kind", "pieces", "signature")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.call = 0
        self.input = "{}"  # as given by content_block_start
        self.arguments: CallArguments | None = None  # as given by the deltas; None for blocks that are no calls
        self.pieces: list[str] = []
        self.signature = ""
