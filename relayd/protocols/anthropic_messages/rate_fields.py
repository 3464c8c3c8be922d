"""The rate limit fields of Anthropic's API: limit, remaining, and reset as a time (RFC 3339)."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Sequence

from relayd.protocols.rate_fields import MAX_CACHED, Allowance, RateFields, places

_NAMES = {"requests": "requests", "tokens": "tokens", "input": "input-tokens", "output": "output-tokens"}


def text(allowances: Sequence[Allowance]) -> str:
    """The fields for these limits."""
    found = ""
    for index, (kind, limit, _) in enumerate(allowances):
        name, (remaining, _, reset) = f"anthropic-ratelimit-{_NAMES[kind]}", places(index)
        found += f"{name}-limit: {limit}\r\n{name}-remaining: {remaining}\r\n{name}-reset: {reset}\r\n"
    return found


def reset(reset_ms: int, now_ms: int) -> bytes:
    """The time of a reset, rounded up to the second."""
    return _time(-(-(now_ms + reset_ms) // 1000))


@functools.lru_cache(maxsize=MAX_CACHED)
def _time(seconds: int) -> bytes:
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%dT%H:%M:%SZ}".encode()


ANTHROPIC_FIELDS = RateFields(text, reset)
