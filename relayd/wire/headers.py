"""Header fields: hop-by-hop fields, fields that Connection must not strip, and the edits of a route.

Laws:
1. A memo is bounded: it stores at most LIMIT entries, so clients cannot make it grow.
2. Lines are bytes as received, without their line end; only the edits of a route change a forwarded line.
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

# Names that Connection must not strip: decisions of relayd or of the next hop depend on them.
PROTECTED = FORWARDING | CREDENTIALS | frozenset(
    (b"content-length", b"host", b"cookie", b"via", b"traceparent", b"tracestate", b"content-type", b"content-encoding")
)

# Names with "_" that CGI maps to the variable of one of these fields: dropped, never forwarded.
CONFUSABLE = frozenset(
    name.replace(b"-", b"_") for name in PROTECTED | HOP_BY_HOP if b"-" in name
)


class Memo(dict[bytes, V], Generic[V]):
    """A bounded cache of the results of a pure function of bytes."""

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
    """The lines except those with one of these lower-case `names`."""
    return [line for line in lines if line.partition(b":")[0].strip().lower() not in names]


def _tokens(value: bytes) -> frozenset[bytes]:
    return frozenset(part.strip().lower() for part in value.split(b",")) - {b""}


TOKENS: Memo[frozenset[bytes]] = Memo(_tokens)
"""The comma-separated tokens of a field value, in lower case."""


@dataclass(frozen=True, slots=True)
class FieldEdits:
    """The edits of a route: `remove` (lower-case names) and `set` remove fields, `set` and `add` append whole lines."""

    remove: frozenset[bytes]
    set: tuple[bytes, ...]
    add: tuple[bytes, ...]

    def apply(self, lines: list[bytes], end: bytes = b"") -> list[bytes]:
        """The edited lines; `end` is appended to each new line (b"\\r\\n" if lines include their ends)."""
        gone = self.remove | {name_of(line) for line in self.set}
        remaining = without(lines, gone) if gone else list(lines)
        remaining.extend(line + end for line in self.set)
        remaining.extend(line + end for line in self.add)
        return remaining
