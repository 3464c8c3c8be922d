"""The response head for the client, with rebuilt framing and the fields that relayd adds."""

from __future__ import annotations

import functools
from http import HTTPStatus

from relayd.plan.plan import HeaderNames, PlannedRoute
from relayd.wire.chunked import is_forbidden_trailer
from relayd.wire.date import date_field, has_date
from relayd.wire.headers import name_of, without
from relayd.wire.response import ResponseHead

NONE, LENGTH, CHUNKED, UNTIL_CLOSE = range(4)
"""The framing of the body for the client: none, Content-Length, chunked, or until the connection closes."""

_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}


@functools.lru_cache(maxsize=512)
def status_line(status: int, reason: bytes) -> bytes:
    """The status line. `reason` includes its leading blank; an empty one (HTTP/2) becomes the standard phrase."""
    return b"HTTP/1.1 %d%b\r\n" % (status, reason if reason.strip() else b" " + _REASONS.get(status, b""))


def framing_of(response: ResponseHead, method: bytes, version: int) -> int:
    """The framing of a response for the client (RFC 9112 6.3)."""
    if method == b"HEAD" or response.status in (204, 304):
        return NONE
    if response.length is not None:
        return LENGTH
    return CHUNKED if version == 11 else UNTIL_CLOSE


def render_head(
    response: ResponseHead, framing: int, version: int, keep_alive: bool, route: PlannedRoute | None,
    header_names: HeaderNames, request_id: bytes, elapsed_s: float, cors: list[tuple[str, str]] | None,
) -> bytes:
    """Render the response head."""
    lines = response.keep
    adds_request_id = True
    if response.has_relayd_fields or header_names.custom:
        # An upstream's request id is kept, because clients quote it. Its other fields of these names are replaced.
        adds_request_id = header_names.request_id.lower() not in map(name_of, lines)
        lines = without(lines, {header_names.process_time.lower(), header_names.proxy_by.lower()})
    if route is not None and route.response_edits is not None:
        lines = route.response_edits.apply(lines, b"\r\n")
    if cors is not None:
        lines = [line for line in lines if not line.lower().startswith(b"access-control-")]
        lines += [f"{name}: {value}\r\n".encode("latin-1") for name, value in cors]
    fields = b"".join([status_line(response.status, response.reason), *lines])
    parts = [fields] if has_date(fields) else [fields, date_field()]  # RFC 9110 6.6.1
    if framing == CHUNKED:
        parts.append(b"Transfer-Encoding: chunked\r\n")
        if response.trailer is not None and route is not None and route.trailers:
            parts.append(trailer_field(response.trailer))
    elif response.length is not None:
        parts.append(b"Content-Length: %d\r\n" % response.length)
    if response.upgrade is not None and response.status == 426:  # RFC 9110 15.5.22: the protocols that are required
        parts.append(b"Upgrade: %b\r\n" % response.upgrade)
        parts.append(b"Connection: upgrade\r\n" if keep_alive and version == 11 else b"Connection: upgrade, close\r\n")
    elif not keep_alive:
        parts.append(b"Connection: close\r\n")
    elif version == 10:
        parts.append(b"Connection: keep-alive\r\n")
    if adds_request_id and header_names.request_id_start:
        parts += (header_names.request_id_start, request_id, b"\r\n")
    if header_names.process_time_line:
        parts.append(header_names.process_time_line % elapsed_s)
    parts.append(header_names.last_lines)
    return b"".join(parts)


def interim_head(response: ResponseHead) -> bytes:
    """Render a 1xx head that is forwarded (RFC 9110 15.2)."""
    return b"".join([status_line(response.status, response.reason), *response.keep, b"\r\n"])


def trailer_field(value: bytes) -> bytes:
    """The Trailer field (RFC 9110 6.6.2) with the names that `trailer_lines` may forward; empty without such names."""
    names = [name for part in value.split(b",") if (name := part.strip()) and not is_forbidden_trailer(name)]
    return b"Trailer: " + b", ".join(names) + b"\r\n" if names else b""


def trailer_lines(lines: list[bytes]) -> bytes:
    """The trailer fields that may be forwarded (RFC 9110 6.5.1), with their line ends."""
    allowed = []
    for line in lines:
        name, colon, value = line.rstrip(b"\r\n").partition(b":")
        if colon and not is_forbidden_trailer(name) and not any(byte < 32 and byte != 9 for byte in value):
            allowed.append(name + b":" + value + b"\r\n")
    return b"".join(allowed)
