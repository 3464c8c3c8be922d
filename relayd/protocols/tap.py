"""A side tap: tokens, finish reason and model of an answer that passes through, read from a copy.

Laws:
1. A tap never raises, never changes and never delays a byte; what it cannot read it does not report.
2. While bytes pass, they are only searched for a few words. JSON is read when somebody asks what was seen, and then
   only the frames in which the last of these words stood.
3. Memory is bounded: a frame or a body above the bound is forgotten but for its end.
"""

from __future__ import annotations

import re
import zlib
from typing import Any

from relayd.protocols import _json
from relayd.protocols._frames import OVERLAP, complete, pieces
from relayd.protocols.dialect import Tapped
from relayd.wire.sse import SseError, SseSplitter

MAX_FRAME_BYTES = 1024 * 1024
MAX_PLAIN_BYTES = 512 * 1024
TAIL_BYTES = 64 * 1024
KEPT_BYTES = 8 * 1024  # frames that are kept together, to be read at the end
MAX_INFLATED_BYTES = 1024 * 1024  # by one feed, which brings some 16 KiB; more is a bomb

# A nested JSON text cannot look like these: the quotation marks in it are escaped.
_USAGE = re.compile(
    rb'"(?:usage|usageMetadata)"[ \t\r\n]*:[ \t\r\n]*\{|"(?:prompt_eval_count|eval_count)"[ \t\r\n]*:'
)
_FINISH = re.compile(
    rb'"(?:finish_reason|stop_reason|finishReason|done_reason)"[ \t\r\n]*:[ \t\r\n]*"'
    rb'|"status"[ \t\r\n]*:[ \t\r\n]*"(?:completed|incomplete|failed|cancelled)"'
)
_MODEL = re.compile(rb'"(?:model|modelVersion)"[ \t\r\n]*:[ \t\r\n]*"')
_ANY = re.compile(_USAGE.pattern + b"|" + _FINISH.pattern)
# What to look for before one of the expressions is asked: where usage stands, and where the finish reason does.
_WORDS: dict[str, tuple[bytes, bytes]] = {
    "openai_chat": (b'"usage"', b'"finish_reason"'),
    "openai_responses": (b'"usage"', b'"status"'),
    "anthropic_messages": (b'"usage"', b'"stop_reason"'),
    "gemini": (b'"usageMetadata"', b'"finishReason"'),
    "ollama": (b'"eval_count"', b'"done_reason"'),
}
# In the end of a body that was too large to keep: an object with at most two levels inside.
_LEVEL = rb"\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}"
_USAGE_OBJECT = re.compile(rb'"(?:usage|usageMetadata)"[ \t\r\n]*:[ \t\r\n]*(' + _LEVEL + rb")")
_WORD = rb'[ \t\r\n]*:[ \t\r\n]*"([^"\\]{1,256})"'
_MODEL_WORD = re.compile(rb'"(?:model|modelVersion)"' + _WORD)
_FINISH_WORD = re.compile(rb'"(?:finish_reason|stop_reason|finishReason|done_reason)"' + _WORD)


class Tap:
    """Taps one answer; owned by the exchange. `dialect` is the name of the endpoint's dialect."""

    __slots__ = (
        "_dialect", "_finish_at", "_first", "_held", "_inflater", "_is_blind", "_is_plain", "_is_whole", "_seen",
        "_size", "_started", "_usage_at", "_words",
    )  # fmt: skip

    def __init__(self, dialect: str, content_encoding: str = "") -> None:
        self._dialect = dialect
        self._words = _WORDS.get(dialect, _WORDS["openai_chat"])
        self._held = bytearray()
        self._size = 0
        self._is_plain: bool | None = None
        self._is_whole = False  # whether pieces are events, so that one that ends with a blank line is whole frames
        self._first = b""  # the frames in which the model, and Anthropic's input tokens, stand
        self._usage_at = self._finish_at = b""  # the last frames in which these words stood
        self._started = b""
        self._seen: Tapped | None = None
        coding = content_encoding.strip().lower()
        self._inflater = _Inflater() if coding in ("gzip", "x-gzip", "deflate") else None
        self._is_blind = coding not in ("", "identity") and self._inflater is None

    def feed(self, data: bytes) -> None:
        """A piece of the answer's body, as it passes."""
        if self._is_blind or not data:
            return
        self._seen = None
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
            self._is_whole = self._inflater is None and self._dialect != "ollama"
            self._frames(data)

    def skims(self, data: bytes) -> bool:
        """Whether this piece, which follows whole frames, is whole frames too in which nothing stands that will be
        read: it need not be fed. Most pieces of a stream are like that."""
        usage, finish = self._words
        if not self._is_whole or not self._first or usage in data or not data.endswith(b"\n\n"):
            return False
        return not _may_stand(finish, data)

    @property
    def seen(self) -> Tapped:
        """What was seen so far; the numbers of a stream are known at its end."""
        if self._seen is None:
            self._seen = self._read()
        return self._seen

    # ---- bytes

    def _begin(self, data: bytes) -> bytes:
        data = self._started + data
        first = data.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n")[:1]
        if not first or b"\xef\xbb\xbf".startswith(data):
            self._started = data[-64:]
            return b""
        self._started = b""
        self._is_plain = first in (b"{", b"[") and self._dialect != "ollama"
        return data

    def _plain(self, data: bytes) -> None:
        """All of a small body; of a large one what stands before its first bulk, and its end."""
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
        elif self._dialect == "ollama":
            for line in frames.splitlines(True):
                self._mark(line)
        else:
            for piece in pieces(frames, KEPT_BYTES):
                self._mark(piece)

    def _mark(self, frames: bytes) -> None:
        """Keep whole frames in which something stands that will be read at the end."""
        if not self._first and _MODEL.search(frames) is not None:
            self._first = frames
        usage, finish = self._words
        if usage in frames and _stands(_USAGE, usage, frames):
            self._usage_at = frames
        if _may_stand(finish, frames) and _stands(_FINISH, finish, frames):
            self._finish_at = frames

    def _end(self, data: bytes | bytearray, known: int) -> int:
        if self._dialect == "ollama":
            return data.rfind(b"\n", known) + 1
        return complete(data, known - OVERLAP)

    # ---- what was seen

    def _read(self) -> Tapped:
        found = _Found(self._dialect == "anthropic_messages")
        if self._is_plain:
            self._read_plain(found)
            return found.tapped()
        rest = bytes(self._held)  # the last frame may lack its blank line
        for frames in dict.fromkeys((self._first, self._finish_at, self._usage_at)):
            self._read_frames(frames, found)
        if rest and (_ANY.search(rest) is not None or not self._first):
            self._read_frames(rest + b"\n\n", found)
        return found.tapped()

    def _read_frames(self, frames: bytes, found: _Found) -> None:
        if not frames:
            return
        if self._dialect == "ollama":
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
            if place in (0, last) or _ANY.search(piece) is not None:
                try:
                    found.take(_json.an_object(_json.parse(piece)))
                except ValueError:
                    _fragments(piece, found)

    def _read_plain(self, found: _Found) -> None:
        if self._size <= MAX_PLAIN_BYTES:
            held = bytes(self._held)
            try:
                value = _json.parse(held.removeprefix(b"\xef\xbb\xbf"))
            except ValueError:
                _fragments(held, found)
                return
            for one in value if isinstance(value, list) else [value]:
                found.take(_json.an_object(one))
            return
        _fragments(self._first, found)
        _fragments(bytes(self._held), found)


def _may_stand(word: bytes, frames: bytes) -> bool:
    """Whether a word stands there with more behind it than a null, as it nearly always has."""
    place = frames.find(word)
    if place < 0:
        return False
    behind = place + len(word)
    return not frames.startswith((b":null", b": null"), behind) or frames.find(word, behind) >= 0


def _stands(expression: re.Pattern[bytes], word: bytes, frames: bytes) -> bool:
    """Whether the expression matches at one of the places where the word stands; a null behind the word is common."""
    place = frames.find(word)
    while place >= 0:
        if expression.match(frames, place) is not None:
            return True
        place = frames.find(word, place + 1)
    return False


class _Found:
    """What the values of an answer say; later ones win."""

    def __init__(self, is_anthropic: bool) -> None:
        self._is_anthropic = is_anthropic
        self.model: str | None = None
        self.finish: str | None = None
        self.usage: dict[str, Any] = {}

    def take(self, value: dict[str, Any]) -> None:
        """One value of the answer: a body, a chunk, an event."""
        for wrapper in ("response", "message"):  # the Responses API's events, Anthropic's message_start
            if wrapper in value and isinstance(value[wrapper], dict):
                self.take(value[wrapper])
        model = value.get("model") or value.get("modelVersion")
        if isinstance(model, str) and model:
            self.model = model
        usage = value.get("usage") or value.get("usageMetadata")
        if not isinstance(usage, dict):
            usage = {key: value[key] for key in ("prompt_eval_count", "eval_count") if key in value}
        if self.usage:
            self.usage = self.usage | {key: one for key, one in usage.items() if one is not None}
        else:
            self.usage = usage
        self.finish = _finish(value) or self.finish

    def tapped(self) -> Tapped:
        """The tokens in relayd's own counting: input with what was cached, output with what was thought."""
        input = output = cached = reasoning = created = thoughts = None
        for name, value in self.usage.items():
            field = _FIELDS.get(name)
            if field is None or value is None:
                continue
            if field in (_BEFORE, _AFTER):
                inner = _json.an_object(value).get("cached_tokens" if field == _BEFORE else "reasoning_tokens")
                if inner is not None and field == _BEFORE:
                    cached = _json.a_count(inner)
                elif inner is not None:
                    reasoning = _json.a_count(inner)
                continue
            count = value if value.__class__ is int and 0 <= value < _LARGE else _json.a_count(value)
            if field == _INPUT:
                input = count if input is None or name == "prompt_tokens" else input
            elif field == _OUTPUT:
                output = count if output is None or name == "completion_tokens" else output
            elif field == _CACHED:
                cached = count if cached is None else cached
            elif field == _CREATED:
                created = count
            else:
                thoughts = count
        if thoughts is not None:
            output, reasoning = (output or 0) + thoughts, thoughts
        if self._is_anthropic and input is not None:
            input += (cached or 0) + (created or 0)
        return Tapped(self.model, self.finish, input, output, cached, reasoning)


_BEFORE, _AFTER, _INPUT, _OUTPUT, _CACHED, _CREATED, _THOUGHTS = range(7)
_FIELDS = {
    "prompt_tokens_details": _BEFORE, "input_tokens_details": _BEFORE,
    "completion_tokens_details": _AFTER, "output_tokens_details": _AFTER,
    "prompt_tokens": _INPUT, "input_tokens": _INPUT, "promptTokenCount": _INPUT, "prompt_eval_count": _INPUT,
    "completion_tokens": _OUTPUT, "output_tokens": _OUTPUT, "candidatesTokenCount": _OUTPUT, "eval_count": _OUTPUT,
    "cache_read_input_tokens": _CACHED, "cachedContentTokenCount": _CACHED, "prompt_cache_hit_tokens": _CACHED,
    "cache_creation_input_tokens": _CREATED, "thoughtsTokenCount": _THOUGHTS,
}
_LARGE = 1 << 53


def seen_in(dialect: str, body: bytes) -> Tapped:
    """What a tap would have seen in a whole plain answer without a content coding."""
    if dialect != "ollama" and len(body) <= MAX_PLAIN_BYTES and body[:1] == b"{":
        try:
            value = _json.parse(body)
        except ValueError:
            value = None
        if value.__class__ is dict:
            found = _Found(dialect == "anthropic_messages")
            found.take(value)
            return found.tapped()
    tap = Tap(dialect)
    tap.feed(body)
    return tap.seen


def _finish(value: dict[str, Any]) -> str:
    for key in ("choices", "candidates"):
        for choice in _json.a_list(value.get(key)):
            choice = _json.an_object(choice)
            if found := _json.a_text(choice.get("finish_reason") or choice.get("finishReason")):
                return found
    delta = _json.an_object(value.get("delta"))
    for where in (delta, value):
        if found := _json.a_text(where.get("stop_reason") or where.get("done_reason")):
            return found
    status = _json.a_text(value.get("status"))
    if status in ("completed", "incomplete", "failed", "cancelled") and value.get("object") == "response":
        return _json.a_text(_json.an_object(value.get("incomplete_details")).get("reason")) or status
    return ""


def _fragments(text: bytes, found: _Found) -> None:
    """What can be told from a piece of JSON: the first model, the last finish reason, the last usage object."""
    if found.model is None and (model := _MODEL_WORD.search(text)) is not None:
        found.model = model[1].decode("utf-8", "replace")
    for finish in _FINISH_WORD.finditer(text):
        found.finish = finish[1].decode("utf-8", "replace")
    if usages := _USAGE_OBJECT.findall(text):
        try:
            found.take({"usage": _json.parse(usages[-1])})
        except ValueError:
            return


class _Inflater:
    """gzip and deflate, for the tap's eyes only: bounded, and over at the first fault."""

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
