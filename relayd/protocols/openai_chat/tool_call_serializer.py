"""Serialises tool calls of one choice for a Chat client: each call is complete before the next one begins.

1. Fragments of the open call are sent at once. OpenAI's own SDK treats the start of a call as the end of the previous
   one, so a call that begins early waits until the arguments of the open call are complete.
2. Pending calls are sent with the finish reason at the latest; a call without arguments gets an empty object.
3. The input of a custom tool is decoded when its arguments are complete.
4. Buffered arguments are charged to the response's allowance, which raises ResponseTooLarge.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from relayd.protocols._bounds import Allowance, TextBuffer
from relayd.protocols._tool_arguments import ObjectEndFinder, raw_input
from relayd.protocols.canon import ToolDelta, ToolStart


class _Call:
    __slots__ = ("end", "is_custom", "pieces", "start")

    def __init__(self, start: ToolStart, is_custom: bool) -> None:
        self.start, self.is_custom = start, is_custom
        self.pieces, self.end = TextBuffer(), ObjectEndFinder()

    def add(self, arguments: str) -> None:
        """Append a piece of the arguments."""
        self.pieces.add(arguments)
        self.end.add(arguments)


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
            return
        call = self._open
        if call is None or event.index != call.start.index:
            if event.arguments.strip():
                yield _arguments(event.index, event.arguments)  # after complete arguments: the client handles it
            return
        call.add(event.arguments)
        if not call.is_custom:
            yield _arguments(event.index, event.arguments)
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
        kind, field = ("custom", "input") if call.is_custom else ("function", "arguments")
        index = call.start.index
        entry = {"index": index, "id": call.start.id, "type": kind, kind: {"name": call.start.name, field: ""}}
        if call.start.signature is not None:
            entry["extra_content"] = {"google": {"thought_signature": call.start.signature}}
        yield entry
        if call.pieces and not call.is_custom:
            yield _arguments(index, call.pieces.text())

    def _finish_open(self) -> Iterator[dict[str, Any]]:
        call, self._open = self._open, None
        if call is None:
            return
        if call.is_custom:
            yield {"index": call.start.index, "custom": {"input": raw_input(call.pieces.text())}}
        elif not call.pieces:
            yield _arguments(call.start.index, "{}")


def _arguments(index: int, arguments: str) -> dict[str, Any]:
    return {"index": index, "function": {"arguments": arguments}}
