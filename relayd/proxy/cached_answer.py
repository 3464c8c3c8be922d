"""An answer in the cache: its form in the store, and the check that it is complete.

1. Of the response only the status 200, the type of its content and its body are kept: no cookies, no limits and no ids
   of the endpoint's header. Nothing of the request is kept but the digest in the key.
2. The body is kept in the pieces in which the first client got it, at most MOST_PIECES of them.
3. An answer is kept if a reader of its dialect finds content, an end and no failure in it, and if the model ended it
   itself, at a tool call or at the limit of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from relayd.dataclass import dataclass
from relayd.protocols.canon import End, Failure, Finish, ReasoningDelta, RefusalDelta, Request, TextDelta, ToolStart
from relayd.protocols.dialect import Dialect, Options
from relayd.protocols.no_memory import NoMemory
from relayd.usage import Usage
from relayd.wire.json_steps import Steps

VERSION = 1
MOST_PIECES = 4096
PIECE_BYTES = 64 * 1024  # the rest of an answer of more pieces is replayed in such pieces
STEP_BYTES = 4096
MOST_S, MOST_TOKENS = 1e12, 1 << 40  # of a stored value that somebody else has written
_CONTENT = (TextDelta, RefusalDelta, ReasoningDelta, ToolStart)
_ENDINGS = frozenset({"stop", "length", "tool_calls"})


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """`stored_s` is the time of the end of the answer, in Unix seconds; `sizes` are those of the pieces of `body`."""

    stored_s: float
    content_type: str
    sizes: tuple[int, ...]
    body: bytes
    usage: Usage | None = None
    model: str = ""

    @property
    def is_stream(self) -> bool:
        """True if the body is a stream, which a replay sends in pieces without a length."""
        return self.content_type.lower().startswith("text/event-stream")

    def pieces(self) -> Iterator[bytes]:
        """The body in pieces."""
        at, body = 0, self.body
        for size in self.sizes:
            yield body[at : at + size]
            at += size
        for start in range(at, len(body), PIECE_BYTES):
            yield body[start : start + PIECE_BYTES]


def to_json(found: CachedAnswer) -> dict[str, Any]:
    """The form in the store: plain JSON data. Bytes that are not UTF-8 become lone surrogates."""
    return {
        "version": VERSION, "at": found.stored_s, "type": found.content_type, "sizes": list(found.sizes),
        "body": found.body.decode("utf-8", "surrogateescape"), "model": found.model,
        "usage": None if found.usage is None else asdict(found.usage),
    }


def from_json(value: Any) -> CachedAnswer | None:
    """The answer of a stored value; None for a value of another form, which somebody else has written."""
    if not isinstance(value, dict) or value.get("version") != VERSION:
        return None
    stored_s, content_type, sizes, body = value.get("at"), value.get("type"), value.get("sizes"), value.get("body")
    if not isinstance(stored_s, int | float) or not 0 < stored_s < MOST_S:
        return None
    if not isinstance(content_type, str) or not isinstance(body, str) or not (content_type and body):
        return None
    if not isinstance(sizes, list) or not all(isinstance(one, int) and one > 0 for one in sizes):
        return None
    if not content_type.isascii() or not content_type.isprintable():
        return None
    try:
        whole = body.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return None
    if sum(sizes) > len(whole):
        return None
    model, usage = value.get("model"), value.get("usage")
    return CachedAnswer(
        float(stored_s), content_type, tuple(sizes), whole, _usage(usage), model if isinstance(model, str) else ""
    )


def _usage(value: object) -> Usage | None:
    if not isinstance(value, Mapping):
        return None
    counts = {name: value.get(name) for name in ("input", "output", "cached_read", "cache_creation", "reasoning")}
    if not all(isinstance(one, int) and 0 <= one < MOST_TOKENS for one in counts.values()):
        return None
    return Usage(**counts)  # type: ignore[arg-type]  # checked above


def is_complete_steps(dialect: Dialect, body: bytes, stream: bool) -> Steps[bool]:
    """True if an answer in a client's dialect may be used again, in steps."""
    assert dialect.reader is not None
    reader = dialect.reader(Request(model="", messages=(), stream=stream), Options(), NoMemory())
    seen = _Seen()
    for start in range(0, len(body), STEP_BYTES):
        seen.add(reader.decode(body[start : start + STEP_BYTES]))
        yield
        while reader.has_more and not seen.is_over:
            seen.add(reader.decode(b""))
            yield
        if seen.has_failed:
            return False
    seen.add(reader.begin_finish())
    while reader.has_more and not seen.is_over:
        yield
        seen.add(reader.decode(b""))
    return seen.is_complete


class _Seen:
    """What the events of an answer have shown."""

    __slots__ = ("_has_content", "_is_ended", "_reasons", "has_failed")

    def __init__(self) -> None:
        self._has_content = self._is_ended = self.has_failed = False
        self._reasons: list[str] = []

    def add(self, events: Sequence[object]) -> None:
        for event in events:
            if isinstance(event, _CONTENT):
                self._has_content = True
            elif isinstance(event, Finish):
                self._reasons.append(event.reason)
            elif isinstance(event, Failure):
                self.has_failed = True
            elif isinstance(event, End):
                self._is_ended = True

    @property
    def is_over(self) -> bool:
        return self.has_failed or self._is_ended

    @property
    def is_complete(self) -> bool:
        kept = bool(self._reasons) and all(reason in _ENDINGS for reason in self._reasons)
        return self._has_content and self._is_ended and kept and not self.has_failed
