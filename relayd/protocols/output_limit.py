"""The maximum of output tokens that a request states, in the spelling of any API."""

from __future__ import annotations

import re

from relayd.wire.body import JsonBody

_KEYS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_NESTED = (("generationConfig", b"maxOutputTokens"), ("options", b"num_predict"))  # Gemini, Ollama
_ANY_KEYS = frozenset((*_KEYS, *(key for key, _ in _NESTED)))
MOST_CHOICES = 128
_MOST_MEMBER_BYTES = 4096


def stated_maximum(json_body: JsonBody) -> int | None:
    """The stated maximum of output tokens of all choices together, None without one."""
    spans = json_body.spans
    if _ANY_KEYS.isdisjoint(spans):
        return None
    found = [number for key in _KEYS if key in spans and (number := json_body.number(key)) is not None]
    for key, name in _NESTED:
        if key in spans and (span := json_body.span(key)) is not None:
            member = json_body.body[span[0] : min(span[1], span[0] + _MOST_MEMBER_BYTES)]
            match = re.search(rb'"%b"\s*:\s*([0-9]{1,15})\b' % name, member)
            if match is not None:
                found.append(int(match[1]))
    if not found:
        return None
    choices = json_body.number("n") if "n" in spans else None
    return max(found) * (1 if choices is None else min(max(1, choices), MOST_CHOICES))
