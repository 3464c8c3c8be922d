"""A tap: reads token usage, finish reason and model from a copy of a response that passes through.

Laws:
1. A tap never raises, and never changes or delays a byte; it does not report a value that it cannot read.
2. Passing bytes are only searched for a few marks. JSON is parsed when `observed` is read, and then only in the frames
   with the last occurrence of a mark.
3. Memory is bounded: only the end of a frame or a body above the bound is kept.
"""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

from relayd.lazy_regex import lazy_regex
from relayd.protocols import _json
from relayd.protocols._frames import OVERLAP, last_frame_end, split_frames
from relayd.protocols.dialect import TapFormat
from relayd.usage import Usage
from relayd.wire.sse import SseError, SseSplitter

MAX_FRAME_BYTES = 1024 * 1024
MAX_PLAIN_BYTES = 512 * 1024
TAIL_BYTES = 64 * 1024
RETAINED_BYTES = 8 * 1024  # the size of the pieces in which frames are retained until the end
MAX_INFLATED_BYTES = 1024 * 1024  # from one piece of about 16 KiB; a larger output is a decompression bomb

_WHITESPACE = rb"[ \t\r\n]*"
_LEVEL = rb"\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}"  # an object with at most two levels inside
_STRING = rb'"([^"\\]{1,256})"'
# A member or a value with this text may be an error: `"error": {...}`, `"type": "error"`, `"finish_reason": "error"`.
_ERROR_KEY = "error"


class Observed(NamedTuple):
    """The facts that a tap has found in a response; empty or None if the response does not contain them."""

    model: str = ""
    finish: str = ""
    usage: Usage | None = None


class _Patterns:
    """The expressions of one format. JSON text inside a string cannot match them: its quotation marks are escaped."""

    __slots__ = (
        "any", "facts", "facts_or_model", "finish", "finish_value", "model", "model_value", "usage", "usage_object",
    )

    def __init__(self, tap: TapFormat) -> None:
        usage, finish, model = (b'"%b"' % key.encode() for key in (tap.usage_key, tap.finish_key, tap.model_key))
        colon = _WHITESPACE + b":" + _WHITESPACE
        values = b"(?:" + b"|".join(value.encode() for value in tap.finish_values) + b')"' if tap.finish_values else b""
        # Usage or a finish reason with a value, or an error. Most pieces of a stream have none of them, or have null.
        self.facts = re.compile(_with_value(tap.usage_key, tap.finish_key, _ERROR_KEY))
        self.facts_or_model = re.compile(_with_value(tap.usage_key, tap.finish_key, tap.model_key, _ERROR_KEY))
        self.usage = re.compile(usage + colon + (rb"\{" if tap.usage_is_object else b""))
        self.finish = re.compile(finish + colon + b'"' + values)
        self.model = re.compile(model + colon + b'"')
        self.any = re.compile(self.usage.pattern + b"|" + self.finish.pattern)
        # For the end of a body that exceeds the bound.
        self.usage_object = re.compile(usage + colon + (b"(" + _LEVEL + b")" if tap.usage_is_object else b"([0-9]+)"))
        self.model_value = re.compile(model + colon + _STRING)
        # With `finish_values`, parts of a response have such a member too: a match in a fragment may belong to a part.
        self.finish_value = None if tap.finish_values else re.compile(finish + colon + _STRING)


def _with_value(*keys: str) -> bytes:
    """An expression that matches a text that is one of these, unless it is a member whose value is null."""
    names = b"|".join(key.encode() for key in keys)
    return b'"(?:' + names + b')"(?!' + _WHITESPACE + b":" + _WHITESPACE + b"null)"


_ERROR = lazy_regex(_with_value(_ERROR_KEY))
_patterns = functools.cache(_Patterns)


class Tap:
    """Taps one response in this format; owned by the exchange."""

    __slots__ = (
        "_buffer", "_error_frames", "_finish_frames", "_format", "_inflater", "_is_plain", "_is_plain_sse",
        "_is_unreadable", "_model_frames", "_observed", "_patterns", "_prefix", "_size", "_usage_frames",
    )  # fmt: skip

    def __init__(self, tap_format: TapFormat, content_encoding: str = "") -> None:
        self._format, self._patterns = tap_format, _patterns(tap_format)
        self._buffer = bytearray()
        self._size = 0
        self._is_plain: bool | None = None
        self._is_plain_sse = False  # server-sent events without a content coding
        self._model_frames = b""  # the frames with the model and Anthropic's input tokens
        self._usage_frames = self._finish_frames = b""  # the last frames with these members
        self._error_frames = b""  # the last frames that may report an error
        self._prefix = b""
        self._observed: Observed | None = None
        coding = content_encoding.strip().lower()
        self._inflater = _Inflater() if coding in ("gzip", "x-gzip", "deflate") else None
        self._is_unreadable = coding not in ("", "identity") and self._inflater is None

    def observe(self, data: bytes) -> None:
        """Process a piece of the response body as it passes."""
        if self._is_unreadable or not data:
            return
        self._observed = None
        if self._inflater is not None:
            data = self._inflater.decompress(data)
            if self._inflater.is_broken:
                self._is_unreadable = True
            if not data:
                return
        if self._is_plain is None:
            data = self._detect_format(data)
            if self._is_plain is None:
                return
        if self._is_plain:
            self._add_plain(data)
        else:
            self._is_plain_sse = self._inflater is None and not self._format.is_ndjson
            self._add_frames(data)

    @property
    def search_facts(self) -> Callable[[bytes], object] | None:
        """A function that returns None for whole frames which need not be observed, as most frames of a stream. None
        if all must be."""
        if not self._is_plain_sse:
            return None
        return (self._patterns.facts if self._model_frames else self._patterns.facts_or_model).search

    @property
    def observed(self) -> Observed:
        """The facts found so far; the token counts of a stream are known at its end."""
        if self._observed is None:
            self._observed = self._read()
        return self._observed

    @property
    def possible_failure(self) -> tuple[bytes, bool]:
        """What may report a failure: the last frames of a stream that do, or a small plain body, and True for frames.
        Empty if nothing does."""
        if not self._is_plain:
            rest = bytes(self._buffer)  # the last frame may lack its blank line
            return (self._error_frames if _ERROR.search(rest) is None else rest + b"\n\n"), True
        is_whole = self._size <= MAX_PLAIN_BYTES
        return (bytes(self._buffer) if is_whole and _ERROR.search(self._buffer) is not None else b""), False

    # ---- bytes

    def _detect_format(self, data: bytes) -> bytes:
        data = self._prefix + data
        first = data.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n")[:1]
        if not first or b"\xef\xbb\xbf".startswith(data):
            self._prefix = data[-64:]
            return b""
        self._prefix = b""
        self._is_plain = first in (b"{", b"[") and not self._format.is_ndjson
        return data

    def _add_plain(self, data: bytes) -> None:
        """Keep all of a small body, and the beginning and the end of a large one."""
        self._size += len(data)
        self._buffer += data
        if self._size <= MAX_PLAIN_BYTES:
            return
        if not self._model_frames:
            self._model_frames = bytes(self._buffer[:4096])
        if len(self._buffer) > 2 * TAIL_BYTES:
            del self._buffer[:-TAIL_BYTES]

    def _add_frames(self, data: bytes) -> None:
        buffer = self._buffer
        if buffer:
            known = len(buffer)
            buffer += data
            end = self._frames_end(buffer, known)
            if not end:
                if len(buffer) > MAX_FRAME_BYTES:
                    buffer[:-TAIL_BYTES] = b"data: "  # its end may still hold the facts, see `add_fragment`
                return
            frames = bytes(buffer[:end])
            del buffer[:end]
        else:
            end = self._frames_end(data, 0)
            if end == len(data):
                frames = data
            else:
                frames = data[:end]
                buffer += data[end:]
                if not end:
                    return
        if len(frames) <= RETAINED_BYTES:
            self._retain(frames)
        elif self._format.is_ndjson:
            for line in frames.splitlines(True):
                self._retain(line)
        else:
            for piece in split_frames(frames, RETAINED_BYTES):
                self._retain(piece)

    def _retain(self, frames: bytes) -> None:
        """Retain the whole frames that `_read` will parse."""
        patterns = self._patterns
        if not self._model_frames and patterns.model.search(frames) is not None:
            self._model_frames = frames
        if patterns.facts.search(frames) is None:
            return
        if patterns.usage.search(frames) is not None:
            self._usage_frames = frames
        if patterns.finish.search(frames) is not None:
            self._finish_frames = frames
        if _ERROR.search(frames) is not None:
            self._error_frames = frames

    def _frames_end(self, data: bytes | bytearray, known: int) -> int:
        if self._format.is_ndjson:
            return data.rfind(b"\n", known) + 1
        return last_frame_end(data, known - OVERLAP)

    # ---- observed

    def _read(self) -> Observed:
        merger = _FactsMerger(self._format)
        if self._is_plain:
            self._read_plain(merger)
            return merger.observed()
        rest = bytes(self._buffer)  # the last frame may lack its blank line
        for frames in dict.fromkeys((self._model_frames, self._finish_frames, self._usage_frames)):
            self._read_frames(frames, merger)
        if rest and (self._patterns.any.search(rest) is not None or not self._model_frames):
            self._read_frames(rest + b"\n\n", merger)
        return merger.observed()

    def _read_frames(self, frames: bytes, merger: _FactsMerger) -> None:
        if not frames:
            return
        if self._format.is_ndjson:
            pieces = frames.split(b"\n")
        else:
            splitter = SseSplitter(4 * MAX_FRAME_BYTES, 4 * MAX_FRAME_BYTES)
            try:
                pieces = [event.data for event in splitter.feed(frames) if event.data]
            except SseError:
                return
        last = len(pieces) - 1
        for position, piece in enumerate(pieces):
            # A piece of many frames: only frames with a mark, the first and the last are parsed.
            if position in (0, last) or self._patterns.any.search(piece) is not None:
                try:
                    merger.add(_json.parse_lenient(piece))
                except ValueError:
                    merger.add_fragment(piece)

    def _read_plain(self, merger: _FactsMerger) -> None:
        if self._size <= MAX_PLAIN_BYTES:
            buffer = bytes(self._buffer)
            try:
                value = _json.parse_lenient(buffer.removeprefix(b"\xef\xbb\xbf"))
            except ValueError:
                merger.add_fragment(buffer)
                return
            for one in value if isinstance(value, list) else [value]:
                merger.add(one)
            return
        merger.add_fragment(self._model_frames)
        merger.add_fragment(bytes(self._buffer))


class _FactsMerger:
    """Merges the facts of a response's values; later values replace earlier ones."""

    __slots__ = ("_finish", "_format", "_model", "_usage")

    def __init__(self, tap_format: TapFormat) -> None:
        self._format = tap_format
        self._model = self._finish = ""
        self._usage: dict[str, Any] = {}

    def add(self, value: Any) -> None:
        """Merge one value of the response: a body, a chunk or an event."""
        if value.__class__ is not dict:
            return
        model, finish, usage = self._format.facts(value)
        self._model = model or self._model
        self._finish = finish or self._finish
        if usage is not None:
            # Some endpoints write 0 for an unknown count: a 0 never replaces a count.
            known = self._usage
            known |= {name: count for name, count in usage.items() if count or (count == 0 and name not in known)}

    def add_fragment(self, text: bytes) -> None:
        """Merge the first model, the last finish reason and the last usage of JSON text that cannot be parsed."""
        patterns = _patterns(self._format)
        if not self._model and (model := patterns.model_value.search(text)) is not None:
            self._model = model[1].decode("utf-8", "replace")
        for finish in patterns.finish_value.finditer(text) if patterns.finish_value is not None else ():
            self._finish = finish[1].decode("utf-8", "replace")
        if usages := patterns.usage_object.findall(text):
            try:
                self.add({self._format.usage_key: _json.parse_lenient(usages[-1])})
            except ValueError:
                return

    def observed(self) -> Observed:
        """The merged facts."""
        return Observed(self._model, self._finish, self._format.usage(self._usage) if self._usage else None)


def observe_body(tap_format: TapFormat, body: bytes) -> Observed:
    """The facts that a tap would find in a complete plain response without a content coding."""
    if not tap_format.is_ndjson and len(body) <= MAX_PLAIN_BYTES and body[:1] == b"{":
        try:
            value = _json.parse_lenient(body)
        except ValueError:
            value = None
        if value.__class__ is dict:
            model, finish, usage = tap_format.facts(value)
            is_reported = usage and (any(usage.values()) or 0 in usage.values())
            return Observed(model, finish, tap_format.usage(usage) if usage and is_reported else None)
    tap = Tap(tap_format)
    tap.observe(body)
    return tap.observed


def may_report_failure(body: bytes) -> bool:
    """True if a complete plain body must be read to know whether it reports a failure."""
    return len(body) <= MAX_PLAIN_BYTES and _ERROR.search(body) is not None


class _Inflater:
    """Decodes gzip and deflate for the tap: bounded, and stopped by the first error."""

    __slots__ = ("_decompressor", "_prefix", "is_broken")

    def __init__(self) -> None:
        self._decompressor = zlib.decompressobj(47)  # gzip or zlib, detected from the first bytes
        # The input, as long as it may be a raw `deflate` stream without the zlib wrapper.
        self._prefix: bytes | None = b""
        self.is_broken = False

    def decompress(self, data: bytes) -> bytes:
        if self._prefix is not None:
            self._prefix += data
        try:
            out = self._decompressor.decompress(data, MAX_INFLATED_BYTES)
        except zlib.error:
            prefix, self._prefix = self._prefix, None
            if prefix is None:
                self.is_broken = True
                return b""
            self._decompressor = zlib.decompressobj(-15)
            return self.decompress(prefix)
        if out or (self._prefix is not None and len(self._prefix) > TAIL_BYTES):
            self._prefix = None
        if self._decompressor.unconsumed_tail:
            self.is_broken = True
        return out
