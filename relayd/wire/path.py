"""The path as rules must see it: every reading of it that a server behind relayd could arrive at.

1. The target that is sent on is never touched (RFC 9110 7.7); only the choice of a route looks at the readings.
2. A path that is its own only reading has one meaning. Where the readings differ, the same route must take all of them:
   a back-end resolves `..`, decodes, cuts parameters and merges slashes in an order that relayd does not know.
3. A rule is written in normal form (`pattern`), so that a request can equal it.
4. The cost is linear in the path for each reading, and the number of readings is bounded. `needs_look` is False for
   plain paths, so that these cost one search.

Letters are compared as they are. Where a back-end ignores case, its rule needs a regex with (?i).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from urllib.parse import quote

from relayd.errors import ExchangeError

# Bounds of what is looked at, so that it takes milliseconds: how many readings, of how many bytes together, and the
# length of a path that needs a look.
MAX_READINGS = 16
MAX_READING_BYTES = 32 * 1024
MAX_PATH_BYTES = 8 * 1024

# An escape, a parameter, a backslash, two slashes, a segment that is made of dots or ends with one.
_SUSPICIOUS = re.compile(rb"%|;|\\|//|\.\.|\./|\.\Z")
# ASCII in more bytes of UTF-8 than it needs (RFC 3629 3 forbids it), and the %uXXXX of IIS and of escape().
_OVERLONG = re.compile(
    rb"%(?:C([01])|E0%8([01])|F0%80%8([01]))%([89AB][0-9A-F])|%25[uU]00([0-7][0-9A-Fa-f])|%u00([0-7][0-9A-Fa-f])"
)
_PARAMETER = re.compile(rb";[^/]*")
_SLASHES = re.compile(rb"//+")
_CUT = re.compile(rb"%00|%3[Ff]|%23")
_UNFINISHED = re.compile(rb"[/;\\]|%25[0-9A-Fa-f]{0,2}\Z")
_UPWARD = re.compile(rb"/\.\.(?:/|\Z)")
# What a request can hold unescaped in its path, but for the percent sign.
_PLAIN = frozenset(range(0x21, 0x7F)) - frozenset(b"#?%")
# The two digits of an escape, in any case, to what is written for it.
_UNESCAPED = {
    (high + low).encode(): bytes((code,)) if (code := int(high + low, 16)) in _PLAIN else b"%%%02X" % code
    for high in "0123456789abcdefABCDEF" for low in "0123456789abcdefABCDEF"
}
_MAX_ROUNDS = 8


def may_be_ambiguous(path: bytes) -> bool:
    """True if this path may have more than one reading."""
    return _SUSPICIOUS.search(path) is not None


def decoded(path: bytes) -> bytes:
    """The path decoded once. What cannot stand in a request unescaped is written as %XX in capitals again."""
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
    escaped = match[5] or match[6]
    if escaped is None:
        high = int(match[1] or match[2] or match[3])
        escaped = b"%02X" % (high << 6 | int(match[4], 16) & 0x3F)
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
    """Without the segments `.` and `..`, as RFC 3986 5.2.4 removes them; empty segments count as segments."""
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
    """Without dots and blanks at the end of segments, which Windows ignores."""
    if b"." not in path and b"%20" not in path:
        return path
    return b"/".join(map(_trimmed, path.split(b"/")))


def _cut_off(path: bytes) -> bytes:
    """As a reader sees it for whom an escaped NUL, question mark or number sign ends the path."""
    return _CUT.split(path, maxsplit=1)[0] if b"%" in path else path


_STEPS: tuple[Callable[[bytes], bytes], ...] = (
    decoded, _decoded_again, _without_overlong, _without_parameters, _with_slashes, _merged, _resolved, _without_tails,
    _cut_off,
)


def readings(path: bytes) -> Iterator[bytes]:
    """All that readers can make of a path, by any of these steps in any order; the path itself comes first.

    Raises ExchangeError: uri_too_long for a path of more than LONGEST bytes that needs a look, ambiguous_path where
    there are more readings than READINGS, or more than READ_BYTES of them.
    """
    if len(path) > MAX_PATH_BYTES and may_be_ambiguous(path):
        raise ExchangeError("uri_too_long", f"{len(path)} bytes of path with escapes, ; or dots, at most {MAX_PATH_BYTES}")
    found, size = [path], len(path)
    yield path
    for one in found:  # it grows meanwhile
        for step in _STEPS:
            other = step(one)
            if other in found:
                continue
            size += len(other)
            if len(found) == MAX_READINGS or size > MAX_READING_BYTES:
                raise ExchangeError("ambiguous_path", f"more than {MAX_READINGS} readings, or {MAX_READING_BYTES} bytes of them")
            found.append(other)
            yield other


def has_parent_segment(reading: bytes) -> bool:
    """Whether a segment `..` stands in this reading."""
    return _UPWARD.search(reading) is not None


def with_one_slash(path: bytes) -> bytes:
    """The path with exactly one slash in front: a reader takes `//name/x` and `/\\name/x` for a host (RFC 3986 4.2)."""
    if path.startswith((b"//", b"/\\")) or not path.startswith(b"/"):
        return b"/" + path.lstrip(b"/\\")
    return path


def normalise(path: bytes) -> bytes:
    """The normal form: what the reader arrives at that takes every step, again and again until nothing changes.

    The result begins with a slash; a path that does not settle within a few rounds becomes the empty path.
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
    """A path of the configuration (the beginning of one unless `whole`) in the normal form of requests' paths.

    Raises ValueError where no request can ever equal it.
    """
    if not text.startswith("/"):
        raise ValueError("begins with /")
    for sign, why in (("?", "the query is not part of the path"), ("#", "a fragment is never sent")):
        if sign in text:
            raise ValueError(f"holds {sign}, so no request can equal it: {why}")
    if any(ord(sign) < 0x20 or ord(sign) == 0x7F for sign in text):
        raise ValueError("holds a control character")
    path = quote(text, safe="".join(map(chr, _PLAIN)) + "%").encode("ascii")
    begun = b"" if whole else path[path.rfind(b"/") + 1 :]  # of a prefix, the last segment is only begun
    settled = normalise(path[: len(path) - len(begun)])
    if begun:
        begun = decoded(begun)
        if begun == b".." or _UNFINISHED.search(begun) is not None:
            raise ValueError("ends within an escape, a parameter or a segment of dots")
        settled += begun
    if not settled:
        raise ValueError("holds escapes of escapes without end")
    tail = b"" if whole else b"x"
    if any(not _same(one, settled, whole) for one in readings(settled + tail)):
        raise ValueError("is read in more than one way, so that requests for it are refused; write it without escapes")
    return settled


def _same(reading: bytes, settled: bytes, whole: bool) -> bool:
    return reading == settled if whole else reading.startswith(settled)
