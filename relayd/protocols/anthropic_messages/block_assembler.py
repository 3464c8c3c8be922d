"""Assembles a response's events into content blocks, one open at a time, for streams and plain messages alike.

Laws:
1. Blocks are opened, filled and closed one after another; a closed block is never changed.
2. Events of a block that cannot be opened yet are buffered in order, up to MOST_BUFFERED_BYTES.
3. A tool call is complete when its arguments are a closed JSON object, or when the response ends. Only then another
   block opens, because fragments of several calls may interleave and a closed block cannot receive the rest of its
   call.
"""

from __future__ import annotations

import secrets
from typing import Any, Protocol

from relayd.protocols._bounds import PIECE_CHARS
from relayd.protocols._tool_arguments import ObjectEndFinder
from relayd.protocols.anthropic_messages.call_ids import for_client
from relayd.protocols.canon import (
    Event,
    Finish,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolDelta,
    ToolStart,
    Usage,
)

MOST_BUFFERED_BYTES = 16 * 1024 * 1024
MOST_CALLS = 1024
MOST_BLOCKS = 4096
_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "end_turn", "content_filter": "refusal"}


class BufferLimitExceeded(Exception):
    """A response exceeds the bound on buffered events."""


class BlockWriter(Protocol):
    """Writes blocks, as frames of a stream or into the list of a plain message."""

    def open(self, index: int, block: dict[str, Any]) -> None:
        """Open a block; `block` is its initial, empty state."""

    def delta(self, index: int, kind: str, member: str, text: str) -> None:
        """Append text to the open block: `kind` is the delta type of a stream, `member` the key of a plain block."""

    def close(self, index: int) -> None:
        """Close the block."""


class _Call:
    """One tool call."""

    __slots__ = ("buffered", "closed", "end", "id", "name", "opened")

    def __init__(self, identity: str, name: str) -> None:
        self.id, self.name = identity, name
        self.buffered: list[str] = []  # arguments that arrived before the block was opened
        self.opened = self.closed = False
        self.end = ObjectEndFinder()


class BlockAssembler:
    """Drives a BlockWriter; owned by the renderer of one response."""

    __slots__ = (
        "_buffered_bytes", "_calls", "_finish", "_index", "_known_ids", "_open", "_queue", "_refused", "_writer",
        "usage",
    )  # fmt: skip

    def __init__(self, writer: BlockWriter, known_ids: frozenset[str] = frozenset()) -> None:
        self._writer = writer
        self._index = -1  # of the block that was opened last
        self._open: str | _Call | None = None  # "text", "thinking" or a call
        self._queue: list[_Call | TextDelta | ReasoningDelta] = []  # waits until the open call is complete
        self._calls: dict[int, _Call] = {}
        self._known_ids = set(known_ids)
        self._buffered_bytes = 0
        self._finish = Finish("stop")
        self._refused = False
        self.usage = Usage()

    def add(self, event: Event) -> None:
        """Add one event. This dialect supports one choice; others are ignored. Raises BufferLimitExceeded."""
        if isinstance(event, Usage):
            self.usage = event
        elif getattr(event, "choice", 0) != 0:
            return
        elif isinstance(event, TextDelta):
            if event.text:
                self._add_content(event)
        elif isinstance(event, ToolDelta):
            self._arguments(event)
        elif isinstance(event, ReasoningDelta):
            self._add_content(event)
        elif isinstance(event, ToolStart):
            self._start(event)
        elif isinstance(event, RefusalDelta):
            self._refused = True
            if event.text:
                self._add_content(TextDelta(event.text))
        elif isinstance(event, Finish):
            self._finish = event

    def end(self) -> None:
        """The response is complete: write the buffered events and close the last block."""
        self._advance(at_end=True)
        self._close()
        if self._index < 0:  # an empty response: clients expect a first block
            self._open_block("text", {"type": "text", "text": ""})
            self._close()

    def stop(self) -> tuple[str, str | None]:
        """`stop_reason` and `stop_sequence`, once the response has ended."""
        reason = self._finish.reason
        if self._calls:
            last = self._calls[max(self._calls)]
            cut = reason == "length" and not last.end.is_complete
            return ("max_tokens" if cut else "tool_use"), None
        if self._refused:
            return "refusal", None
        if self._finish.stop is not None and reason == "stop":
            return "stop_sequence", self._finish.stop
        return _STOP_REASONS.get(reason, "end_turn"), None

    # ---- tool calls

    def _start(self, event: ToolStart) -> None:
        if len(self._calls) >= MOST_CALLS:
            raise BufferLimitExceeded
        identity = event.id
        if identity in self._known_ids or not identity:
            # Some endpoints number the calls of each response anew, but ids must be unique in a conversation.
            identity = "toolu_" + secrets.token_hex(12)
        self._known_ids.add(identity)
        call = _Call(identity, event.name)
        self._calls[event.index] = call
        self._queue.append(call)
        self._advance()

    def _arguments(self, event: ToolDelta) -> None:
        call = self._calls.get(event.index)
        if call is None or call.closed or not event.arguments:
            return  # a closed call was a complete object: the rest is blank or not JSON
        call.end.add(event.arguments)
        if not call.opened:
            self._charge(len(event.arguments) + PIECE_CHARS)
            call.buffered.append(event.arguments)
            return
        self._writer.delta(self._index, "input_json_delta", "partial_json", event.arguments)
        if self._queue:
            self._advance()

    def _open_call(self, call: _Call) -> None:
        call.opened = True
        self._open_block(call, {"type": "tool_use", "id": for_client(call.id), "name": call.name, "input": {}})
        for piece in call.buffered:
            self._writer.delta(self._index, "input_json_delta", "partial_json", piece)
        call.buffered.clear()

    # ---- order

    def _add_content(self, event: TextDelta | ReasoningDelta) -> None:
        if self._queue or isinstance(self._open, _Call):
            self._queue.append(event)
            self._charge(len(event.text) + len(getattr(event, "redacted", None) or "") + PIECE_CHARS)
            self._advance()
        elif isinstance(event, TextDelta):
            self._write_text(event.text)
        else:
            self._write_reasoning(event)

    def _advance(self, at_end: bool = False) -> None:
        """Write buffered events, up to the first that must wait for the open call."""
        written = 0
        for waiting in self._queue:
            if isinstance(self._open, _Call) and not at_end and not self._open.end.is_complete:
                break
            written += 1
            if isinstance(waiting, _Call):
                self._open_call(waiting)
            elif isinstance(waiting, TextDelta):
                self._write_text(waiting.text)
            else:
                self._write_reasoning(waiting)
        if written:
            del self._queue[:written]

    def _charge(self, count: int) -> None:
        self._buffered_bytes += count
        if self._buffered_bytes > MOST_BUFFERED_BYTES:
            raise BufferLimitExceeded

    def _write_text(self, text: str) -> None:
        if self._open != "text":
            self._open_block("text", {"type": "text", "text": ""})
        self._writer.delta(self._index, "text_delta", "text", text)

    def _write_reasoning(self, event: ReasoningDelta) -> None:
        if event.redacted is not None:
            self._open_block("redacted", {"type": "redacted_thinking", "data": event.redacted})
            self._close()
            return
        if not event.text and event.signature is None:
            return
        if self._open != "thinking":
            self._open_block("thinking", {"type": "thinking", "thinking": "", "signature": ""})
        if event.text:
            self._writer.delta(self._index, "thinking_delta", "thinking", event.text)
        if event.signature is not None:
            self._close(event.signature)

    def _open_block(self, kind: str | _Call, block: dict[str, Any]) -> None:
        self._close()
        if self._index >= MOST_BLOCKS:
            raise BufferLimitExceeded
        self._open = kind
        self._index += 1
        self._writer.open(self._index, block)

    def _close(self, signature: str = "") -> None:
        """Close the open block. A thinking block always gets a signature, an empty one if the endpoint sent none."""
        if self._open is None:
            return
        if self._open == "thinking":
            self._writer.delta(self._index, "signature_delta", "signature", signature)
        elif isinstance(self._open, _Call):
            self._open.closed = True
            if self._open.end.is_empty:
                self._writer.delta(self._index, "input_json_delta", "partial_json", "{}")
        self._writer.close(self._index)
        self._open = None

