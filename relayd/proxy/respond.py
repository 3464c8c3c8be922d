"""Responses of relayd itself: errors, redirects, fixed responses. The only place where errors become HTTP."""

from __future__ import annotations

import json
from enum import Enum

from relayd.dataclass import dataclass
from relayd.errors import ExchangeError, Fault, Kind
from relayd.lazy_regex import lazy_regex
from relayd.plan.plan import PlannedRoute
from relayd.protocols.canon import Failure
from relayd.wire.http1 import RequestHead
from relayd.wire.origin import Origin
from relayd.wire.path import with_one_slash
from relayd.wire.response import ResponseHead

_PLACEHOLDER = lazy_regex(r"\{(path|query|host)\}")  # one pass: values from the client are not expanded
_PORT = lazy_regex(rb":[0-9]*\Z")
_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error", 504: "timeout_error",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete response of relayd itself. `code` is an entry of KINDS if it refuses the request, else empty. `detail`
    is the reason for the operator's log."""

    response: ResponseHead
    body: bytes
    code: str = ""
    detail: str = ""


class Wait(Enum):
    """The result of a phase that waits: the exchange continues later, or as a tunnel."""

    WAIT = "wait"


WAIT = Wait.WAIT


def answer(
    status: int, content_type: str, body: bytes, headers: tuple[tuple[str, str], ...] = (), code: str = ""
) -> Answer:
    """Build a response. 204 and 304 get no body."""
    response = ResponseHead(status, b"")
    if status not in (204, 304):
        if content_type:
            response.keep.append(f"Content-Type: {content_type}\r\n".encode("latin-1"))
        response.length = len(body)
    else:
        body = b""
    for name, value in headers:
        response.keep.append(f"{name}: {value}\r\n".encode("latin-1", "replace"))
    return Answer(response, body, code)


def error_answer(fault: ExchangeError, route: PlannedRoute | None, head: RequestHead | None, request_id: str) -> Answer:
    """Render an error in the format of the route: its dialect, OpenAI, problem+json (RFC 9457) or plain text."""
    kind = fault.kind
    shape = route.error_shape if route is not None else "auto"
    if shape in ("auto", "problem") and head is not None and _plain(head.get(b"accept")):
        shape = "text"
    dialect = None if route is None or route.resilience is None else route.resilience.dialect
    if shape == "openai" and dialect is not None and route is not None and route.config.errors == "auto":
        failure = Failure(kind.status, fault.message, code=kind.code, type=_type(kind))
        rendered = dialect.render_error(failure, request_id)
        return answer(rendered.status, rendered.content_type, rendered.body, (*rendered.headers, *fault.headers))
    if shape == "openai":
        content_type, body = "application/json", _openai(fault, request_id)
    elif shape == "text":
        content_type = "text/plain; charset=utf-8"
        body = f"{kind.status} {kind.code}: {fault.message} (request {request_id})\n".encode()
    else:
        content_type = "application/problem+json"
        problem = {
            "type": f"urn:relayd:{kind.code}", "title": kind.message, "status": kind.status, "code": kind.code,
            "request_id": request_id,
        }
        if fault.message != kind.message:
            problem["detail"] = fault.message
        body = json.dumps(problem).encode() + b"\n"
    return answer(kind.status, content_type, body, fault.headers)


def _type(kind: Kind) -> str:
    return _TYPES.get(kind.status) or ("upstream_error" if kind.fault is Fault.UPSTREAM else
                                       "invalid_request_error" if kind.status < 500 else "server_error")


def _openai(fault: ExchangeError, request_id: str) -> bytes:
    kind = fault.kind
    error = {"message": fault.message, "type": _type(kind), "param": None, "code": kind.code}
    return json.dumps({"error": error, "request_id": request_id}).encode() + b"\n"


def _plain(accept: bytes | None) -> bool:
    """True if the client accepts text but not JSON."""
    return accept is not None and b"text/" in accept and b"json" not in accept and b"*/*" not in accept


def redirect_answer(route: PlannedRoute, head: RequestHead, origin: Origin | None = None) -> Answer:
    """The redirect of a route, with the host that the client used: `origin` has the host reported by trusted proxies.

    Only checked parts of the request are inserted. Raises ExchangeError for an HTTP/1.0 request without a host if the
    location needs it.
    """
    assert route.redirect is not None
    host = head.authority if origin is None else origin.host or head.authority
    values = {
        "path": with_one_slash(head.path).decode("latin-1"), "query": head.query.decode("latin-1"),
        "host": host.decode("latin-1"),
    }
    if not host and "{host}" in route.redirect.location:
        raise ExchangeError("bad_request", "no Host field, but the redirect needs it")
    location = _PLACEHOLDER.sub(lambda found: values[found[1]], route.redirect.location)
    return answer(route.redirect.status, "", b"", (("Location", location),))


def https_redirect_answer(head: RequestHead, origin: Origin | None, port: int) -> Answer:
    """The redirect to the same host and path over HTTPS; 308 keeps method and body (RFC 9110 15.4.9).

    Raises ExchangeError for an HTTP/1.0 request without a host.
    """
    host = head.authority if origin is None else origin.host or head.authority
    if not host:
        raise ExchangeError("bad_request", "no Host field, but the redirect needs it")
    name = _PORT.sub(b"", host) + (b"" if port == 443 else b":%d" % port)
    location = b"https://" + name + (head.path or b"/") + head.query
    return answer(308, "", b"", (("Location", location.decode("latin-1")),))


def fixed_answer(route: PlannedRoute) -> Answer:
    """The fixed response of a route."""
    assert route.respond is not None
    fixed = route.respond
    return answer(fixed.status, fixed.content_type, fixed.body.encode(), tuple(fixed.headers.items()))
