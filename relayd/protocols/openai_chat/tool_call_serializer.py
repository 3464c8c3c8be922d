"""Serialises tool calls of one choice for a Chat client: each call is complete before the next one begins.

1. Fragments of the open call are sent at once. OpenAI's own SDK treats the start of a call as the end of the previous
   one, so a call that begins early waits until the arguments of the open call are complete.
2. Pending calls are sent with the finish reason at the latest; a call without arguments gets an empty object.
3. The input of a custom tool is decoded while its arguments arrive.
4. Buffered arguments are charged to the response's allowance, which raises ResponseTooLarge.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from relayd.protocols._bounds import Allowance, TextBuffer
from relayd.protocols._custom_input import CustomInputDecoder
from relayd.protocols._tool_arguments import ObjectEndFinder
from relayd.protocols.canon import ToolDelta, ToolStart


class _Call:
    __slots__ = ("decoder", "end", "is_empty", "pieces", "start")

    def __init__(self, start: ToolStart, is_custom: bool) -> None:
        self.start = start
        self.decoder = CustomInputDecoder() if is_custom else None
        self.pieces, self.end = TextBuffer(), ObjectEndFinder()  # the pieces wait until the call is open
        self.is_empty = True

    def add(self, arguments: str) -> None:
        """A piece of the arguments."""
        self.is_empty = self.is_empty and not arguments
        self.end.add(arguments)

    def entry(self, arguments: str) -> Iterator[dict[str, Any]]:
        """A piece of the arguments of the open call, as the client gets it."""
        if self.decoder is None:
            yield _arguments(self.start.index, arguments)
        elif text := self.decoder.decode(arguments):
            yield {"index": self.start.index, "custom": {"input": text}}


class ToolCallSerializer:
    """The calls of one choice; owned by the renderer. Yields members of `tool_calls`."""

    __slots__ = ("_allowance", "_custom", "_open", "_pending")

    def __init__(self, custom: frozenset[str], allowance: Allowance) -> None:
        self._custom, self._allowance = custom, allowance
        self._open: _Call | None = None
        self._pending: dict[int, _Call] = {}

    def start(self, event: ToolStart) -> Iterator[dict[str, Any]]:
        """A call begins."""
        call = _Call(event, event.name in self._custom)
        if self._pending or (self._open is not None and not self._open.end.is_complete):
            self._pending[event.index] = call
        else:
            yield from self._next(call)

    def add(self, event: ToolDelta) -> Iterator[dict[str, Any]]:
        """A piece of a call's arguments."""
        self._allowance.charge(len(event.arguments))
        pending = self._pending.get(event.index)
        if pending is not None:
            pending.add(event.arguments)
            pending.pieces.add(event.arguments)
            return
        call = self._open
        if call is None or event.index != call.start.index:
            if event.arguments.strip():
                yield _arguments(event.index, event.arguments)  # after complete arguments: the client handles it
            return
        call.add(event.arguments)
        yield from call.entry(event.arguments)
        while self._pending and self._open is not None and self._open.end.is_complete:
            yield from self._next(self._pending.pop(next(iter(self._pending))))

    def close(self) -> Iterator[dict[str, Any]]:
        """The response is complete: the rest of the open call, and all pending calls."""
        while self._pending:
            yield from self._next(self._pending.pop(next(iter(self._pending))))
        yield from self._finish_open()

    def _next(self, call: _Call) -> Iterator[dict[str, Any]]:
        yield from self._finish_open()
        self._open = call
        kind, field = ("function", "arguments") if call.decoder is None else ("custom", "input")
        index = call.start.index
        entry = {"index": index, "id": call.start.id, "type": kind, kind: {"name": call.start.name, field: ""}}
        if call.start.signature is not None:
            entry["extra_content"] = {"google": {"thought_signature": call.start.signature}}
        yield entry
        if call.pieces:
            yield from call.entry(call.pieces.text())
            call.pieces = TextBuffer()

    def _finish_open(self) -> Iterator[dict[str, Any]]:
        call, self._open = self._open, None
        if call is None:
            return
        if call.decoder is None:
            if call.is_empty:
                yield _arguments(call.start.index, "{}")
        elif text := call.decoder.end():
            yield {"index": call.start.index, "custom": {"input": text}}


def _arguments(index: int, arguments: str) -> dict[str, Any]:
    return {"index": index, "function": {"arguments": arguments}}
