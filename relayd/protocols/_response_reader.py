"""Reading an endpoint's response, for all dialects: bytes to JSON values, with bounds and detection of truncation.

    bytes -> content coding -> byte order mark -> a JSON body, or frames of a stream -> ResponseDecoder -> events

Laws:
1. The first byte of the response decides between a JSON body and an event stream, not the request. Only between lines
   of JSON (NDJSON) and a body, which begin alike, the request decides.
2. The events of a frame are returned by the call that completed the frame, unless that takes long: then it is done in
   steps, and the events come in pieces, from calls without bytes while `has_more` is true.
3. The end of the bytes does not imply the end of the response: the dialect's ResponseDecoder decides. A frame at the
   end of the bytes that is not valid JSON was truncated.
4. Frames, bodies and decoded bytes are bounded, and no input from an endpoint raises.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

from relayd import clock
from relayd.dataclass import dataclass
from relayd.protocols._event_pieces import PIECE_CHARS, in_pieces, is_long, size_of
from relayd.protocols._json import parse_lenient, parse_lenient_steps
from relayd.protocols._openai_errors import failure_of
from relayd.protocols._stop_strings import stop_filter
from relayd.protocols.canon import Event, Failure, ToolStart
from relayd.wire.decoding import BadEncoding, Decoder
from relayd.wire.json_steps import CHUNK_BYTES, TURN_S, Steps
from relayd.wire.ndjson import LineSplitter, NdjsonError
from relayd.wire.sse import Event as Frame
from relayd.wire.sse import SseError, SseSplitter

MIB = 1024 * 1024
MOST_BODY_BYTES = 64 * MIB
DECODED_BYTES = 4096  # in one call
_DONE = object()
_EVENT_CHARS = 128  # the cost of an event, independently of its length
_BOM = b"\xef\xbb\xbf"
_WHITESPACE = b" \t\r\n"

CUT = Failure(502, "The upstream's stream ended before its answer was complete.", "upstream_cut")
CUT_FRAME = Failure(502, "The upstream's stream ended in the middle of a frame.", "upstream_cut")
EMPTY = Failure(502, "The upstream sent an empty answer.", "upstream_malformed")
EMPTY_STREAM = Failure(502, "The upstream sent an empty answer.", "upstream_cut")
FRAME_NOT_JSON = Failure(502, "The upstream sent a frame that is not JSON.", "upstream_malformed")
FRAME_TOO_LARGE = Failure(502, "The upstream sent a frame that is too large.", "upstream_malformed")
NOT_JSON = Failure(502, "The upstream's answer is not JSON, or not all of it.", "upstream_malformed")
NO_RESPONSE = Failure(502, "The upstream's answer is neither JSON nor an event stream.", "upstream_malformed")
TOO_LARGE = Failure(502, "The upstream's answer is too large.", "upstream_malformed")


class ResponseDecoder(Protocol):
    """The dialect's part of a reader: JSON values to canonical events. Each method appends to `events`.

    A method may return steps, which must be run to their end before another method is called. Between the steps the
    reader may take the events out of the list. `begun` is True after a Begin event. `over` is True once the response
    has ended, successfully or not; no method is called after that.
    """

    begun: bool
    over: bool

    def value(self, value: Any, events: list[Event], is_error: bool) -> Steps[None] | None:
        """One JSON value of a stream; `is_error` if the frame's event name is `error`."""

    def body(self, value: Any, events: list[Event]) -> Steps[None] | None:
        """The JSON value of a response that is one body. It ends the response."""

    def done_marker(self, events: list[Event]) -> Steps[None] | None:
        """The frame `[DONE]`."""

    def end_of_stream(self, events: list[Event]) -> Steps[None] | None:
        """The bytes of a stream have ended cleanly. This ends the response."""

    def fail(self, failure: Failure, events: list[Event]) -> None:
        """The rest of the response cannot be read. This ends the response."""


@dataclass(frozen=True, slots=True)
class Framing:
    """The framing of a stream (server-sent events, or lines of JSON), and the bounds of a line and of a frame."""

    line_bytes: int = 16 * MIB
    frame_bytes: int = 32 * MIB
    is_lines: bool = False


EVENTS = Framing()


class ResponseReader:
    """Reads one response (see dialect.Reader); owned by the attempt."""

    __slots__ = (
        "_asked_stream", "_body", "_content_decoder", "_dialect_decoder", "_found", "_framing", "_is_full",
        "_is_unframed", "_lines", "_names", "_prefix", "_seen_bytes", "_size", "_splitter", "_stops", "_work",
    )  # fmt: skip

    def __init__(
        self, decoder: ResponseDecoder, *, stream: bool, content_encoding: str = "", framing: Framing = EVENTS,
        names: Mapping[str, str] | None = None, stops: tuple[str, ...] = (),
    ) -> None:
        """`stream`: the request asked for a stream. `names` maps the endpoint's names of tools to the client's. `stops`
        are stop strings that were not sent to the endpoint."""
        self._names, self._stops = names, stop_filter(stops)
        self._dialect_decoder, self._asked_stream, self._framing = decoder, stream, framing
        self._content_decoder = Decoder(content_encoding) if content_encoding else None
        self._prefix = b""  # a partial byte order mark
        self._splitter: SseSplitter | None = None
        self._lines = LineSplitter(framing.line_bytes) if framing.is_lines and stream else None
        self._body: list[bytes] = []
        self._is_unframed = False  # the response is a body, or lines of JSON
        self._size = 0  # of the body, in bytes
        self._seen_bytes = 0  # as long as they are few, no event can be long
        self._work: Iterator[None] | None = None  # what is read in steps; its events are in `_found`
        self._found: list[Event] = []
        self._is_full = False  # enough is found for one turn

    def decode(self, data: bytes) -> list[Event]:
        """See dialect.Reader."""
        if self._work is not None:
            events = self._go_on(data)
        else:
            events = self._read(data)
            if self._seen_bytes > PIECE_CHARS and any(map(is_long, events)):
                events = self._put_off(events)
        return events if not self._names and self._stops is None else self._mapped(events)

    # ---- in steps

    def _go_on(self, data: bytes) -> list[Event]:
        """The next turn of the work; bytes that come before its end make it the last one."""
        events = self._turn()
        if data:
            while self._work is not None:
                events += self._turn()
            events += self._read(data)
        return events

    def _turn(self) -> list[Event]:
        """Go on with the work until it has found much, or for some time."""
        assert self._work is not None
        end_s = clock.monotonic() + TURN_S
        self._is_full = False
        for _ in self._work:
            if self._is_full or clock.monotonic() > end_s:
                break
        else:
            self._work = None
        events, self._found = self._found, []
        return events

    def _put_off(self, events: list[Event]) -> list[Event]:
        """Pass on these events in pieces, before what the work finds that they have begun."""
        work, self._work = self._work, self._passing(events)
        if work is not None:
            self._work = itertools.chain(self._work, work)
        return []

    def _passing(self, events: Iterable[Event]) -> Steps[None]:
        """Pass on events, a pause behind every PIECE_CHARS of them."""
        size = 0
        for event in events:
            for piece in in_pieces(event) if is_long(event) else (event,):
                self._found.append(piece)
                size += size_of(piece) + _EVENT_CHARS
                if size > PIECE_CHARS:
                    size = 0
                    self._is_full = True
                    yield

    def _decoded(self, steps: Steps[None] | None, events: list[Event]) -> Steps[None]:
        """Run steps of the decoder, which append to these events, and pass the events on."""
        for _ in steps or ():
            yield from self._passing(_taken(events))
            yield
        yield from self._passing(_taken(events))

    def _values(self, texts: list[tuple[bytes, bool]], is_last: bool) -> Steps[None]:
        """JSON values of a stream, each with whether its frame calls itself an error."""
        texts.reverse()
        while texts and not self._dialect_decoder.over:
            text, is_error = texts.pop()
            events: list[Event] = []
            try:
                value = (yield from parse_lenient_steps(text)) if len(text) > CHUNK_BYTES else parse_lenient(text)
            except ValueError:
                steps = self._not_json(text, events, is_error, is_last)
            else:
                del text
                steps = self._dialect_decoder.value(_error_object(value) if is_error else value, events, is_error)
                del value
            yield
            yield from self._decoded(steps, events)

    def _rest_of(
        self, steps: Steps[None], events: list[Event], texts: list[tuple[bytes, bool]], is_last: bool
    ) -> Steps[None]:
        """The rest of a value whose decoding has paused, and the values behind it."""
        yield from self._decoded(steps, events)
        yield from self._values(texts, is_last)

    def _end_of_body(self) -> Steps[None]:
        body = b"".join(self._body)
        self._body.clear()
        events: list[Event] = []
        steps: Steps[None] | None = None
        try:
            value = (yield from parse_lenient_steps(body)) if len(body) > CHUNK_BYTES else parse_lenient(body)
        except ValueError:
            self._dialect_decoder.fail(NOT_JSON, events)
        else:
            del body
            steps = self._dialect_decoder.body(value, events)
            del value
        yield
        yield from self._decoded(steps, events)

    def _end(self) -> Steps[None]:
        """The bytes have ended: what they leave is a frame, a line or a body."""
        if self._splitter is not None:
            try:
                frames = self._splitter.feed(b"\n\n") if self._splitter.rest.strip() else []
            except SseError:
                self._dialect_decoder.fail(FRAME_TOO_LARGE, self._found)
                return
            yield from self._values(_texts_of(frames), True)
        elif self._is_unframed and self._lines is None:
            yield from self._end_of_body()
        elif self._is_unframed and self._lines is not None and (line := self._lines.finish()) is not None:
            yield from self._values([(line, False)], True)
        events: list[Event] = []
        yield from self._decoded(self._ended(events), events)

    @property
    def _goes_on(self) -> bool:
        return self._work is not None or (self.has_more and not self._dialect_decoder.over)

    def _mapped(self, events: list[Event]) -> list[Event]:
        """The events with the client's names of tools, ended at stop strings."""
        if names := self._names:
            events = [
                replace(one, name=names[one.name]) if isinstance(one, ToolStart) and one.name in names else one
                for one in events
            ]
        return events if self._stops is None else self._stops.filter(events)

    def _read(self, data: bytes) -> list[Event]:
        events: list[Event] = []
        self._seen_bytes += len(data)
        if self._dialect_decoder.over or not (data or self.has_more):
            return events
        if self._content_decoder is not None:
            try:
                data = self._content_decoder.feed(data, DECODED_BYTES)
            except BadEncoding as fault:
                failure = Failure(502, f"The upstream's answer cannot be read: {fault}.", "upstream_malformed")
                self._dialect_decoder.fail(failure, events)
                return events
            if not data:
                return events
        if self._splitter is not None:
            self._read_frames(self._splitter, data, events)
        elif self._is_unframed:
            self._read_unframed(data, events)
        else:
            self._detect_format(self._prefix + data, events)
        return events

    @property
    def has_more(self) -> bool:
        """See dialect.Reader."""
        return self._work is not None or (self._content_decoder is not None and self._content_decoder.has_more)

    def finish(self) -> list[Event]:
        """See dialect.Reader."""
        events = self.begin_finish()
        while self._goes_on:
            events += self.decode(b"")
        return events

    def begin_finish(self) -> list[Event]:
        """See dialect.Reader."""
        events: list[Event] = []
        while self._goes_on:
            events += self.decode(b"")
        if self._dialect_decoder.over:
            return events
        self._work = self._end()
        return events + self.decode(b"")

    def _ended(self, events: list[Event]) -> Steps[None] | None:
        """Everything was read: that may not be an answer, or not all of one."""
        decoder = self._dialect_decoder
        if decoder.over:
            return None
        failure: Failure | None = None
        if self._splitter is not None:
            failure = None if decoder.begun or self._asked_stream else NO_RESPONSE
        elif not self._is_unframed:
            failure = EMPTY_STREAM if self._asked_stream else EMPTY
        if failure is None:
            return decoder.end_of_stream(events)
        decoder.fail(failure, events)
        return None

    def _detect_format(self, data: bytes, events: list[Event]) -> None:
        """Decide between a stream and a body by the first byte that is neither white space nor a byte order mark."""
        text = data.removeprefix(_BOM)
        first = text.lstrip(_WHITESPACE)[:1]
        if not first or _BOM.startswith(data):
            self._prefix = data if _BOM.startswith(data) else b""  # white space is not kept
        elif self._lines is not None or first in b"{[<":
            self._is_unframed = True
            self._read_unframed(text, events)
        else:
            self._splitter = SseSplitter(self._framing.line_bytes, self._framing.frame_bytes)
            self._splitter.keeps_raw = False
            self._read_frames(self._splitter, text, events)

    # ---- bytes of a stream, of lines, of a body

    def _read_frames(self, splitter: SseSplitter, data: bytes, events: list[Event]) -> None:
        decoder = self._dialect_decoder
        try:
            frames = splitter.feed(data)
        except SseError:
            decoder.fail(FRAME_TOO_LARGE, events)
            return
        for position, frame in enumerate(frames):
            text, is_error = frame.data, frame.event == b"error"
            if text is None:
                text, is_error = _text_without_data(frame)
                if not text:
                    continue
            if len(text) > CHUNK_BYTES:
                self._work = self._values(_texts_of(frames[position:]), False)
                return
            found: list[Event] = []
            if (steps := self._read_value(text, found, is_error)) is not None:
                self._work = self._rest_of(steps, found, _texts_of(frames[position + 1 :]), False)
                return
            events += found
            if decoder.over:
                return

    def _read_value(self, text: bytes, events: list[Event], is_error: bool) -> Steps[None] | None:
        """A value of a stream. Returns the steps that are left, None if it is read."""
        try:
            value = parse_lenient(text)
        except ValueError:
            steps = self._not_json(text, events, is_error, False)
        else:
            steps = self._dialect_decoder.value(_error_object(value) if is_error else value, events, is_error)
        return None if steps is None or next(steps, _DONE) is _DONE else steps

    def _read_unframed(self, data: bytes, events: list[Event]) -> None:
        decoder = self._dialect_decoder
        if self._lines is None:
            self._body.append(data)
            self._size += len(data)
            if self._size > MOST_BODY_BYTES:
                self._body.clear()
                decoder.fail(TOO_LARGE, events)
            return
        try:
            lines = self._lines.feed(data)
        except NdjsonError:
            decoder.fail(FRAME_TOO_LARGE, events)
            return
        for position, line in enumerate(lines):
            if len(line) > CHUNK_BYTES:
                self._work = self._values([(one, False) for one in lines[position:]], False)
                return
            found: list[Event] = []
            if (steps := self._read_value(line, found, False)) is not None:
                self._work = self._rest_of(steps, found, [(one, False) for one in lines[position + 1 :]], False)
                return
            events += found
            if decoder.over:
                return

    def _not_json(self, text: bytes, events: list[Event], is_error: bool, is_last: bool) -> Steps[None] | None:
        """Handle a frame that is not JSON: the end marker, an error in plain text, or a protocol error."""
        stripped = text.strip()
        if not stripped:
            return None
        if stripped == b"[DONE]":
            return self._dialect_decoder.done_marker(events)
        if is_error:
            shown = text[:2000].decode("utf-8", "replace")
            failure = failure_of(shown, 502) or Failure(502, "The upstream reported an error.")
            self._dialect_decoder.fail(failure, events)
        else:
            self._dialect_decoder.fail(CUT_FRAME if is_last else FRAME_NOT_JSON, events)
        return None


def _taken(events: list[Event]) -> list[Event]:
    """The events, removed from their list."""
    found = events[:]
    events.clear()
    return found


def _texts_of(frames: list[Frame]) -> list[tuple[bytes, bool]]:
    """The JSON texts of frames, each with whether its frame calls itself an error."""
    texts = []
    for frame in frames:
        if frame.data is not None:
            texts.append((frame.data, frame.event == b"error"))
        elif (found := _text_without_data(frame))[0]:
            texts.append(found)
    return texts


def _text_without_data(frame: Frame) -> tuple[bytes, bool]:
    """The JSON text in a frame without `data:`, and whether the frame is an error; no text if there is none.

    A gateway may write an error object between the frames. Older llama.cpp servers write errors in a field `error:`.
    """
    text = frame.raw.strip()
    if text.startswith(b"error:"):
        return text[6:].strip(), True
    return (text, frame.event == b"error") if text.startswith(b"{") else (b"", False)  # a comment, or other fields


def _error_object(value: Any) -> Any:
    """The value of an error frame in the form that all dialects read."""
    return {"error": value} if isinstance(value, dict) and not value.get("error") else value
