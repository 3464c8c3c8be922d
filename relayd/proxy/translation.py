"""An answer on its way from the endpoint's dialect to the client's; one per attempt, over one renderer per exchange.

Laws:
1. Nothing of an attempt reaches the renderer before its first content: until then another attempt may take its place.
2. A comment, a role and a token count are not content; a word, a thought, a refusal and a call are.
3. Whatever goes wrong ends as a Failure, which the renderer says in the client's dialect; never as a clean end.
"""

from __future__ import annotations

from relayd.protocols.canon import End, Event, Failure, Finish, RefusalDelta, TextDelta, ThoughtDelta, ToolStart, Usage
from relayd.protocols.dialect import Reader, Rendered, Renderer

_CONTENT = (TextDelta, RefusalDelta, ThoughtDelta, ToolStart)


class Translation:
    """One attempt's answer; owned by the attempt."""

    __slots__ = ("_events", "_reader", "_renderer", "content", "done", "failure", "finish", "usage")

    def __init__(self, reader: Reader, renderer: Renderer) -> None:
        self._reader, self._renderer = reader, renderer
        self._events: list[Event] = []
        self.content = self.done = False
        self.failure: Failure | None = None
        self.usage: Usage | None = None
        self.finish = ""

    def take(self, data: bytes) -> None:
        """Bytes of the endpoint's answer."""
        self._sort(self._reader.feed(data))

    def end(self) -> None:
        """The endpoint's bytes have ended cleanly."""
        if self.failure is None and not self.done:
            self._sort(self._reader.end())
        if self.failure is None and not self.done:
            self.broken(Failure(502, "The upstream's answer was cut.", code="upstream_cut"))

    def broken(self, failure: Failure) -> None:
        """The attempt failed outside of its bytes."""
        if self.failure is None and not self.done:
            self.failure = failure
            self._events.append(failure)

    def _sort(self, events: list[Event]) -> None:
        for event in events:
            if self.failure is not None or self.done:
                return
            self._events.append(event)
            kind = type(event)
            if kind in _CONTENT:
                self.content = True
            elif kind is Failure:
                self.failure = event  # type: ignore[assignment]
            elif kind is Usage:
                self.usage = event  # type: ignore[assignment]
            elif kind is Finish:
                self.finish = self.finish or event.reason  # type: ignore[union-attr]
            elif kind is End:
                self.done = True

    def render(self) -> bytes:
        """The client's bytes for everything that has come; from now on this attempt is the answer."""
        if not self._events:
            return b""
        events, self._events = self._events, []
        return self._renderer.feed(events)

    def whole(self) -> Rendered:
        """The plain answer, after `render`."""
        return self._renderer.whole()
