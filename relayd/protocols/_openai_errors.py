"""OpenAI's error object, as both of its dialects and most compatible APIs have it: read in every form, written in one.

1. An endpoint's status, message, type, param and code are kept. A body without an error object (HTML from a proxy, an
   empty body) is replaced by a message of relayd under the same class of status.
2. The input is not trusted: texts are bounded, and any value may have any type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relayd.protocols import _json
from relayd.protocols.canon import Failure
from relayd.protocols.dialect import EncodedResponse
from relayd.protocols.retry_after import retry_after_headers, retry_after_s, retry_info_s

MOST_MESSAGE_CHARS = 8192
MAX_ID_CHARS = 256

_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    408: "timeout_error", 413: "request_too_large", 422: "invalid_request_error", 429: "rate_limit_error",
    503: "overloaded_error", 504: "timeout_error",
}  # fmt: skip
_DEFAULT_MESSAGES = {
    401: "The upstream refused the key without saying why.",
    403: "The upstream forbids this request without saying why.",
    404: "The upstream does not know this model or address.",
    413: "The request is too large for the upstream.",
    429: "The upstream is busy: too many requests.",
    503: "The upstream is overloaded or not ready.",
    504: "The upstream did not answer in time.",
}


def client_status(status: int) -> int:
    """The status of a failure for a client of OpenAI's APIs: 529 becomes 503, a status that is not an error 502."""
    if status == 529:
        return 503
    return status if 400 <= status <= 599 else 502


def error_type(status: int) -> str:
    """The error type for a failure whose endpoint gave none."""
    return _TYPES.get(status) or ("invalid_request_error" if status < 500 else "server_error")


def error_object(failure: Failure) -> dict[str, Any]:
    """The inner object: message, type, param, code, all four."""
    return {
        "message": failure.message,
        "type": failure.type or error_type(client_status(failure.status)),
        "param": failure.param,
        "code": failure.code or None,
    }


def render_error(failure: Failure, request_id: str) -> EncodedResponse:
    """A failure as a plain response."""
    body: dict[str, Any] = {"error": error_object(failure)}
    if request_id:
        body["request_id"] = request_id
    headers = retry_after_headers(failure.retry_after_s)
    return EncodedResponse(client_status(failure.status), _json.write(body) + b"\n", headers=headers)


def read_error(status: int, headers: Mapping[str, str], body: bytes) -> Failure:
    """Parse an endpoint's error response."""
    wait_s = retry_after_s(headers)
    try:
        value = _json.parse_lenient(body)
    except ValueError:
        value = None
    failure = failure_of(value, status if 400 <= status <= 599 else 502, wait_s)
    if failure is not None:
        return failure
    if not 400 <= status <= 599 or (status >= 500 and status not in (503, 504, 529)):
        status = 502
    default = _DEFAULT_MESSAGES.get(429 if status == 429 else 503 if status == 529 else status)
    text = _plain_text(headers.get("content-type", ""), body)
    message = text or default or "The upstream failed without saying why."
    return Failure(status, message, retry_after_s=wait_s)


def failure_of(value: Any, status: int, wait_s: float | None = None) -> Failure | None:
    """The failure that a JSON value describes: an error object, alone or in a list, a text, or a similar form.

    `status` applies if the value has none. Returns None if the value describes no error.
    """
    if isinstance(value, list) and value:
        value = value[0]
    if isinstance(value, str) and value.strip():
        return Failure(status, _truncated(value), retry_after_s=wait_s)
    if not isinstance(value, dict):
        return None
    error = value.get("error")
    if isinstance(error, list) and error:
        error = error[0]
    if isinstance(error, str) and error:
        error = {"message": value.get("message") or error, "code": value.get("code"), "type": value.get("type")}
    elif not isinstance(error, dict):
        error = value
    message = _message(error)
    if raw := _provider_message(error):
        message = _truncated(f"{message}: {raw}") if message and raw not in message else message or raw
    if not message:
        return None
    code = error.get("code")
    if code is None or (code.__class__ is int and isinstance(error.get("status"), str)):
        code = error.get("status")  # Google's name of the error; its code repeats the HTTP status
    param = error.get("param")
    return Failure(
        status,
        message,
        code=_identifier(code),
        type=_identifier(error.get("type")),
        param=_identifier(param) or None,
        retry_after_s=wait_s if wait_s is not None else retry_info_s(error.get("details")),
    )


def unnamed_failure_of(event: dict[str, Any]) -> Failure | None:
    """The failure in an event with neither the form of a response nor that of an error, as some proxies send it instead
    of the rest of a response; None if the event describes no failure."""
    for name, texts in event.items():
        if name == "errors" or name.endswith(("Exception", "_exception")):
            failure = failure_of({"error": texts}, status_in({"error": texts}, 502))
            return failure or Failure(502, f"The upstream reported an error: {name[:MAX_ID_CHARS]}.")
    return failure_of(event, status_in(event, 502))


def status_in(value: Any, default: int) -> int:
    """The HTTP status that an error inside a stream names by its code or type, or by a number beside it."""
    value = _json.an_object(value[0] if isinstance(value, list) and value else value)
    error = value.get("error", value)
    error = error[0] if isinstance(error, list) and error else error
    if isinstance(error, str):  # a text, or a word for the error
        error = {**value, "error": error if error.isprintable() and " " not in error else ""}
    error = _json.an_object(error)
    if number := _status_number(error):
        return number
    text = f"{error.get('type')} {error.get('code')} {_json.a_text(error.get('error'))}".lower()
    for status, marks in _STATUS_MARKS:
        if any(mark in text for mark in marks):
            return status
    return _status_number(value) or default


def _status_number(error: dict[str, Any]) -> int:
    """The status that is a member of an error; 0 if there is none."""
    for key in ("status", "status_code", "code", "http_code"):
        number = error.get(key)
        if isinstance(number, str) and number.isascii() and number.isdigit() and len(number) == 3:
            number = int(number)
        if number.__class__ is int and 400 <= number <= 599:
            return int(number)
    return 0


_STATUS_MARKS = (
    (429, ("rate_limit", "insufficient_quota", "too_many_requests", "resource_exhausted")),
    (503, ("overloaded", "unavailable")),
    (401, ("authentication", "invalid_api_key")),
    (403, ("permission",)),
    (404, ("not_found",)),
    (504, ("timeout",)),
    (400, ("invalid_request", "context_length_exceeded", "badrequest", "bad_request")),
)


def _message(error: dict[str, Any]) -> str:
    """The text of an error object; FastAPI uses `detail`, as a text or as a list of locations."""
    for key in ("message", "detail", "msg", "error_message", "reason"):
        text = error.get(key)
        if isinstance(text, list) and text:
            texts = [_json.a_text(one) or _json.a_text(_json.an_object(one).get("msg")) for one in text[:8]]
            text = "; ".join(filter(None, texts))
        if isinstance(text, str) and text.strip():
            return _truncated(text)
    inner = error.get("message")
    if not isinstance(inner, dict) or not inner or _json.is_deeper(inner, 8):
        return ""
    return _truncated(_json.write_text(inner))


def _provider_message(error: dict[str, Any]) -> str:
    """The message of the provider behind OpenRouter: an error object, JSON text of one, or plain text."""
    raw = _json.an_object(error.get("metadata")).get("raw")
    if isinstance(raw, str) and raw.lstrip()[:1] in ("{", "["):
        try:
            raw = _json.parse_lenient(raw)
        except ValueError:
            pass
    if isinstance(raw, list) and raw:
        raw = raw[0]
    if not isinstance(raw, dict):
        return _truncated(_json.a_text(raw).strip())
    inner = raw.get("error")
    return _message(inner) if isinstance(inner, dict) else _truncated(_json.a_text(inner)) or _message(raw)


def _identifier(value: Any) -> str:
    if isinstance(value, str):
        return value[:MAX_ID_CHARS]
    return str(value)[:MAX_ID_CHARS] if value.__class__ is int else ""


def _truncated(text: str) -> str:
    return text if len(text) <= MOST_MESSAGE_CHARS else text[:MOST_MESSAGE_CHARS] + "..."


def _plain_text(content_type: str, body: bytes) -> str:
    """A short plain text from the upstream; never markup."""
    text = body[:600].decode("utf-8", "replace").strip()
    if not text or len(text) > 500 or text[0] in "<{[" or "html" in content_type or not text.isprintable():
        return ""
    return text
