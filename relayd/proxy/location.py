"""Rewrites response fields in which an upstream refers to its own URL, so that the reference works for the client.

1. Only an absolute URL with the endpoint's own scheme, host and port is rewritten, and only if the endpoint got its own
   Host field (`host: upstream`). A URL with the other scheme and the same port is the endpoint's too: the endpoint
   trusts X-Forwarded-Proto, and knows no other port.
2. The new value is a reference without a host (RFC 9110 10.2.2). The client resolves it with the scheme, host and port
   of its request.
3. A field is unchanged if the route cannot reach the path, or if the path contains a `..` segment.
"""

from __future__ import annotations

import re

from relayd.lazy_regex import lazy_regex
from relayd.plan.plan import PlannedRoute
from relayd.upstream.endpoint import Endpoint
from relayd.upstream.spec import UpstreamSpec
from relayd.wire.headers import name_of
from relayd.wire.path import has_parent_segment, with_one_slash
from relayd.wire.response import ResponseHead

_URL = lazy_regex(rb"(?:(https?):)?//([^/?#\\@]+)([^?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_REFRESH = lazy_regex(rb"([0-9.]+[ \t]*[;,][ \t]*(?:url[ \t]*=[ \t]*)?)([\"']?)([^\"']*)\2", re.IGNORECASE)
# Link (RFC 8288 3): targets, the parameter anchor, and other quoted texts, in which `<` and `,` mean nothing.
_LINK = lazy_regex(
    rb"<([^<>]*)>|;[ \t]*anchor[ \t]*=[ \t]*\"([^\"\\]*)\"|\"(?:[^\"\\]|\\.)*(?:\"|\Z)", re.IGNORECASE | re.DOTALL
)
_FIELDS = (b"location", b"content-location", b"refresh", b"link")


def relocate(
    response: ResponseHead, request_path: bytes, route: PlannedRoute, spec: UpstreamSpec, endpoint: Endpoint
) -> None:
    """Rewrite the fields of a passthrough response. `request_path` is the path of the client's request."""
    if spec.relocate and not spec.client_host and spec.protocol == "plain":
        response.keep = [
            _line(line, request_path, route, endpoint) if name_of(line) in _FIELDS else line for line in response.keep
        ]


def _line(line: bytes, request_path: bytes, route: PlannedRoute, endpoint: Endpoint) -> bytes:
    name, _, value = line.partition(b":")
    value = value.strip()
    if name.strip().lower() == b"link":
        return b"%b: %b\r\n" % (name, _link(value, request_path, route, endpoint))
    before, quote, url = b"", b"", value
    if name.strip().lower() == b"refresh":
        match = _REFRESH.fullmatch(value)
        if match is None:
            return line
        before, quote, url = match.groups()
    reference = _client_reference(url, request_path, route, endpoint)
    return line if reference is None else b"%b: %b%b%b%b\r\n" % (name, before, quote, reference, quote)


def _link(value: bytes, request_path: bytes, route: PlannedRoute, endpoint: Endpoint) -> bytes:
    """The value of Link with the client's references."""

    def replaced(match: re.Match[bytes]) -> bytes:
        group = 1 if match[1] is not None else 2
        url = match[group]
        reference = None if url is None else _client_reference(url.strip(), request_path, route, endpoint)
        if reference is None:
            return match[0]
        start, end = match.start(group) - match.start(), match.end(group) - match.start()
        return match[0][:start] + reference + match[0][end:]

    return _LINK.sub(replaced, value)


def _client_reference(url: bytes, request_path: bytes, route: PlannedRoute, endpoint: Endpoint) -> bytes | None:
    """The equivalent reference for the client. None for another server, and for a path outside the route."""
    match = _URL.fullmatch(url)
    if match is None or not _is_own(match[1], match[2].lower(), endpoint):
        return None
    path, base = match[3] or b"/", endpoint.base_path
    if has_parent_segment(path) or not path.startswith(base) or path[len(base) : len(base) + 1] not in (b"", b"/"):
        return None
    reference = route.path_before(path[len(base) :] or b"/", request_path)
    return None if reference is None else with_one_slash(reference) + match[4]


def _is_own(scheme: bytes | None, authority: bytes, endpoint: Endpoint) -> bool:
    own = b"https" if endpoint.spec.tls else b"http"
    port = endpoint.spec.address[1]
    host = endpoint.authority.lower().removesuffix(b":%d" % port)
    if authority == b"%b:%d" % (host, port):
        return True
    return authority == host and port == (443 if endpoint.spec.tls else 80) and (scheme or own).lower() == own
