"""Which other upstream or model an exchange falls back to, by the class of what went wrong.

Laws:
1. An entry is tried at most once and in order; what was passed over because its classes did not fit stays passed over.
2. Falling back is the operator's word that the request may be sent again: it needs no idempotence, but the commit point
   ends it as it ends retries.
3. What is read of an error's body is small, and a body that cannot be read is no class of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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
# Anthropic, Gemini, vLLM, Mistral and llama.cpp say only in words that the prompt does not fit.
_CONTEXT_WORDS = re.compile(
    r"prompt is too long|input is too long|maximum context length|exceeds? the maximum number of tokens"
    r"|exceeds? the (?:available )?context (?:size|window|length)|context (?:length|window|size)[a-z ]{0,20} exceeded"
    r"|too large for model with|reduce the length",
    re.IGNORECASE,
)
_REFUSED_WORDS = re.compile(r"content (?:management )?policy|content filter|safety (?:system|settings)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FallbackSpec:
    """One entry of `fallbacks:`. `model` None keeps the model that was asked for."""

    upstream: str
    model: str | None = None
    on: frozenset[str] = frozenset(("unavailable", "overloaded"))


class Choosy(Protocol):
    """What can be fallen back to for some classes of fault: an entry of `fallbacks:`, or what it was compiled to."""

    @property
    def on(self) -> frozenset[str]: ...


def class_of(outcome: Classification, body: bytes = b"") -> str:
    """The class of an outcome, empty where no other upstream would do better.

    `body` is the whole body of an answer that has not been sent to the client, or the data of an error event.
    """
    spoken = class_of_body(body) if body else ""
    return spoken or outcome.fallback


def class_of_body(body: bytes) -> str:
    """What an error body of OpenAI, Anthropic, Gemini or their imitators says; empty where it says nothing of the sort.

    An answer of Gemini's that was blocked before it began is recognised too, though its status is 200.
    """
    if len(body) > BODY_BYTES:
        return ""
    try:
        told: Any = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    if isinstance(told, list) and len(told) == 1:  # Gemini wraps an error of a stream in a list
        told = told[0]
    if not isinstance(told, dict):
        return ""
    feedback = told.get("promptFeedback")
    if isinstance(feedback, dict) and feedback.get("blockReason") and not told.get("candidates"):
        return "refused_content"
    error = told.get("error", told if told.get("object") == "error" or told.get("type") == "error" else None)
    if isinstance(error, str):
        error = {"message": error}
    return _of_error(error) if isinstance(error, dict) else ""


def _of_error(error: dict[str, Any]) -> str:
    inner = error.get("innererror")
    words = [error.get(name) for name in ("code", "type", "status")]
    words += [inner.get("code")] if isinstance(inner, dict) else []
    codes = {word.lower() for word in words if isinstance(word, str)}
    message = error.get("message")
    text = message[:4096] if isinstance(message, str) else ""
    if codes & _CONTEXT_CODES or _CONTEXT_WORDS.search(text):
        return "context_length"
    if codes & _REFUSED_CODES:
        return "refused_content"
    if codes & _UNAVAILABLE_CODES:
        return "unavailable"
    if codes & _OVERLOADED_CODES:
        return "overloaded"
    return "refused_content" if _REFUSED_WORDS.search(text) else ""


def following(fallbacks: Sequence[Choosy], place: int, fault: str) -> int | None:
    """The place of the next entry, from `place` on, that takes this class; None at the end of the list."""
    if not fault:
        return None
    for number in range(place, len(fallbacks)):
        on = fallbacks[number].on
        if fault in on or "any" in on:
            return number
    return None
