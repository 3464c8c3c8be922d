"""Usage asked for by relayd itself in a Chat stream: the request's member added, the chunk it causes taken out again.

Laws:
1. Every byte but those of the added chunk stays as it came, in its order; the request is not serialised anew.
2. A frame is held until its end only while it is short enough to be that chunk; whole frames pass at once.
3. Only a chunk without choices and with usage is taken, and only the first: behind it everything passes unread.

The stream must come without a content coding, so whoever adds the member asks the endpoint for `identity` as well.
"""

from __future__ import annotations

import re

from relayd.protocols import _json
from relayd.protocols._frames import OVERLAP, complete, first_complete, with_mark
from relayd.wire.body import member_span
from relayd.wire.sse import Event, SseError, SseSplitter

MAX_HELD_BYTES = 16 * 1024
_ASK = b'{"include_usage":true}'
_MARK = re.compile(rb'"choices"[ \t\r\n]*:[ \t\r\n]*\[[ \t\r\n]*\]')


def with_include_usage(body: bytes) -> bytes | None:
    """The body of a Chat request that asks for usage too; None where it is no stream, asks already or is unreadable."""
    streams = member_span(body, "stream")
    if streams is None or body[streams[0] : streams[1]] != b"true":
        return None
    span = member_span(body, "stream_options")
    if span is None:
        if b'"stream_options"' in body:
            return None  # it stands there twice, or deeper inside: better no usage than another request
        return body[: streams[1]] + b',"stream_options":' + _ASK + body[streams[1] :]
    try:
        options = _json.parse(body[span[0] : span[1]])
    except ValueError:
        return None
    if options is None:
        options = {}
    if not isinstance(options, dict) or options.get("include_usage") not in (None, False):
        return None
    return body[: span[0]] + _json.write({**options, "include_usage": True}) + body[span[1] :]


class UsageChunkRemover:
    """Takes the usage chunk out of one stream; owned by the exchange that asked for it."""

    __slots__ = ("_held", "_is_done", "_passed")

    def __init__(self) -> None:
        self._held = b""  # the frame that has not ended
        self._passed: bytes | None = None  # the last bytes of a frame too long to hold, of which the rest must pass
        self._is_done = False

    def feed(self, data: bytes) -> bytes:
        """The bytes for the client."""
        if self._is_done or (
            not self._held and self._passed is None and b'"usage"' not in data and data.endswith(b"\n\n")
        ):
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
        frames, self._is_done = _without(data[:end])
        if self._is_done:
            self._held = b""
            return out + frames + rest
        if len(rest) > MAX_HELD_BYTES:
            self._held, self._passed = b"", rest[-OVERLAP:]
            return out + frames + rest
        self._held = rest
        return out + frames

    def end(self) -> bytes:
        """What was held when the stream ended; the last frame may lack its blank line."""
        held, self._held = self._held, b""
        return b"" if not self._is_done and _is_added(held + b"\n\n") else held


def _without(frames: bytes) -> tuple[bytes, bool]:
    """These frames without the first usage chunk, and whether there was one."""
    for begin, end in with_mark(frames, _MARK):
        if _is_added(frames[begin:end]):
            return frames[:begin] + frames[end:], True
    return frames, False


def _is_added(frame: bytes) -> bool:
    try:
        events = SseSplitter().feed(frame)
    except SseError:
        return False
    return any(_is_usage(event) for event in events)


def _is_usage(event: Event) -> bool:
    if event.data is None or _MARK.search(event.data) is None:
        return False
    try:
        chunk = _json.parse(event.data)
    except ValueError:
        return False
    return isinstance(chunk, dict) and chunk.get("choices") == [] and isinstance(chunk.get("usage"), dict)
