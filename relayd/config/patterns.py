"""Patterns in the configuration that requests are matched against: each can match some request, in linear time.

A pattern that no request can match is worse than a fault: a rule that restricts access would have no effect.
"""

from __future__ import annotations

import ipaddress
import re

from relayd.lazy_regex import lazy_regex
from relayd.wire.path import pattern
from relayd.wire.regex_proof import fault_of_regex

__all__ = [
    "fault_of_host", "fault_of_location", "fault_of_model", "fault_of_origin", "fault_of_path", "fault_of_regex", "normal_path", "not_normal",
]

_LABEL = r"[A-Za-z0-9_\-]+"
_HOST = lazy_regex(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*\.?", re.ASCII)
_ORIGIN = lazy_regex(r"([a-z][a-z0-9+.\-]*)://([a-z0-9.\-_]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?", re.ASCII)
_USUAL_PORTS = {"http": "80", "https": "443"}
# The characters of a URI (RFC 3986 2), escapes included.
_URI = lazy_regex(r"(?:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})*", re.ASCII)
_PLACEHOLDER = lazy_regex(r"\{[^{}]*\}")


def normal_path(text: str, *, whole: bool) -> str | None:
    """A path or path prefix in the normal form of request paths; None if no request can match it."""
    try:
        return pattern(text, whole=whole).decode("ascii")
    except ValueError:
        return None


def fault_of_path(text: str, *, whole: bool) -> str | None:
    try:
        pattern(text, whole=whole)
    except ValueError as fault:
        return str(fault)
    return None


def not_normal(text: str, *, whole: bool) -> str | None:
    """A warning for a path that is not in its normal form; None if it is, or if it is a fault."""
    normal = normal_path(text, whole=whole)
    return None if normal in (None, text) else f"is compared in its normal form: {normal}"


def fault_of_host(host: str) -> str | None:
    if not host.isascii():
        return "contains non-ASCII letters; write each such label in its form xn--..., as it is sent"
    if host.startswith("["):
        try:
            ipaddress.IPv6Address(host.removeprefix("[").removesuffix("]"))
        except ValueError:
            return "contains no IPv6 address in its brackets (a port is not allowed)"
        return None if host.endswith("]") else "lacks the closing bracket of its IPv6 address; a port is not allowed"
    if re.search(r":[0-9]*$", host):
        return "contains a port; hosts are compared without it"
    if ".." in host or host.startswith("."):
        return "contains an empty label; every request with such a host is refused"
    if "%" in host:
        return "contains an escape; every request with such a host is refused"
    if _HOST.fullmatch(host) is None or len(host) > 253:
        return "is not a host name (without a port; *.example.org for all names below one)"
    return None


def fault_of_origin(origin: str) -> str | None:
    """Browsers send scheme://host[:port] in lower case, without the default port and without a path (RFC 6454 6.2)."""
    if origin in ("*", "null"):
        return None
    found = _ORIGIN.fullmatch(origin)
    if found is None:
        low = origin.lower().rstrip("/")
        if low != origin and (better := _ORIGIN.fullmatch(low)) is not None and fault_of_origin(low) is None:
            return f"is no origin that a browser sends; did you mean {better[0]}?"
        return "is not an origin (scheme://host, without a path)"
    scheme, host, port = found.groups()
    if port is not None and _USUAL_PORTS.get(scheme) == port:
        return f"contains the default port of {scheme}, which browsers omit; write {scheme}://{host}"
    if port is not None and (not 0 < int(port) < 65536 or port.startswith("0")):
        return "contains no port between 1 and 65535"
    if host.startswith("["):
        try:
            short = f"[{ipaddress.IPv6Address(host[1:-1])}]"
        except ValueError:
            return "contains no IPv6 address in its brackets"
        if short != host:
            return f"is no origin that a browser sends; write the address as {short}"
    elif ".." in host or host.startswith("."):
        return "contains an empty label"
    return None


def fault_of_location(location: str) -> str | None:
    """Why a text with placeholders is no URI reference, or None."""
    if not location:
        return "is empty"
    if _URI.fullmatch(_PLACEHOLDER.sub("", location)) is None:
        return "contains a character that a URL cannot contain; write it percent-encoded, and a host name in its form xn--..."
    return None


def fault_of_model(pattern: str) -> str | None:
    """Why no model can have a name of this pattern, or None."""
    if not pattern:
        return "is empty; no request names an empty model"
    if pattern != pattern.strip() or not pattern.isprintable():
        return "begins or ends with a blank, or contains a control character; no model has such a name"
    return None
