"""The rate limit fields of Anthropic's API: limit, remaining, and reset as a time (RFC 3339)."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from relayd.protocols.rate_fields import Allowance

_NAMES = {"requests": "requests", "tokens": "tokens", "input": "input-tokens", "output": "output-tokens"}


def rate_fields(allowances: Sequence[Allowance], now_s: float) -> list[bytes]:
    """The fields for these allowances; `now_s` is the time in seconds since 1970."""
    lines = []
    for kind, limit, remaining, reset_s, _ in allowances:
        name = _NAMES[kind]
        at = datetime.datetime.fromtimestamp(-int(-(now_s + reset_s) // 1), datetime.UTC)
        lines.append(
            f"anthropic-ratelimit-{name}-limit: {limit}\r\nanthropic-ratelimit-{name}-remaining: {remaining}\r\n"
            f"anthropic-ratelimit-{name}-reset: {at:%Y-%m-%dT%H:%M:%SZ}\r\n".encode()
        )
    return lines
