"""Holds a passthrough stream until its first content, so that another attempt can still follow.

The held data is bounded: above MAX_HELD_BYTES the stream is forwarded.
"""

from __future__ import annotations

from relayd.protocols.canon import Event, Failure, ReasoningDelta, RefusalDelta, TextDelta, ToolStart
from relayd.protocols.dialect import Reader
from relayd.proxy.filters.filter import Filter

MAX_HELD_BYTES = 64 * 1024
CONTENT = (TextDelta, RefusalDelta, ReasoningDelta, ToolStart)


class HoldFirstContent(Filter):
    """Reads a copy with the dialect's reader. A role, a comment or a token count is not content."""

    __slots__ = ("_held", "_held_bytes", "_reader")

    def __init__(self, reader: Reader) -> None:
        super().__init__()
        self.holds = True
        self._reader: Reader | None = reader
        self._held: list[bytes] = []
        self._held_bytes = 0

    def process(self, data: bytes) -> bytes:
        """Nothing before the first content, then all data."""
        reader = self._reader
        if reader is None:
            return data
        self._held.append(data)
        self._held_bytes += len(data)
        events = reader.decode(data)
        while reader.has_more:
            events += reader.decode(b"")
        if self._has_content(events) or (self._held_bytes > MAX_HELD_BYTES and self.failure is None):
            return self._release()
        return b""

    def finish(self) -> bytes:
        """Forward a stream that ended without content, unless it failed."""
        if self._reader is not None:
            self._has_content(self._reader.finish())
        return b"" if self.failure is not None else self._release()

    def _has_content(self, events: list[Event]) -> bool:
        for event in events:
            if isinstance(event, Failure):
                self.failure = event
                return False
            if isinstance(event, CONTENT):
                return True
        return False

    def _release(self) -> bytes:
        held, self._held = self._held, []
        self._reader, self.holds = None, False
        return b"".join(held)
