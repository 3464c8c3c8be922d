"""The fields that tell a client of Anthropic's API its limits."""

from __future__ import annotations

import pytest

from relayd.protocols.anthropic_messages.rate_fields import ANTHROPIC_FIELDS
from relayd.protocols.rate_fields import field_lines

NOW_MS = 1_795_910_400_000  # 2026-11-29, midnight UTC


def test_the_reset_is_a_time_and_never_too_early() -> None:
    lines = field_lines([(("requests", 60, 60_000), 59, 61_200)], ANTHROPIC_FIELDS, NOW_MS)
    assert lines.decode().splitlines()[2:] == [
        "anthropic-ratelimit-requests-limit: 60", "anthropic-ratelimit-requests-remaining: 59",
        "anthropic-ratelimit-requests-reset: 2026-11-29T00:01:02Z",
    ]


@pytest.mark.parametrize("kind, name", [("tokens", "tokens"), ("input", "input-tokens"), ("output", "output-tokens")])
def test_tokens_have_the_names_that_sdks_read(kind: str, name: str) -> None:
    lines = field_lines([((kind, 1000, 60_000), 0, 0)], ANTHROPIC_FIELDS, NOW_MS)
    assert f"anthropic-ratelimit-{name}-remaining: 0\r\n".encode() in lines
