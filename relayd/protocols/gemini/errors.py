"""Google's error object: read from a response or from a stream, and written for Gemini's own clients.

1. Status and message are kept. `code` is Google's status name, except where clients depend on another code: too long a
   context, a reached limit, an invalid key.
2. Google answers an invalid key with 400; relayd makes it a 401, to distinguish it from the client's errors.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from relayd.lazy_regex import lazy_regex
from relayd.protocols import _json, _openai_errors
from relayd.protocols.canon import Failure
from relayd.protocols.dialect import EncodedResponse
from relayd.protocols.retry_after import retry_after_headers, retry_info_s

_STATUS_NAMES = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 409: "ABORTED",
    429: "RESOURCE_EXHAUSTED", 499: "CANCELLED", 500: "INTERNAL", 501: "UNIMPLEMENTED", 502: "UNAVAILABLE",
    503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED", 529: "UNAVAILABLE",
}  # fmt: skip
_TOO_LONG = lazy_regex(r"exceeds the maximum number of (?:input )?tokens|input token count.{0,60}exceed", re.IGNORECASE)


def read_error(status: int, headers: Mapping[str, str], body: bytes) -> Failure:
    """Parse an endpoint's error response."""
    failure = _openai_errors.read_error(status, headers, body)
    try:
        value = _json.parse_lenient(body)
    except ValueError:
        return failure
    return _normalised(failure, value)


def failure_in(value: Any) -> Failure | None:
    """The failure in a frame of a stream, or in a body under status 200; None if it is not an error."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict) or not value.get("error"):
        return None
    status = _openai_errors.status_in(value, 502)
    failure = _openai_errors.failure_of(value, status) or Failure(status, "The upstream failed without saying why.")
    return _normalised(failure, value)


def _normalised(failure: Failure, value: Any) -> Failure:
    if isinstance(value, list) and value:
        value = value[0]
    error = _json.an_object(_json.an_object(value).get("error"))
    status_name = _json.a_text(error.get("status"))[: _openai_errors.MAX_ID_CHARS]
    details = _json.a_list(error.get("details"))
    status, code = failure.status, status_name or failure.code
    if any(_json.an_object(detail).get("reason") == "API_KEY_INVALID" for detail in details):
        status, code = 401, "invalid_api_key"
    elif status == 429 or status_name == "RESOURCE_EXHAUSTED":
        code = "rate_limit_exceeded"
    elif status in (400, 413) and _TOO_LONG.search(failure.message):
        code = "context_length_exceeded"
    delay_s = retry_info_s(details)
    return dataclasses.replace(
        failure,
        status=status,
        code=code,
        type=failure.type or status_name,
        retry_after_s=delay_s if delay_s is not None else failure.retry_after_s,
    )


def error_object(failure: Failure) -> dict[str, Any]:
    """The inner object in the form of Google's clients."""
    status = _openai_errors.client_status(failure.status)
    error: dict[str, Any] = {
        "code": status,
        "message": failure.message,
        "status": _STATUS_NAMES.get(status) or ("INVALID_ARGUMENT" if status < 500 else "INTERNAL"),
    }
    if failure.retry_after_s is not None:
        delay = f"{failure.retry_after_s:.3f}".rstrip("0").rstrip(".")
        error["details"] = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{delay}s"}]
    return error


def render_error(failure: Failure, request_id: str) -> EncodedResponse:
    """A failure as a plain response; Google's object has no member for a request's id, which is in the header."""
    body = _json.write({"error": error_object(failure)}) + b"\n"
    status = _openai_errors.client_status(failure.status)
    return EncodedResponse(status, body, headers=retry_after_headers(failure.retry_after_s))
