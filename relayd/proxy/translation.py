"""An answer on its way from the endpoint's dialect to the client's; one per attempt, over one renderer per exchange.

Laws:
1. Nothing of an attempt reaches the renderer before its first content: until then another attempt may take its place.
2. A comment, a role and a token count are not content; a word, a thought, a refusal and a call are.
3. Whatever goes wrong ends as a Failure, which the renderer says in the client's dialect; never as a clean end.
4. One call reads at most STEP decoded bytes, however many came or however well they were compressed.
"""

from __future__ import annotations

from relayd.protocols.canon import End, Event, Failure, Finish, RefusalDelta, TextDelta, ThoughtDelta, ToolStart, Usage
from relayd.protocols.dialect import Reader, Rendered, Renderer
from relayd.wire.decoding import BadEncoding, Decoder

_CONTENT = (TextDelta, RefusalDelta, ThoughtDelta, ToolStart)
STEP = 4096


class Translation:
    """One attempt's answer; owned by the attempt."""

    __slots__ = (
        "_at", "_decoder", "_events", "_input", "_reader", "_renderer", "content", "done", "failure", "finish", "usage",
    )

    def __init__(self, reader: Reader, renderer: Renderer, encoding: str = "") -> None:
        """`encoding` is the answer's Content-Encoding; endpoints are asked for none and some send one all the same."""
        self._reader, self._renderer = reader, renderer
        self._decoder = Decoder(encoding) if encoding else None
        self._events: list[Event] = []
        self._input, self._at = b"", 0
        self.content = self.done = False
        self.failure: Failure | None = None
        self.usage: Usage | None = None
        self.finish = ""

    def take(self, data: bytes) -> None:
        """More bytes of the endpoint's answer, and one step of the work; while `unfinished`, b"" makes the next."""
        if data:
            self._input = self._input[self._at :] + data if self._at < len(self._input) else data
            self._at = 0
        if self._decoder is None:
            piece = self._next_piece()
        else:
            packed, self._input = self._input, b""
            try:
                piece = self._decoder.feed(packed, STEP)
            except BadEncoding as fault:
                self.broken(Failure(502, f"The upstream's answer cannot be read: {fault}.", code="upstream_malformed"))
                return
        if piece:
            self._sort(self._reader.feed(piece))

    def _next_piece(self) -> bytes:
        """What the next step reads: it ends with a frame where one ends within the step."""
        data, start = self._input, self._at
        if len(data) - start <= STEP:
            self._input, self._at = b"", 0
            return data[start:] if start else data
        end = data.rfind(b"\n\n", start, start + STEP) + 2
        self._at = end = end if end > 1 else start + STEP
        return data[start:end]

    @property
    def unfinished(self) -> bool:
        """Whether bytes were taken that have not been read."""
        if self.failure is not None or self.done:
            return False
        return bool(self._input) if self._decoder is None else self._decoder.has_more

    def end(self) -> None:
        """The endpoint's bytes have ended cleanly."""
        while self.unfinished:
            self.take(b"")
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
