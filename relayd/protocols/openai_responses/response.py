"""The Response object, always with all of its members, and its usage and error objects."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from relayd.protocols.canon import Failure, Usage

_UNCHANGED_CODES = ("insufficient_quota", "usage_not_included", "rate_limit_exceeded")


def response_object(
    echo: Mapping[str, Any],
    response_id: str,
    created_s: int,
    status: str,
    output: list[dict[str, Any]],
    usage: Usage | None,
    *,
    completed_s: int | None = None,
    reason: str | None = None,
    error: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the object; `reason` states why the response is incomplete."""
    return {
        "id": response_id,
        "object": "response",
        "created_at": created_s,
        "completed_at": completed_s,
        "status": status,
        "error": error,
        "incomplete_details": {"reason": reason} if reason is not None else None,
        "output": output,
        "usage": usage_object(usage) if usage is not None else None,
        **echo,
    }


def usage_object(usage: Usage) -> dict[str, Any]:
    """Return usage with all five members: one client fails if a detail is missing."""
    return {
        "input_tokens": usage.input,
        "input_tokens_details": {"cached_tokens": usage.cached_read, "cache_write_tokens": usage.cache_creation},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.input + usage.output,
    }


def error_in_response(failure: Failure) -> dict[str, str]:
    """Return the error of a failed response. Codex reads the delay of a rate limit from `try again in Ns`."""
    code = failure.code or "server_error"
    message = failure.message
    if failure.status == 429 and code not in _UNCHANGED_CODES:
        code = "rate_limit_exceeded"
    if failure.retry_after_s is not None and "try again in" not in message.lower():
        message = message.rstrip()
        separator = " " if message.endswith((".", "!", "?")) else ". "
        message = f"{message}{separator}Please try again in {math.ceil(failure.retry_after_s)}s."
    return {"code": code, "message": message}
