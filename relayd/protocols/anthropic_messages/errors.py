"""Errors in the form of the Messages API: written for clients and read from endpoints.

Laws:
1. The endpoint's message reaches the client unabridged. If it reports a prompt beyond the context window, "prompt is
   too long" is put before it: Claude Code recognises by this text that it must compact.
2. The type follows from the status, because the SDKs choose their exception by the status and show the type.
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
from relayd.protocols.retry_after import retry_after_headers

OVERLOADED = 529
OVERLOADED_WAIT_S = 5.0  # the API gives no time with a 529

_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
    404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error",
    504: "timeout_error", 529: "overloaded_error",
}  # fmt: skip
_STATUSES = {error_name: status for status, error_name in _TYPES.items() if status != 503} | {"api_error": 500}

_TOO_LONG = "prompt is too long"
_OVERFLOW = lazy_regex(
    r"maximum context length|context[ _]length[ _]exceeded|exceeds? the (?:available )?(?:model'?s )?context"
    r"|context window|maximum number of tokens allowed|longer than the maximum model length",
    re.IGNORECASE,
)
_LIMIT = lazy_regex(r"(?:maximum|limit|context (?:length|size|window))\D{0,40}?(\d{3,9})", re.IGNORECASE)
_NUMBER = lazy_regex(r"\d{3,9}")


def error_type(status: int) -> str:
    """The dialect's error type for a status."""
    return _TYPES.get(status) or ("invalid_request_error" if 400 <= status < 500 else "api_error")


def client_message(failure: Failure) -> str:
    """The message with the parts that these clients look for: the invalid field, and the text of a context overflow."""
    message = failure.message
    if failure.param and failure.param not in message:
        message = f"{failure.param}: {message}"
    if failure.status not in (400, 413, 422) or _TOO_LONG in message.lower():
        return message
    if failure.code != "context_length_exceeded" and not _OVERFLOW.search(message):
        return message
    limit = _LIMIT.search(message)
    larger = [n for n in map(int, _NUMBER.findall(message)) if limit and n > int(limit[1])]
    if limit and larger:
        return f"{_TOO_LONG}: {larger[0]} tokens > {limit[1]} maximum ({message})"
    return f"{_TOO_LONG}: {message}"


def error_object(failure: Failure, request_id: str = "") -> dict[str, Any]:
    """The whole body: type, error, and the request's id if it is known."""
    body: dict[str, Any] = {
        "type": "error",
        "error": {"type": error_type(failure.status), "message": client_message(failure)},
    }
    if request_id:
        body["request_id"] = request_id
    return body


def render_error(failure: Failure, request_id: str) -> EncodedResponse:
    """A failure as a plain response with its status."""
    status = failure.status if 400 <= failure.status <= 599 else 502
    headers = retry_after_headers(failure.retry_after_s)
    if request_id:
        headers += (("request-id", request_id),)
    return EncodedResponse(status, _json.write(error_object(failure, request_id)), headers=headers)


def frame_error(response: EncodedResponse) -> bytes:
    """An error body as one frame of a stream: clients of this dialect ignore frames without a name."""
    return b"event: error\ndata: " + response.body.strip() + b"\n\n"


def read_error(status: int, headers: Mapping[str, str], body: bytes) -> Failure:
    """Parse an endpoint's error response; a proxy before it may answer in OpenAI's form or in HTML."""
    return _with_defaults(_openai_errors.read_error(status, headers, body))


def failure_in_stream(value: Any) -> Failure:
    """The failure in an `error` event, or in an error object under status 200."""
    error_name = _json.a_text(_json.an_object(_json.an_object(value).get("error")).get("type"))
    status = _STATUSES.get(error_name) or _openai_errors.status_in(value, 502)
    failure = _openai_errors.failure_of(value, status)
    return _with_defaults(failure or Failure(status, "The upstream failed without saying why.", type=error_name))


def _with_defaults(failure: Failure) -> Failure:
    """Add the fields that clients of other dialects look for: a code for an overflow, a delay for an overload."""
    if not failure.code and _TOO_LONG in failure.message.lower():
        failure = dataclasses.replace(failure, code="context_length_exceeded")
    if failure.status == OVERLOADED and failure.retry_after_s is None:
        failure = dataclasses.replace(failure, retry_after_s=OVERLOADED_WAIT_S)
    return failure
