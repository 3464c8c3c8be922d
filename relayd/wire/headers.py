"""Header fields: which ones are for one hop only, which ones nobody may strip, and the edits that a route makes.

Laws:
1. A memo is bounded: after `LIMIT` names nothing is remembered any more, so no client can make it grow.
2. Lines are bytes as they came, without their line end; only a route's edits change a line that goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

V = TypeVar("V")
LIMIT = 4096

HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade",
     b"proxy-authenticate", b"proxy-authorization", b"http2-settings")
)  # RFC 9110 7.6.1, 11.7; RFC 9113 3.1

FORWARDING = frozenset(
    (b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port",
     b"x-forwarded-server", b"x-forwarded-ssl", b"x-real-ip", b"x-request-id")
)

CREDENTIALS = frozenset((b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key"))

# Names that Connection may not strip: relayd or the next hop decides by them.
PROTECTED = FORWARDING | CREDENTIALS | frozenset(
    (b"content-length", b"host", b"cookie", b"via", b"traceparent", b"tracestate", b"content-type", b"content-encoding")
)

# Names with "_" that CGI-like readers fold into one of these: dropped, never sent on.
CONFUSABLE = frozenset(
    name.replace(b"-", b"_") for name in PROTECTED | HOP_BY_HOP if b"-" in name
)


class Memo(dict[bytes, V], Generic[V]):
    """A bounded memo of a pure function of bytes."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[[bytes], V]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: bytes) -> V:
        value = self._make(key)
        if len(self) < LIMIT and len(key) <= 256:
            self[key] = value
        return value


def name_of(line: bytes) -> bytes:
    """The lower-case name of a field line."""
    return line.partition(b":")[0].strip().lower()


def without(lines: Iterable[bytes], names: frozenset[bytes] | set[bytes]) -> list[bytes]:
    """The lines whose names are not among these lower-case `names`."""
    return [line for line in lines if line.partition(b":")[0].strip().lower() not in names]


def _tokens(value: bytes) -> frozenset[bytes]:
    return frozenset(part.strip().lower() for part in value.split(b",")) - {b""}


TOKENS: Memo[frozenset[bytes]] = Memo(_tokens)
"""Comma-separated tokens of a field value in lower case, by value."""


@dataclass(frozen=True, slots=True)
class FieldEdits:
    """What a route changes: `remove` and `set` take away (lower-case names), `set` and `add` append whole lines."""

    remove: frozenset[bytes]
    set: tuple[bytes, ...]
    add: tuple[bytes, ...]

    def apply(self, lines: list[bytes], end: bytes = b"") -> list[bytes]:
        """The edited lines; `end` is put behind each new one (b"\\r\\n" where lines carry their ends)."""
        gone = self.remove | {name_of(line) for line in self.set}
        remaining = without(lines, gone) if gone else list(lines)
        remaining.extend(line + end for line in self.set)
        remaining.extend(line + end for line in self.add)
        return remaining
