"""A tap: reads token usage, finish reason and model from a copy of an answer that passes through.

Laws:
1. A tap never raises, and never changes or delays a byte; what it cannot read it does not report.
2. Passing bytes are only searched for a few marks. JSON is parsed when `observed` is read, and then only in the frames
   with the last occurrence of a mark.
3. Memory is bounded: of a frame or a body above the bound only the end is kept.
"""

from __future__ import annotations

import functools
import re
import zlib
from typing import Any, NamedTuple

from relayd.protocols import _json
from relayd.protocols._frames import OVERLAP, complete, pieces
from relayd.protocols.dialect import TapFormat
from relayd.usage import Usage
from relayd.wire.sse import SseError, SseSplitter

MAX_FRAME_BYTES = 1024 * 1024
MAX_PLAIN_BYTES = 512 * 1024
TAIL_BYTES = 64 * 1024
KEPT_BYTES = 8 * 1024  # frames that are kept together, to be read at the end
MAX_INFLATED_BYTES = 1024 * 1024  # by one feed, which brings some 16 KiB; more is a bomb

_BLANK = rb"[ \t\r\n]*"
_LEVEL = rb"\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}"  # an object with at most two levels inside
_WORD = rb'"([^"\\]{1,256})"'


class Observed(NamedTuple):
    """What a tap has found in an answer; empty or None if the answer did not say."""

    model: str = ""
    finish: str = ""
    usage: Usage | None = None


class _Patterns:
    """The expressions of one format. A JSON text inside a string cannot match them: its quotation marks are escaped."""

    __slots__ = ("any", "finish", "finish_mark", "finish_word", "model", "model_word", "usage", "usage_mark",
                 "usage_object")  # fmt: skip

    def __init__(self, tap: TapFormat) -> None:
        usage, finish, model = (b'"%b"' % key.encode() for key in (tap.usage_key, tap.finish_key, tap.model_key))
        colon = _BLANK + b":" + _BLANK
        values = b"(?:" + b"|".join(value.encode() for value in tap.finish_values) + b')"' if tap.finish_values else b""
        self.usage_mark, self.finish_mark = usage, finish  # searched for before an expression is tried
        self.usage = re.compile(usage + colon + (rb"\{" if tap.usage_is_object else b""))
        self.finish = re.compile(finish + colon + b'"' + values)
        self.model = re.compile(model + colon + b'"')
        self.any = re.compile(self.usage.pattern + b"|" + self.finish.pattern)
        # For the end of a body that was too large to keep.
        self.usage_object = re.compile(usage + colon + (b"(" + _LEVEL + b")" if tap.usage_is_object else b"([0-9]+)"))
        self.model_word = re.compile(model + colon + _WORD)
        # With `finish_values` parts of an answer have such a member too: in a fragment it may be the one of a part.
        self.finish_word = None if tap.finish_values else re.compile(finish + colon + _WORD)


_patterns = functools.cache(_Patterns)


class Tap:
    """Taps one answer in this format; owned by the exchange."""

    __slots__ = (
        "_finish_at", "_first", "_format", "_held", "_inflater", "_is_blind", "_is_plain", "_is_whole", "_observed",
        "_patterns", "_size", "_started", "_usage_at",
    )  # fmt: skip

    def __init__(self, tap_format: TapFormat, content_encoding: str = "") -> None:
        self._format, self._patterns = tap_format, _patterns(tap_format)
        self._held = bytearray()
        self._size = 0
        self._is_plain: bool | None = None
        self._is_whole = False  # whether pieces are events, so that one that ends with a blank line is whole frames
        self._first = b""  # the frames in which the model, and Anthropic's input tokens, stand
        self._usage_at = self._finish_at = b""  # the last frames in which these words stood
        self._started = b""
        self._observed: Observed | None = None
        coding = content_encoding.strip().lower()
        self._inflater = _Inflater() if coding in ("gzip", "x-gzip", "deflate") else None
        self._is_blind = coding not in ("", "identity") and self._inflater is None

    def feed(self, data: bytes) -> None:
        """A piece of the answer's body, as it passes."""
        if self._is_blind or not data:
            return
        self._observed = None
        if self._inflater is not None:
            data = self._inflater.feed(data)
            if self._inflater.is_broken:
                self._is_blind = True
            if not data:
                return
        if self._is_plain is None:
            data = self._begin(data)
            if self._is_plain is None:
                return
        if self._is_plain:
            self._plain(data)
        else:
            self._is_whole = self._inflater is None and not self._format.is_ndjson
            self._frames(data)

    def skims(self, data: bytes) -> bool:
        """Whether this piece, which follows whole frames, is whole frames without anything to read, so that it need not
        be fed. Most pieces of a stream are like that."""
        patterns = self._patterns
        if not self._is_whole or not self._first or patterns.usage_mark in data or not data.endswith(b"\n\n"):
            return False
        return not _may_stand(patterns.finish_mark, data)

    @property
    def observed(self) -> Observed:
        """What was found so far; token counts of a stream are known at its end."""
        if self._observed is None:
            self._observed = self._read()
        return self._observed

    # ---- bytes

    def _begin(self, data: bytes) -> bytes:
        data = self._started + data
        first = data.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n")[:1]
        if not first or b"\xef\xbb\xbf".startswith(data):
            self._started = data[-64:]
            return b""
        self._started = b""
        self._is_plain = first in (b"{", b"[") and not self._format.is_ndjson
        return data

    def _plain(self, data: bytes) -> None:
        """Keep all of a small body; of a large one the beginning and the end."""
        self._size += len(data)
        self._held += data
        if self._size <= MAX_PLAIN_BYTES:
            return
        if not self._first:
            self._first = bytes(self._held[:4096])
        if len(self._held) > 2 * TAIL_BYTES:
            del self._held[:-TAIL_BYTES]

    def _frames(self, data: bytes) -> None:
        held = self._held
        if held:
            known = len(held)
            held += data
            end = self._end(held, known)
            if not end:
                if len(held) > MAX_FRAME_BYTES:
                    held[:-TAIL_BYTES] = b"data: "  # its end may still say what is asked for, see `_fragments`
                return
            frames = bytes(held[:end])
            del held[:end]
        else:
            end = self._end(data, 0)
            if end == len(data):
                frames = data
            else:
                frames = data[:end]
                held += data[end:]
                if not end:
                    return
        if len(frames) <= KEPT_BYTES:
            self._mark(frames)
        elif self._format.is_ndjson:
            for line in frames.splitlines(True):
                self._mark(line)
        else:
            for piece in pieces(frames, KEPT_BYTES):
                self._mark(piece)

    def _mark(self, frames: bytes) -> None:
        """Keep the whole frames that `_read` will parse."""
        patterns = self._patterns
        if not self._first and patterns.model.search(frames) is not None:
            self._first = frames
        if patterns.usage_mark in frames and _stands(patterns.usage, patterns.usage_mark, frames):
            self._usage_at = frames
        if _may_stand(patterns.finish_mark, frames) and _stands(patterns.finish, patterns.finish_mark, frames):
            self._finish_at = frames

    def _end(self, data: bytes | bytearray, known: int) -> int:
        if self._format.is_ndjson:
            return data.rfind(b"\n", known) + 1
        return complete(data, known - OVERLAP)

    # ---- observed

    def _read(self) -> Observed:
        found = _Found(self._format)
        if self._is_plain:
            self._read_plain(found)
            return found.observed()
        rest = bytes(self._held)  # the last frame may lack its blank line
        for frames in dict.fromkeys((self._first, self._finish_at, self._usage_at)):
            self._read_frames(frames, found)
        if rest and (self._patterns.any.search(rest) is not None or not self._first):
            self._read_frames(rest + b"\n\n", found)
        return found.observed()

    def _read_frames(self, frames: bytes, found: _Found) -> None:
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
        for place, piece in enumerate(pieces):
            # Of many frames in one piece only those count that say something, and the first and the last.
            if place in (0, last) or self._patterns.any.search(piece) is not None:
                try:
                    found.add(_json.parse_answer(piece))
                except ValueError:
                    found.add_fragment(piece)

    def _read_plain(self, found: _Found) -> None:
        if self._size <= MAX_PLAIN_BYTES:
            held = bytes(self._held)
            try:
                value = _json.parse_answer(held.removeprefix(b"\xef\xbb\xbf"))
            except ValueError:
                found.add_fragment(held)
                return
            for one in value if isinstance(value, list) else [value]:
                found.add(one)
            return
        found.add_fragment(self._first)
        found.add_fragment(bytes(self._held))


def _may_stand(word: bytes, frames: bytes) -> bool:
    """Whether the mark occurs with another value than null."""
    place = frames.find(word)
    if place < 0:
        return False
    behind = place + len(word)
    return not frames.startswith((b":null", b": null"), behind) or frames.find(word, behind) >= 0


def _stands(expression: re.Pattern[bytes], word: bytes, frames: bytes) -> bool:
    """Whether the expression matches where the mark occurs; a null behind it is common."""
    place = frames.find(word)
    while place >= 0:
        if expression.match(frames, place) is not None:
            return True
        place = frames.find(word, place + 1)
    return False


class _Found:
    """Merges the facts of an answer's values; later values replace earlier ones."""

    __slots__ = ("_finish", "_format", "_model", "_usage")

    def __init__(self, tap_format: TapFormat) -> None:
        self._format = tap_format
        self._model = self._finish = ""
        self._usage: dict[str, Any] = {}

    def add(self, value: Any) -> None:
        """One value of the answer: a body, a chunk, an event."""
        if value.__class__ is not dict:
            return
        model, finish, usage = self._format.facts(value)
        self._model = model or self._model
        self._finish = finish or self._finish
        if usage is not None:
            # A 0 fills in what somebody did not know: counts only grow.
            known = self._usage
            known |= {name: count for name, count in usage.items() if count or (count == 0 and name not in known)}

    def add_fragment(self, text: bytes) -> None:
        """A piece of JSON that cannot be parsed: the first model, the last finish reason and the last usage in it."""
        patterns = _patterns(self._format)
        if not self._model and (model := patterns.model_word.search(text)) is not None:
            self._model = model[1].decode("utf-8", "replace")
        for finish in patterns.finish_word.finditer(text) if patterns.finish_word is not None else ():
            self._finish = finish[1].decode("utf-8", "replace")
        if usages := patterns.usage_object.findall(text):
            try:
                self.add({self._format.usage_key: _json.parse_answer(usages[-1])})
            except ValueError:
                return

    def observed(self) -> Observed:
        """The merged facts."""
        return Observed(self._model, self._finish, self._format.usage(self._usage) if self._usage else None)


def observed_in(tap_format: TapFormat, body: bytes) -> Observed:
    """What a tap would find in a whole plain answer without a content coding."""
    if not tap_format.is_ndjson and len(body) <= MAX_PLAIN_BYTES and body[:1] == b"{":
        try:
            value = _json.parse_answer(body)
        except ValueError:
            value = None
        if value.__class__ is dict:
            found = _Found(tap_format)
            found.add(value)
            return found.observed()
    tap = Tap(tap_format)
    tap.feed(body)
    return tap.observed


class _Inflater:
    """Decodes gzip and deflate for the tap: bounded, and stopped by the first fault."""

    __slots__ = ("_begun", "_object", "is_broken")

    def __init__(self) -> None:
        self._object = zlib.decompressobj(47)  # gzip or zlib, whichever the first bytes say
        # The input, as long as it may be `deflate` without the wrapper that it should have.
        self._begun: bytes | None = b""
        self.is_broken = False

    def feed(self, data: bytes) -> bytes:
        if self._begun is not None:
            self._begun += data
        try:
            out = self._object.decompress(data, MAX_INFLATED_BYTES)
        except zlib.error:
            begun, self._begun = self._begun, None
            if begun is None:
                self.is_broken = True
                return b""
            self._object = zlib.decompressobj(-15)
            return self.feed(begun)
        if out or (self._begun is not None and len(self._begun) > TAIL_BYTES):
            self._begun = None
        if self._object.unconsumed_tail:
            self.is_broken = True
        return out
