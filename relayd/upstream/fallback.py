"""The upstream or model to which an exchange falls back, by the class of the failure.

Laws:
1. Entries are tried in order and at most once. An entry skipped because its classes did not match is not tried later.
2. By configuring fallbacks the operator permits sending the request again: idempotence is not required. The commit
   point ends fallbacks as it ends retries.
3. Only a bounded part of an error body is read. An unreadable body has no class.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Protocol

from relayd.dataclass import dataclass
from relayd.lazy_regex import lazy_regex
from relayd.upstream.classify import Classification

CLASSES = ("unavailable", "overloaded", "context_length", "refused_content", "any")
BODY_BYTES = 64 * 1024

_CONTEXT_CODES = frozenset(("context_length_exceeded", "string_above_max_length", "model_context_window_exceeded"))
_REFUSED_CODES = frozenset((
    "content_policy_violation", "content_filter", "responsibleaipolicyviolation", "moderation_blocked",
    "prompt_blocked", "safety_violation",
))
_OVERLOADED_CODES = frozenset((
    "overloaded_error", "rate_limit_error", "rate_limit_exceeded", "resource_exhausted", "engine_overloaded",
    "slow_down", "server_is_overloaded",
))
_UNAVAILABLE_CODES = frozenset((
    "insufficient_quota", "billing_hard_limit_reached", "credit_balance_too_low", "api_error", "unavailable",
    "model_not_found", "server_error", "internal",
))
# Anthropic, Gemini, vLLM, Mistral and llama.cpp report only in the message that the prompt does not fit.
_CONTEXT_MESSAGE = lazy_regex(
    r"prompt is too long|input is too long|maximum context length|exceeds? the maximum number of tokens"
    r"|exceeds? the (?:available )?context (?:size|window|length)|context (?:length|window|size)[a-z ]{0,20} exceeded"
    r"|too large for model with|reduce the length",
    re.IGNORECASE,
)
_REFUSED_MESSAGE = lazy_regex(
    r"content (?:management )?policy|content filter|safety (?:system|settings)", re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class FallbackSpec:
    """One entry of `fallbacks:`. With `model` None the requested model is kept."""

    upstream: str
    model: str | None = None
    on: frozenset[str] = frozenset(("unavailable", "overloaded"))


class FallbackEntry(Protocol):
    """An entry of `fallbacks:`, or the target compiled from it, with the failure classes that it handles."""

    @property
    def on(self) -> frozenset[str]: ...


def fallback_class(outcome: Classification, body: bytes = b"") -> str:
    """The class of an outcome, empty if another upstream cannot help.

    `body` is the whole body of a response that was not sent to the client, or the data of an error event.
    """
    spoken = fallback_class_of_body(body) if body else ""
    return spoken or outcome.fallback


def fallback_class_of_body(body: bytes) -> str:
    """The class of an error body of OpenAI, Anthropic, Gemini or a compatible server; empty if it names none.

    A Gemini response that was blocked before generation is recognised too, although its status is 200.
    """
    if len(body) > BODY_BYTES:
        return ""
    try:
        parsed: Any = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    if isinstance(parsed, list) and len(parsed) == 1:  # Gemini wraps an error of a stream in a list
        parsed = parsed[0]
    if not isinstance(parsed, dict):
        return ""
    feedback = parsed.get("promptFeedback")
    if isinstance(feedback, dict) and feedback.get("blockReason") and not parsed.get("candidates"):
        return "refused_content"
    error = parsed.get("error", parsed if parsed.get("object") == "error" or parsed.get("type") == "error" else None)
    if isinstance(error, str):
        error = {"message": error}
    return _of_error(error) if isinstance(error, dict) else ""


def _of_error(error: dict[str, Any]) -> str:
    inner = error.get("innererror")
    values = [error.get(name) for name in ("code", "type", "status")]
    values += [inner.get("code")] if isinstance(inner, dict) else []
    codes = {value.lower() for value in values if isinstance(value, str)}
    message = error.get("message")
    text = message[:4096] if isinstance(message, str) else ""
    if codes & _CONTEXT_CODES or _CONTEXT_MESSAGE.search(text):
        return "context_length"
    if codes & _REFUSED_CODES:
        return "refused_content"
    if codes & _UNAVAILABLE_CODES:
        return "unavailable"
    if codes & _OVERLOADED_CODES:
        return "overloaded"
    return "refused_content" if _REFUSED_MESSAGE.search(text) else ""


def next_fallback(fallbacks: Sequence[FallbackEntry], start: int, fault: str) -> int | None:
    """The index of the next entry, from `start` on, that handles this class; None at the end of the list."""
    if not fault:
        return None
    for number in range(start, len(fallbacks)):
        on = fallbacks[number].on
        if fault in on or "any" in on:
            return number
    return None
