"""How a route changes what passes through it: the path, and header fields that the operator wrote.

1. What is compiled here is trusted later: every byte of a name, a value and a path is checked now.
2. A client's bytes never choose a field's name, and a template takes them only from the path that the route matched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from relayd.config.route import HeaderEdits, Route
from relayd.protocols import registry
from relayd.wire.headers import HOP_BY_HOP, FieldEdits
from relayd.wire.path import climbs, pattern

# Framing is rebuilt by relayd, and Host follows the upstream's `host:`; an edit would be a second opinion.
_OWN = HOP_BY_HOP | {b"content-length", b"host"}

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
_TARGET = re.compile(r"/[!\x22$->@-~]*")  # what a request line can carry; no space, no # and no ?
_REFERENCE = re.compile(r"\\(?:([1-9][0-9]?)|g<(\w+)>)")


@dataclass(frozen=True, slots=True)
class Rewriting:
    """As in PlannedRoute: `take` bytes go, `put` comes; or `regex` matches the whole and `put_regex` is expanded."""

    take: int = 0
    put: bytes = b""
    regex: re.Pattern[bytes] | None = None
    put_regex: bytes | None = None


def rewriting(route: Route, protocol: str) -> Rewriting:
    """What a route does to the path on its way to an upstream of this protocol. Raises ValueError."""
    if route.strip_prefix is not None:
        return _strip(route)
    if route.rewrite is not None:
        return _rewrite(route)
    dialect = registry.dialect(protocol)
    if dialect is not None and dialect.base_has_version:  # a client's /v1 stands for the base
        return _base(route)
    return Rewriting()


def _matched(route: Route) -> bytes | None:
    """The path or prefix of the route, in the form that requests have."""
    match = route.match
    if match.prefix is not None:
        return pattern(match.prefix, whole=False)
    return None if match.path is None else pattern(match.path, whole=True)


def _strip(route: Route) -> Rewriting:
    strip, matched = pattern(route.strip_prefix or "", whole=False), _matched(route)
    if matched is None or not matched.startswith(strip):
        raise ValueError(f"strip_prefix: {route.strip_prefix!r} is not how the route's path or prefix begins")
    # "/api/" leaves "x" of "/api/x": its last slash stays.
    return Rewriting(take=len(strip.rstrip(b"/")))


def _rewrite(route: Route) -> Rewriting:
    new, match = route.rewrite or "", route.match
    if match.regex is not None:
        regex = re.compile(match.regex.encode())
        for number, name in _REFERENCE.findall(new):
            known = name in regex.groupindex or (name.isdigit() and int(name) <= regex.groups)
            if not known and not (number and int(number) <= regex.groups):
                raise ValueError(f"rewrite: the regex has no group {number or name}")
        _check_target(_REFERENCE.sub("x", new))
        return Rewriting(regex=regex, put_regex=new.encode())
    matched = _matched(route)
    if matched is None:
        raise ValueError("rewrite: needs path, prefix or regex, in whose place it is put")
    _check_target(new)
    return Rewriting(take=len(matched), put=new.encode())


def _check_target(new: str) -> None:
    if "\\" in new:
        raise ValueError("rewrite: a backslash only stands before the number or name of a regex's group")
    if not _TARGET.fullmatch(new):
        raise ValueError("rewrite: holds characters that a path cannot have; write them percent-encoded")
    if "//" in new or climbs(new.encode()) or "/./" in new:
        raise ValueError("rewrite: holds // or a segment . or .., which servers read differently")


def _base(route: Route) -> Rewriting:
    """The client's API base, up to /v1, gives way to the endpoint's."""
    matched = _matched(route)
    exact, prefix = route.match.path is not None, matched or b"/"
    place = (prefix + b"/" if exact else prefix).find(b"/v1/")
    if place >= 0:
        return Rewriting(take=place + 3)
    if exact:
        return Rewriting()
    before = re.escape(prefix[: prefix.rfind(b"/")])
    return Rewriting(regex=re.compile(rb"(?:" + before + rb"/v1(?=/))?(/.*)"), put_regex=rb"\1")


def field_edits(edits: HeaderEdits, reserved: frozenset[bytes] = frozenset()) -> FieldEdits | None:
    """The edits as lines of bytes, None when there are none. Raises ValueError.

    `reserved` are further lower-case names that cannot be written, such as the field in which the upstream's key goes.
    """
    for name in (*edits.remove, *edits.set, *edits.add):
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a header field")
        if name.lower().encode() in _OWN:
            raise ValueError(f"{name} cannot be changed: relayd writes it for each side itself")
        if name.lower().encode() in reserved:
            raise ValueError(f"{name} cannot be changed: the upstream's auth writes it")
    for name, value in (*edits.set.items(), *edits.add.items()):
        if not _VALUE.fullmatch(value):
            raise ValueError(f"the value of {name} holds a control character")
    if not (edits.remove or edits.set or edits.add):
        return None
    return FieldEdits(
        remove=frozenset(name.lower().encode() for name in edits.remove),
        set=tuple(_line(name, value) for name, value in edits.set.items()),
        add=tuple(_line(name, value) for name, value in edits.add.items()),
    )


def _line(name: str, value: str) -> bytes:
    return f"{name}: {value.strip()}".encode()
