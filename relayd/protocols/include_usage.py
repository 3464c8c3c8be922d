"""Usage that relayd itself requests in a Chat stream: added to the request, and removed from the stream.

Laws:
1. All other bytes stay unchanged and in order; the request is not serialised anew.
2. A frame is buffered until its end only while it is short enough to be a usage chunk; whole frames pass at once.
3. A chunk with usage and without choices (an empty list, null or no member) is removed. In a chunk with other data the
   usage becomes null, as OpenAI itself writes it. Endpoints send usage in any chunk.

The stream must have no content coding, so code that adds the member requests `Accept-Encoding: identity` as well.
"""

from __future__ import annotations

from relayd.lazy_regex import lazy_regex
from relayd.protocols import _json
from relayd.protocols._frames import OVERLAP, first_frame_end, frames_with_mark, last_frame_end
from relayd.wire.body import JsonBody, edited, inspect_json, member_span
from relayd.wire.sse import Event, SseError, SseSplitter

MAX_BUFFERED_BYTES = 16 * 1024
_LONGEST_OPTIONS = 4096
_INCLUDE_USAGE = b'{"include_usage":true}'
_MARK = lazy_regex(rb'"usage"[ \t\r\n]*:[ \t\r\n]*\{')


def with_include_usage(body: bytes) -> bytes | None:
    """The body of a Chat request with a request for usage; None if it is no stream, has one or is unreadable."""
    edit = usage_edit(inspect_json(body))
    return None if edit is None else edited(body, [edit])


def usage_edit(look: JsonBody) -> tuple[int, int, bytes] | None:
    """The edit that adds the request for usage; None as above."""
    body, stream_span = look.body, look.span("stream")
    if stream_span is None or not look.flag("stream"):
        return None
    span = look.span("stream_options")
    if span is None:
        if "stream_options" in look.spans or b'"stream_options"' in body:
            return None  # repeated, or nested: adding the member might change the request
        return stream_span[1], stream_span[1], b',"stream_options":' + _INCLUDE_USAGE
    if span[1] - span[0] > _LONGEST_OPTIONS:
        return None
    try:
        options = _json.parse(body[span[0] : span[1]])
    except ValueError:
        return None
    if options is None:
        options = {}
    if not isinstance(options, dict) or options.get("include_usage") not in (None, False):
        return None
    return (*span, _json.write({**options, "include_usage": True}))


class UsageChunkFilter:
    """Removes the usage from one stream; owned by the exchange that requested it."""

    __slots__ = ("_buffer", "_tail")

    def __init__(self) -> None:
        self._buffer = b""  # the incomplete frame
        self._tail: bytes | None = None  # the last bytes of a frame too long to buffer, the rest of which passes

    def filter(self, data: bytes) -> bytes:
        """The bytes to send to the client."""
        if not self._buffer and self._tail is None and b'"usage"' not in data and data.endswith(b"\n\n"):
            return data
        out = b""
        if self._tail is not None:
            joined = self._tail + data
            end = first_frame_end(joined)
            if not end:
                self._tail = joined[-OVERLAP:]
                return data
            out = data[: end - len(self._tail)]
            data = data[len(out) :]
            self._tail = None
        known = len(self._buffer)
        data = self._buffer + data
        end = last_frame_end(data, known - OVERLAP)
        rest = data[end:]
        frames = _remove_usage(data[:end])
        if len(rest) > MAX_BUFFERED_BYTES:
            self._buffer, self._tail = b"", rest[-OVERLAP:]
            return out + frames + rest
        self._buffer = rest
        return out + frames

    def flush(self) -> bytes:
        """The rest at the end of the stream; the last frame may lack its blank line."""
        buffer, self._buffer = self._buffer, b""
        closed = buffer + b"\n\n"
        rest = _remove_usage(closed)
        if rest is closed:
            return buffer
        return rest.removesuffix(b"\n\n") if rest.strip() else b""


def _remove_usage(frames: bytes) -> bytes:
    """These frames without usage; the same object if they have none. Only frames with the mark are parsed."""
    parts: list[bytes] = []
    copied = 0
    for begin, end in frames_with_mark(frames, _MARK):
        frame = frames[begin:end]
        rest = _remove_from_frame(frame)
        if rest is not frame:
            parts += (frames[copied:begin], rest)
            copied = end
    return b"".join((*parts, frames[copied:])) if parts else frames


def _remove_from_frame(frame: bytes) -> bytes:
    splitter = SseSplitter()
    try:
        events = splitter.feed(frame)
    except SseError:
        return frame
    parts = [_remove_from_event(event) for event in events]
    if all(one is event.raw for one, event in zip(parts, events, strict=True)):
        return frame
    return b"".join(parts) + splitter.rest


def _remove_from_event(event: Event) -> bytes:
    """The frame without usage: empty, the frame with `"usage": null`, or the unchanged frame."""
    raw, data = event.raw, event.data
    if data is None or _MARK.search(data) is None:
        return raw
    try:
        chunk = _json.parse_lenient(data)
    except ValueError:
        return raw
    if not isinstance(chunk, dict) or not isinstance(chunk.get("usage"), dict) or chunk.get("error"):
        return raw
    if not chunk.get("choices") and "prompt_filter_results" not in chunk:  # Azure sends these in a chunk of their own
        return b""
    span, position = member_span(data, "usage"), raw.find(data)
    if span is None or position < 0:
        return raw
    return raw[: position + span[0]] + b"null" + raw[position + span[1] :]
