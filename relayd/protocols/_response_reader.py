"""Reading an endpoint's response, for all dialects: bytes to JSON values, with bounds and detection of truncation.

    bytes -> content coding -> byte order mark -> a JSON body, or frames of a stream -> ResponseDecoder -> events

Laws:
1. The first byte of the response decides between a JSON body and an event stream, not the request. Only between lines
   of JSON (NDJSON) and a body, which begin alike, the request decides.
2. The events of a frame are returned by the call that completed the frame.
3. The end of the bytes does not imply the end of the response: the dialect's ResponseDecoder decides. A frame at the
   end of the bytes that is not valid JSON was truncated.
4. Frames, bodies and decoded bytes are bounded, and no input from an endpoint raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from relayd.protocols._json import parse_lenient
from relayd.protocols._openai_errors import failure_of
from relayd.protocols._stop_strings import stop_filter
from relayd.protocols.canon import Event, Failure, ToolStart
from relayd.wire.decoding import BadEncoding, Decoder
from relayd.wire.ndjson import LineSplitter, NdjsonError
from relayd.wire.sse import SseError, SseSplitter

MIB = 1024 * 1024
MOST_BODY_BYTES = 64 * MIB
DECODED_BYTES = 4096  # in one call
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

    `begun` is True after a Begin event. `over` is True once the response has ended, successfully or not; no method is
    called after that.
    """

    begun: bool
    over: bool

    def value(self, value: Any, events: list[Event], is_error: bool) -> None:
        """One JSON value of a stream; `is_error` if the frame's event name is `error`."""

    def body(self, value: Any, events: list[Event]) -> None:
        """The JSON value of a response that is one body. It ends the response."""

    def done_marker(self, events: list[Event]) -> None:
        """The frame `[DONE]`."""

    def end_of_stream(self, events: list[Event]) -> None:
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
        "_asked_stream", "_body", "_content_decoder", "_dialect_decoder", "_framing", "_is_unframed", "_lines",
        "_names", "_prefix", "_size", "_splitter", "_stops",
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

    def decode(self, data: bytes) -> list[Event]:
        """See dialect.Reader."""
        events = self._read(data)
        return events if not self._names and self._stops is None else self._mapped(events)

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
        return self._content_decoder is not None and self._content_decoder.has_more

    def finish(self) -> list[Event]:
        """See dialect.Reader."""
        events = self._end()
        return events if not self._names and self._stops is None else self._mapped(events)

    def _end(self) -> list[Event]:
        decoder = self._dialect_decoder
        events: list[Event] = []
        while self.has_more and not decoder.over:
            events += self._read(b"")
        if decoder.over:
            return events
        if self._splitter is not None:
            if self._splitter.rest.strip():
                self._read_frames(self._splitter, b"\n\n", events, is_last=True)
            if not (decoder.begun or events or self._asked_stream):
                decoder.fail(NO_RESPONSE, events)
        elif not self._is_unframed:
            decoder.fail(EMPTY_STREAM if self._asked_stream else EMPTY, events)
        elif self._lines is not None:
            rest = self._lines.finish()
            if rest is not None:
                self._last_line(rest, events)
        else:
            self._end_of_body(events)
        if not decoder.over:
            decoder.end_of_stream(events)
        return events

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
            self._read_frames(self._splitter, text, events)

    # ---- bytes of a stream, of lines, of a body

    def _read_frames(self, splitter: SseSplitter, data: bytes, events: list[Event], is_last: bool = False) -> None:
        decoder = self._dialect_decoder
        try:
            frames = splitter.feed(data)
        except SseError:
            decoder.fail(FRAME_TOO_LARGE, events)
            return
        for frame in frames:
            text = frame.data
            if text is None:
                text = frame.raw.strip()
                if not text.startswith(b"{"):
                    continue  # a comment, or fields of the stream itself
                # A gateway may write an error object between the frames, without `data:`.
            try:
                value = parse_lenient(text)
            except ValueError:
                self._not_json(text, events, frame.event == b"error", is_last)
            else:
                decoder.value(value, events, frame.event == b"error")
            if decoder.over:
                return

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
        for line in lines:
            try:
                value = parse_lenient(line)
            except ValueError:
                self._not_json(line, events, False, False)
            else:
                decoder.value(value, events, False)
            if decoder.over:
                return

    def _last_line(self, line: bytes, events: list[Event]) -> None:
        try:
            value = parse_lenient(line)
        except ValueError:
            self._not_json(line, events, False, True)
        else:
            self._dialect_decoder.value(value, events, False)

    def _end_of_body(self, events: list[Event]) -> None:
        body = b"".join(self._body)
        self._body.clear()
        try:
            value = parse_lenient(body)
        except ValueError:
            self._dialect_decoder.fail(NOT_JSON, events)
        else:
            self._dialect_decoder.body(value, events)

    def _not_json(self, text: bytes, events: list[Event], is_error: bool, is_last: bool) -> None:
        """Handle a frame that is not JSON: the end marker, an error in plain text, or a protocol error."""
        stripped = text.strip()
        if not stripped:
            return
        if stripped == b"[DONE]":
            self._dialect_decoder.done_marker(events)
        elif is_error:
            shown = text[:2000].decode("utf-8", "replace")
            failure = failure_of(shown, 502) or Failure(502, "The upstream reported an error.")
            self._dialect_decoder.fail(failure, events)
        else:
            self._dialect_decoder.fail(CUT_FRAME if is_last else FRAME_NOT_JSON, events)
