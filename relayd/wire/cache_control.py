"""Cache-Control of requests (RFC 9111 5.2.1), and the fields of responses of a cache: Age, Cache-Status (RFC 9211)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from relayd.lazy_regex import lazy_regex

_DIRECTIVE = lazy_regex(rb"\s*([!#$%&'*+\-.^_`|~0-9A-Za-z]+)\s*(?:=\s*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s,]*)))?\s*(?:,|$)")
_LARGEST_S = 2147483648  # RFC 9111 1.2.2: the value to use for a larger one
MOST_BYTES = 1024  # of the field: reading it takes quadratic time if quotes are not closed


class CacheControl(NamedTuple):
    """What a client asks of a cache. `max_age_s` and `min_fresh_s` are None if they are not limited. `asks` is true if
    the client states that an answer from a cache is welcome: max-age of more than 0, or only-if-cached."""

    no_cache: bool = False
    no_store: bool = False
    only_if_cached: bool = False
    max_age_s: int | None = None
    min_fresh_s: int | None = None

    @property
    def asks(self) -> bool:
        return not self.no_store and (self.only_if_cached or bool(self.max_age_s))

    def accepts(self, age_s: float, left_s: float) -> bool:
        """True if the client accepts an answer of this age that stays fresh for `left_s` seconds."""
        if self.no_cache or (self.max_age_s is not None and age_s > self.max_age_s):
            return False
        return self.min_fresh_s is None or left_s >= self.min_fresh_s


NO_DIRECTIVES = CacheControl()
NO_USE = CacheControl(no_cache=True, no_store=True)


def parse_cache_control(values: Iterable[bytes]) -> CacheControl:
    """The directives of all lines of the field. Unknown ones are ignored, a malformed number is 0: the answer is then
    not reused (RFC 9111 4.2.1). Of a repeated directive the strictest value counts. `max-stale` has no effect, because
    nothing stale is kept. A field of more than MOST_BYTES is NO_USE."""
    field = b",".join(values)
    if len(field) > MOST_BYTES:
        return NO_USE
    flags: set[bytes] = set()
    max_age_s = min_fresh_s = None
    for name, quoted, token in _DIRECTIVE.findall(field):
        kind, text = name.lower(), quoted or token
        if kind == b"max-age":
            seconds = _seconds(text, 0)
            max_age_s = seconds if max_age_s is None else min(max_age_s, seconds)
        elif kind == b"min-fresh":
            seconds = _seconds(text, _LARGEST_S)
            min_fresh_s = seconds if min_fresh_s is None else max(min_fresh_s, seconds)
        else:
            flags.add(kind)
    if not flags and max_age_s is None and min_fresh_s is None:
        return NO_DIRECTIVES
    return CacheControl(b"no-cache" in flags, b"no-store" in flags, b"only-if-cached" in flags, max_age_s, min_fresh_s)


def forbids_storing(values: Iterable[bytes]) -> bool:
    """True if an endpoint's Cache-Control forbids to keep its response."""
    return parse_cache_control(values).no_store


def _seconds(text: bytes, otherwise: int) -> int:
    """A number of seconds, `otherwise` if it is malformed."""
    if not text.isdigit():
        return otherwise
    return min(int(text), _LARGEST_S) if len(text) < 20 else _LARGEST_S


def hit_lines(key: str, age_s: float, left_s: float) -> list[bytes]:
    """The fields of an answer from the cache."""
    return [
        b"Age: %d\r\n" % age_s, b"Cache-Status: relayd; hit; ttl=%d; key=\"%b\"\r\n" % (left_s, key.encode("ascii")),
    ]


def forwarded_line(reason: str, key: str = "", detail: str = "") -> bytes:
    """The field of an answer from an endpoint: `reason` is miss, request or bypass (RFC 9211 2.2)."""
    parts = [f"relayd; fwd={reason}"]
    if key:
        parts.append(f'key="{key}"')
    if detail:
        parts.append(f"detail={detail}")
    return f"Cache-Status: {'; '.join(parts)}\r\n".encode("ascii")
