"""The fields that tell a client its limits."""

from __future__ import annotations

import pytest

from relayd.protocols.rate_fields import Allowance, go_duration, openai_fields, standard_fields


@pytest.mark.parametrize("seconds, text", [
    (0, "0ms"), (0.02, "20ms"), (1, "1s"), (1.2, "2s"), (59.5, "1m0s"), (360, "6m0s"), (3723, "1h2m3s"), (-1, "0ms"),
])
def test_a_duration_is_written_as_openai_does_and_rounded_up(seconds: float, text: str) -> None:
    assert go_duration(seconds) == text


def test_openai_has_one_field_of_each_name_for_requests_and_tokens() -> None:
    lines = openai_fields([
        Allowance("requests", 60, 59, 1.0, 60.0), Allowance("input", 1000, 10, 60.0, 60.0), Allowance("output", 9, 0, 1.0, 60.0),
    ], 0.0)
    assert b"".join(lines).decode().splitlines() == [
        "x-ratelimit-limit-requests: 60", "x-ratelimit-remaining-requests: 59", "x-ratelimit-reset-requests: 1s",
        "x-ratelimit-limit-tokens: 1000", "x-ratelimit-remaining-tokens: 10", "x-ratelimit-reset-tokens: 1m0s",
    ]


def test_the_fields_of_the_draft_have_an_item_for_each_limit() -> None:
    lines = standard_fields([Allowance("requests", 60, 59, 1.2, 60.0), Allowance("tokens", 1000, 0, 0.0, 0.0)])
    assert b"".join(lines).decode().splitlines() == [
        'RateLimit-Policy: "requests";q=60;w=60, "tokens";q=1000',
        'RateLimit: "requests";r=59;t=2, "tokens";r=0;t=0',
    ]
