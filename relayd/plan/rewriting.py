"""Compiles the changes that a route makes: to the path, and to header fields.

1. The data path trusts the result: every byte of a name, a value and a path is validated here.
2. A client's bytes never choose a field's name; a template uses only bytes of the path that the route matched.
"""

from __future__ import annotations

import re

from relayd.config.route import HeaderEdits, Route
from relayd.dataclass import dataclass
from relayd.lazy_regex import lazy_regex
from relayd.protocols import registry
from relayd.wire.headers import HOP_BY_HOP, FieldEdits
from relayd.wire.path import has_parent_segment, pattern

# relayd writes the framing fields itself, and Host follows the upstream's `host:`; an edit would conflict.
_OWN = HOP_BY_HOP | {b"content-length", b"host"}

_TOKEN = lazy_regex(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = lazy_regex(r"[^\x00-\x08\x0a-\x1f\x7f]*")
_TARGET = lazy_regex(r"/[!\x22$->@-~]*")  # the characters of a request target; no space, no # and no ?
_REFERENCE = lazy_regex(r"\\(?:([1-9][0-9]?)|g<(\w+)>)")


@dataclass(frozen=True, slots=True)
class Rewriting:
    """As in PlannedRoute: `replacement` replaces `strip_length` bytes; or `regex` matches the whole path and
    `replacement_template` is expanded."""

    strip_length: int = 0
    replacement: bytes = b""
    regex: re.Pattern[bytes] | None = None
    replacement_template: bytes | None = None


def rewriting(route: Route, protocol: str) -> Rewriting:
    """The path rewriting of a route to an upstream of this protocol. Raises ValueError."""
    if route.strip_prefix is not None:
        return _strip(route)
    if route.rewrite is not None:
        return _rewrite(route)
    dialect = registry.dialect(protocol)
    if dialect is not None and dialect.base_has_version:  # a client's /v1 is replaced by the base path
        return _base(route)
    return Rewriting()


def _matched(route: Route) -> bytes | None:
    """The path or prefix of the route, in the normal form of request paths."""
    match = route.match
    if match.prefix is not None:
        return pattern(match.prefix, whole=False)
    return None if match.path is None else pattern(match.path, whole=True)


def _strip(route: Route) -> Rewriting:
    strip, matched = pattern(route.strip_prefix or "", whole=False), _matched(route)
    if matched is None or not matched.startswith(strip):
        raise ValueError(f"strip_prefix: {route.strip_prefix!r} is not the beginning of the route's path or prefix")
    # "/api/" leaves "x" of "/api/x": its last slash stays.
    return Rewriting(strip_length=len(strip.rstrip(b"/")))


def _rewrite(route: Route) -> Rewriting:
    new, match = route.rewrite or "", route.match
    if match.regex is not None:
        regex = re.compile(match.regex.encode())
        for number, name in _REFERENCE.findall(new):
            known = name in regex.groupindex or (name.isdigit() and int(name) <= regex.groups)
            if not known and not (number and int(number) <= regex.groups):
                raise ValueError(f"rewrite: the regex has no group {number or name}")
        _check_target(_REFERENCE.sub("x", new))
        return Rewriting(regex=regex, replacement_template=new.encode())
    matched = _matched(route)
    if matched is None:
        raise ValueError("rewrite: needs path, prefix or regex to replace")
    _check_target(new)
    return Rewriting(strip_length=len(matched), replacement=new.encode())


def _check_target(new: str) -> None:
    if "\\" in new:
        raise ValueError("rewrite: a backslash is allowed only before the number or name of a regex group")
    if not _TARGET.fullmatch(new):
        raise ValueError("rewrite: contains characters that a path cannot contain; write them percent-encoded")
    if "//" in new or has_parent_segment(new.encode()) or "/./" in new:
        raise ValueError("rewrite: contains // or a segment . or .., which servers interpret differently")


def _base(route: Route) -> Rewriting:
    """Replace the client's API base, up to /v1, by the endpoint's."""
    matched = _matched(route)
    exact, prefix = route.match.path is not None, matched or b"/"
    position = (prefix + b"/" if exact else prefix).find(b"/v1/")
    if position >= 0:
        return Rewriting(strip_length=position + 3)
    if exact:
        return Rewriting()
    before = re.escape(prefix[: prefix.rfind(b"/")])
    return Rewriting(regex=re.compile(rb"(?:" + before + rb"/v1(?=/))?(/.*)"), replacement_template=rb"\1")


def field_edits(edits: HeaderEdits, reserved: frozenset[bytes] = frozenset()) -> FieldEdits | None:
    """The edits as lines of bytes, None if there are none. Raises ValueError.

    `reserved` holds further lower-case names that cannot be edited, such as the field of the upstream's key.
    """
    for name in (*edits.remove, *edits.set, *edits.add):
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"{name!r} is not a header field name")
        if name.lower().encode() in _OWN:
            raise ValueError(f"{name} cannot be changed: relayd writes it itself on each connection")
        if name.lower().encode() in reserved:
            raise ValueError(f"{name} cannot be changed: the upstream's auth writes it")
    for name, value in (*edits.set.items(), *edits.add.items()):
        if not _VALUE.fullmatch(value):
            raise ValueError(f"the value of {name} contains a control character")
    if not (edits.remove or edits.set or edits.add):
        return None
    return FieldEdits(
        remove=frozenset(name.lower().encode() for name in edits.remove),
        set=tuple(_line(name, value) for name, value in edits.set.items()),
        add=tuple(_line(name, value) for name, value in edits.add.items()),
    )


def _line(name: str, value: str) -> bytes:
    return f"{name}: {value.strip()}".encode()
