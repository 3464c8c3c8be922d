"""The fields that tell a client of Anthropic's API its limits."""

from __future__ import annotations

import pytest

from relayd.protocols.anthropic_messages.rate_fields import rate_fields
from relayd.protocols.rate_fields import Allowance

NOW_S = 1_795_910_400.0  # 2026-11-29, midnight UTC


def test_the_reset_is_a_time_and_never_too_early() -> None:
    lines = rate_fields([Allowance("requests", 60, 59, 61.2, 60.0)], NOW_S)
    assert b"".join(lines).decode().splitlines() == [
        "anthropic-ratelimit-requests-limit: 60", "anthropic-ratelimit-requests-remaining: 59",
        "anthropic-ratelimit-requests-reset: 2026-11-29T00:01:02Z",
    ]


@pytest.mark.parametrize("kind, name", [("tokens", "tokens"), ("input", "input-tokens"), ("output", "output-tokens")])
def test_tokens_have_the_names_that_sdks_read(kind: str, name: str) -> None:
    (line,) = rate_fields([Allowance(kind, 1000, 0, 0.0, 60.0)], NOW_S)
    assert f"anthropic-ratelimit-{name}-remaining: 0\r\n".encode() in line
