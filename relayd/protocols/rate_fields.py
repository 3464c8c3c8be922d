"""Response fields that tell a client its limits, in the shapes that SDKs read.

RateLimit and RateLimit-Policy are those of draft-ietf-httpapi-ratelimit-headers-10; `x-ratelimit-*` are OpenAI's. The
fields of Anthropic's API are in its own package.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

PREFIXES = (b"x-ratelimit-", b"anthropic-ratelimit-", b"ratelimit")


class Allowance(NamedTuple):
    """What one client has left. `kind` is requests, tokens, input or output (tokens); `reset_s` is the time until all
    of the limit is available again, `span_s` the length of a sliding span; 0 without one."""

    kind: str
    limit: int
    remaining: int
    reset_s: float
    span_s: float


RateFields = Callable[[Sequence[Allowance], float], list[bytes]]


def go_duration(seconds: float) -> str:
    """A duration as OpenAI writes it: 20ms, 1s, 6m0s, 1h2m3s."""
    if seconds < 1:
        return f"{max(0, round(seconds * 1000))}ms"
    whole = -int(-seconds // 1)
    minutes, left = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{left}s" if hours else f"{minutes}m{left}s" if minutes else f"{left}s"


def openai_fields(allowances: Sequence[Allowance], now_s: float) -> list[bytes]:
    """The fields of OpenAI's API: one allowance of requests and one of tokens."""
    lines: list[bytes] = []
    seen: set[str] = set()
    for kind, limit, remaining, reset_s, _ in allowances:
        name = "requests" if kind == "requests" else "tokens"
        if name in seen:
            continue
        seen.add(name)
        lines.append(
            f"x-ratelimit-limit-{name}: {limit}\r\nx-ratelimit-remaining-{name}: {remaining}\r\n"
            f"x-ratelimit-reset-{name}: {go_duration(reset_s)}\r\n".encode()
        )
    return lines


def standard_fields(allowances: Sequence[Allowance]) -> list[bytes]:
    """RateLimit-Policy and RateLimit, with one item for each allowance."""
    policies = [
        f'"{kind}";q={limit};w={round(span_s)}' if span_s else f'"{kind}";q={limit}'
        for kind, limit, _, _, span_s in allowances
    ]
    states = [
        f'"{kind}";r={remaining};t={-int(-reset_s // 1)}' for kind, _, remaining, reset_s, _ in allowances
    ]
    return [f"RateLimit-Policy: {', '.join(policies)}\r\nRateLimit: {', '.join(states)}\r\n".encode()]
