"""Ollama's error object, `{"error": "text"}`, which has no code: relayd derives the code from the text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from relayd.protocols import _json, _openai_errors
from relayd.protocols.canon import Failure
from relayd.protocols.dialect import EncodedResponse
from relayd.protocols.retry_after import retry_after_headers

_CODES = (
    ("not found, try pulling it", "model_not_found"),
    ("exceeds the available context", "context_length_exceeded"),
    ("exceeds maximum context length", "context_length_exceeded"),
    ("input length exceeds", "context_length_exceeded"),
)


def read_error(status: int, headers: Mapping[str, str], body: bytes) -> Failure:
    """Parse an endpoint's error response."""
    return _coded(_openai_errors.read_error(status, headers, body))


def failure_in(value: Any) -> Failure | None:
    """The failure in a line of a stream; None if the line is not an error."""
    if not isinstance(value, dict) or not value.get("error"):
        return None
    status = _openai_errors.status_in(value, 502)
    # Only the error: a `message` beside it is the response so far.
    failure = _openai_errors.failure_of({"error": value["error"]}, status)
    return _coded(failure or Failure(status, "The upstream failed without saying why."))


def _coded(failure: Failure) -> Failure:
    if failure.code:
        return failure
    code = next((code for mark, code in _CODES if mark in failure.message), "")
    return dataclasses.replace(failure, code=code)


def render_error(failure: Failure, request_id: str) -> EncodedResponse:
    """A failure as a plain response."""
    status = _openai_errors.client_status(failure.status)
    headers = retry_after_headers(failure.retry_after_s)
    return EncodedResponse(status, _json.write({"error": failure.message}), "application/json; charset=utf-8", headers)


def frame_error(response: EncodedResponse) -> bytes:
    """An error body as one line of a stream."""
    return response.body.strip() + b"\n"
