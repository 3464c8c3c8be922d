"""The path as rules must see it: what the loosest reader behind relayd could take it for.

Laws:
1. The target that is sent on is never touched (RFC 9110 7.7); only matching and `allow` look at the normal form.
2. A path that is its own normal form has one meaning; where the two differ, a rule must hold for both.
3. The cost is linear, and `needs_look` is False for plain paths, so that these cost one search.
"""

from __future__ import annotations

import re

# A percent sign, two slashes, a segment that begins with a dot, a backslash, a parameter.
_LOOK = re.compile(rb"%|//|/\.|\\|;")
# One escape, however often its percent sign was escaped itself: %2f, %252f, %25252f.
_ESCAPE = re.compile(rb"%(?:25)*([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset(b"-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_DECODED = {code: bytes((code,)) for code in _UNRESERVED} | {0x2F: b"/", 0x5C: b"/"}
_ROUNDS = 8


def needs_look(path: bytes) -> bool:
    """True if `normalise` could change this path."""
    return _LOOK.search(path) is not None


def _decode(match: re.Match[bytes]) -> bytes:
    code = int(match[1], 16)
    return _DECODED.get(code) or b"%%%02X" % code


def normalise(path: bytes) -> bytes:
    """The normal form: unreserved bytes, slashes and backslashes decoded at any depth, slashes merged, dots resolved.

    Other escapes stay, in upper case. A parameter behind dots (`..;x`) does not hide them. The result begins with a
    slash; a path whose escapes do not settle within a few rounds becomes the empty path, which no rule matches.
    """
    if not needs_look(path):
        return path
    for _ in range(_ROUNDS):
        if b"%" not in path:
            break
        decoded = _ESCAPE.sub(_decode, path)
        if decoded == path:
            break
        path = decoded
    else:
        if _ESCAPE.sub(_decode, path) != path:
            return b""
    segments = path.replace(b"\\", b"/").split(b"/")
    kept: list[bytes] = []
    last = b""
    for segment in segments:
        last = segment.partition(b";")[0] if segment.startswith(b".") else segment
        if last == b"..":
            if kept:
                kept.pop()
        elif last and last != b".":
            kept.append(segment)
    tail = b"/" if kept and last in (b"", b".", b"..") else b""
    return b"/" + b"/".join(kept) + tail
