"""The readings of a path: all interpretations of it that a server behind relayd could use.

1. The forwarded target is never modified (RFC 9110 7.7); readings are used only for the selection of a route.
2. A path with a single reading is unambiguous. If a path has several readings, the same route must match all of them:
   a server resolves `..`, decodes, removes parameters and merges slashes in an order that relayd does not know.
3. Paths in rules are converted to the normal form (`pattern`), so that a request can match them.
4. The cost of a reading is linear in the path, and the number of readings is bounded. `may_be_ambiguous` is False for
   plain paths, so that these cost one search.

Comparison is case-sensitive. For a server that ignores case, the rule needs a regex with (?i).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from urllib.parse import quote

from relayd.errors import ExchangeError
from relayd.lazy_regex import lazy_regex

# Bounds that limit the cost to milliseconds: the number of readings, their total size, and the length of a path that
# may be ambiguous.
MAX_READINGS = 16
MAX_READING_BYTES = 32 * 1024
MAX_PATH_BYTES = 8 * 1024

# An escape, a parameter, a backslash, two slashes, or a segment that consists of dots or ends with a dot.
_SUSPICIOUS = lazy_regex(rb"%|;|\\|//|\.\.|\./|\.\Z")
# ASCII in overlong UTF-8 (forbidden by RFC 3629 3), and the %uXXXX of IIS and JavaScript's escape().
_OVERLONG = lazy_regex(
    rb"%(?:C([01])|(?:E0|F0%80|F8%80%80|FC%80%80%80)%8([01]))%([89AB][0-9A-F])|%25[uU]00([0-7][0-9A-Fa-f])|%u00([0-7][0-9A-Fa-f])"
)
_PARAMETER = lazy_regex(rb";[^/]*")
_SLASHES = lazy_regex(rb"//+")
_CUT = lazy_regex(rb"%00|%3[Ff]|%23")
_UNFINISHED = lazy_regex(rb"[/;\\]|%25[0-9A-Fa-f]{0,2}\Z")
_UPWARD = lazy_regex(rb"/\.\.(?:/|\Z)")
# The bytes that a path can contain unescaped, except the percent sign.
_PLAIN = frozenset(range(0x21, 0x7F)) - frozenset(b"#?%")
# The two digits of an escape, in either case, to its replacement.
_UNESCAPED = {
    (high + low).encode(): bytes((code,)) if (code := int(high + low, 16)) in _PLAIN else b"%%%02X" % code
    for high in "0123456789abcdefABCDEF" for low in "0123456789abcdefABCDEF"
}
_MAX_ROUNDS = 8


def may_be_ambiguous(path: bytes) -> bool:
    """True if this path may have more than one reading."""
    return _SUSPICIOUS.search(path) is not None


def decoded(path: bytes) -> bytes:
    """The path decoded once. Bytes that a request cannot contain unescaped are encoded again as %XX in upper case."""
    if b"%" not in path:
        return path
    first, *rest = path.split(b"%")
    parts = [first]
    for part in rest:
        plain = _UNESCAPED.get(part[:2])
        parts += (b"%25", part) if plain is None else (plain, part[2:])
    return b"".join(parts)


def _decoded_again(path: bytes) -> bytes:
    return decoded(path.replace(b"%25", b"%")) if b"%25" in path else path


def _shortest(match: re.Match[bytes]) -> bytes:
    escaped = match[4] or match[5]
    if escaped is None:
        high = int(match[1] or match[2])
        escaped = b"%02X" % (high << 6 | int(match[3], 16) & 0x3F)
    return _UNESCAPED[escaped]


def _without_overlong(path: bytes) -> bytes:
    return _OVERLONG.sub(_shortest, path) if b"%" in path else path


def _without_parameters(path: bytes) -> bytes:
    return _PARAMETER.sub(b"", path) if b";" in path else path


def _with_slashes(path: bytes) -> bytes:
    return path.replace(b"\\", b"/")


def _merged(path: bytes) -> bytes:
    return _SLASHES.sub(b"/", path) if b"//" in path else path


def _resolved(path: bytes) -> bytes:
    """The path without the segments `.` and `..` (RFC 3986 5.2.4); empty segments count as segments."""
    if b"/." not in path:
        return path
    resolved: list[bytes] = []
    segments = path.split(b"/")[1:]
    for segment in segments:
        if segment == b"..":
            if resolved:
                resolved.pop()
        elif segment != b".":
            resolved.append(segment)
    if segments and segments[-1] in (b".", b".."):
        resolved.append(b"")
    return b"/" + b"/".join(resolved)


def _trimmed(segment: bytes) -> bytes:
    if not segment.endswith((b".", b"%20")):
        return segment
    bare = segment.replace(b"%20", b" ")
    return (bare.rstrip(b". ") or bare.replace(b" ", b"")).replace(b" ", b"%20")


def _without_tails(path: bytes) -> bytes:
    """The path without dots and spaces at the end of segments, which Windows ignores."""
    if b"." not in path and b"%20" not in path:
        return path
    return b"/".join(map(_trimmed, path.split(b"/")))


def _cut_off(path: bytes) -> bytes:
    """The path up to an escaped NUL, question mark or number sign, at which some servers end it."""
    return _CUT.split(path, maxsplit=1)[0] if b"%" in path else path


_STEPS: tuple[Callable[[bytes], bytes], ...] = (
    decoded, _decoded_again, _without_overlong, _without_parameters, _with_slashes, _merged, _resolved, _without_tails,
    _cut_off,
)


def readings(path: bytes) -> Iterator[bytes]:
    """All readings of a path: the results of these steps in any order. The path itself comes first.

    Raises ExchangeError: uri_too_long for a possibly ambiguous path of more than MAX_PATH_BYTES, ambiguous_path for
    more than MAX_READINGS readings or MAX_READING_BYTES of them.
    """
    if len(path) > MAX_PATH_BYTES and may_be_ambiguous(path):
        detail = f"the path has escapes, ; or dots and {len(path)} bytes; the limit is {MAX_PATH_BYTES}"
        raise ExchangeError("uri_too_long", detail)
    found, size = [path], len(path)
    yield path
    for one in found:  # grows during the loop
        for step in _STEPS:
            other = step(one)
            if other in found:
                continue
            size += len(other)
            if len(found) == MAX_READINGS or size > MAX_READING_BYTES:
                detail = f"the path has more than {MAX_READINGS} readings or {MAX_READING_BYTES} bytes of them"
                raise ExchangeError("ambiguous_path", detail)
            found.append(other)
            yield other


def has_parent_segment(reading: bytes) -> bool:
    """True if this reading contains a segment `..`."""
    return _UPWARD.search(reading) is not None


def with_one_slash(path: bytes) -> bytes:
    """The path with exactly one leading slash: `//name/x` and `/\\name/x` would name a host (RFC 3986 4.2)."""
    if path.startswith((b"//", b"/\\")) or not path.startswith(b"/"):
        return b"/" + path.lstrip(b"/\\")
    return path


def normalise(path: bytes) -> bytes:
    """The normal form: the result of all steps except the cut, repeated until nothing changes.

    The result begins with a slash. It is empty if the path still changes after _MAX_ROUNDS rounds.
    """
    for _ in range(_MAX_ROUNDS):
        if not may_be_ambiguous(path):
            return path
        before = path
        for step in _STEPS[:-1]:
            path = step(path)
        path = b"/" + path.lstrip(b"/")
        if path == before:
            return path
    return b""


def pattern(text: str, *, whole: bool) -> bytes:
    """A path of the configuration (a prefix unless `whole`) in normal form.

    Raises ValueError if no request can match it.
    """
    if not text.startswith("/"):
        raise ValueError("must begin with /")
    for sign, why in (("?", "the query is not part of the path"), ("#", "a fragment is never sent")):
        if sign in text:
            raise ValueError(f"contains {sign}, so no request can match it: {why}")
    if any(ord(sign) < 0x20 or ord(sign) == 0x7F for sign in text):
        raise ValueError("contains a control character")
    path = quote(text, safe="".join(map(chr, _PLAIN)) + "%").encode("ascii")
    begun = b"" if whole else path[path.rfind(b"/") + 1 :]  # the last segment of a prefix may be incomplete
    settled = normalise(path[: len(path) - len(begun)])
    if begun:
        begun = decoded(begun)
        if begun == b".." or _UNFINISHED.search(begun) is not None:
            raise ValueError("ends within an escape, a parameter or a segment of dots")
        settled += begun
    if not settled:
        raise ValueError("contains too many nested escapes")
    tail = b"" if whole else b"x"
    if any(not _same(one, settled, whole) for one in readings(settled + tail)):
        raise ValueError("is ambiguous, so requests for it would be rejected; write it without escapes")
    return settled


def _same(reading: bytes, settled: bytes, whole: bool) -> bool:
    return reading == settled if whole else reading.startswith(settled)
