"""Usage asked for by relayd itself in a Chat stream: the request's member added, what it causes taken out again.

Laws:
1. Every byte but those of the added usage stays as it came, in its order; the request is not serialised anew.
2. A frame is held until its end only while it is short enough to be a usage chunk; whole frames pass at once.
3. A chunk with usage and without choices (an empty list, null or no member at all) is taken out whole. In a chunk that
   says something else too, the usage becomes null, as OpenAI itself writes it. Endpoints send either in any chunk.

The stream must come without a content coding, so whoever adds the member asks the endpoint for `identity` as well.
"""

from __future__ import annotations

import re

from relayd.protocols import _json
from relayd.protocols._frames import OVERLAP, complete, first_complete, with_mark
from relayd.wire.body import JsonBody, edited, inspect_json, member_span
from relayd.wire.sse import Event, SseError, SseSplitter

MAX_HELD_BYTES = 16 * 1024
_LONGEST_OPTIONS = 4096
_ASK = b'{"include_usage":true}'
_MARK = re.compile(rb'"usage"[ \t\r\n]*:[ \t\r\n]*\{')


def with_include_usage(body: bytes) -> bytes | None:
    """The body of a Chat request that asks for usage too; None where it is no stream, asks already or is unreadable."""
    edit = usage_edit(inspect_json(body))
    return None if edit is None else edited(body, [edit])


def usage_edit(look: JsonBody) -> tuple[int, int, bytes] | None:
    """What to put where into such a body; None as above."""
    body, streams = look.body, look.span("stream")
    if streams is None or not look.flag("stream"):
        return None
    span = look.span("stream_options")
    if span is None:
        if "stream_options" in look.spans or b'"stream_options"' in body:
            return None  # it stands there twice, or deeper inside: better no usage than another request
        return streams[1], streams[1], b',"stream_options":' + _ASK
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


class UsageChunkRemover:
    """Takes the usage out of one stream; owned by the exchange that asked for it."""

    __slots__ = ("_held", "_passed")

    def __init__(self) -> None:
        self._held = b""  # the frame that has not ended
        self._passed: bytes | None = None  # the last bytes of a frame too long to hold, of which the rest must pass

    def feed(self, data: bytes) -> bytes:
        """The bytes for the client."""
        if not self._held and self._passed is None and b'"usage"' not in data and data.endswith(b"\n\n"):
            return data
        out = b""
        if self._passed is not None:
            seen = self._passed + data
            end = first_complete(seen)
            if not end:
                self._passed = seen[-OVERLAP:]
                return data
            out = data[: end - len(self._passed)]
            data = data[len(out) :]
            self._passed = None
        known = len(self._held)
        data = self._held + data
        end = complete(data, known - OVERLAP)
        rest = data[end:]
        frames = _without(data[:end])
        if len(rest) > MAX_HELD_BYTES:
            self._held, self._passed = b"", rest[-OVERLAP:]
            return out + frames + rest
        self._held = rest
        return out + frames

    def end(self) -> bytes:
        """What was held when the stream ended; the last frame may lack its blank line."""
        held, self._held = self._held, b""
        closed = held + b"\n\n"
        rest = _without(closed)
        if rest is closed:
            return held
        return rest.removesuffix(b"\n\n") if rest.strip() else b""


def _without(frames: bytes) -> bytes:
    """These frames without usage; the same object if there is none. Only the frames with the mark are read."""
    kept: list[bytes] = []
    passed = 0
    for begin, end in with_mark(frames, _MARK):
        frame = frames[begin:end]
        rest = _frame_without(frame)
        if rest is not frame:
            kept += (frames[passed:begin], rest)
            passed = end
    return b"".join((*kept, frames[passed:])) if kept else frames


def _frame_without(frame: bytes) -> bytes:
    splitter = SseSplitter()
    try:
        events = splitter.feed(frame)
    except SseError:
        return frame
    kept = [_stripped(event) for event in events]
    if all(one is event.raw for one, event in zip(kept, events, strict=True)):
        return frame
    return b"".join(kept) + splitter.rest


def _stripped(event: Event) -> bytes:
    """The frame without usage: nothing, the frame with null in its place, or the frame as it is."""
    raw, data = event.raw, event.data
    if data is None or _MARK.search(data) is None:
        return raw
    try:
        chunk = _json.parse_answer(data)
    except ValueError:
        return raw
    if not isinstance(chunk, dict) or not isinstance(chunk.get("usage"), dict) or chunk.get("error"):
        return raw
    if not chunk.get("choices") and "prompt_filter_results" not in chunk:  # which Azure sends in a chunk of its own
        return b""
    span, place = member_span(data, "usage"), raw.find(data)
    if span is None or place < 0:
        return raw
    return raw[: place + span[0]] + b"null" + raw[place + span[1] :]
