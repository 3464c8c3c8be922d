"""The fields that tell a client its limits."""

from __future__ import annotations

import pytest

from relayd.protocols.rate_fields import OPENAI_FIELDS, Left, field_lines, openai_reset

REQUESTS, INPUT, OUTPUT = ("requests", 60, 60_000), ("input", 1000, 60_000), ("output", 9, 60_000)


def lines(left: list[Left]) -> list[str]:
    return field_lines(left, OPENAI_FIELDS, 0).decode().splitlines()


@pytest.mark.parametrize("reset_ms, text", [
    (0, b"0ms"), (20, b"20ms"), (1000, b"1s"), (1200, b"2s"), (59_500, b"1m0s"), (360_000, b"6m0s"), (3_723_000, b"1h2m3s"),
])
def test_a_duration_is_written_as_openai_does_and_rounded_up(reset_ms: int, text: bytes) -> None:
    assert openai_reset(reset_ms, 0) == text


def test_openai_has_one_field_of_each_name_for_requests_and_tokens() -> None:
    assert lines([(REQUESTS, 59, 1000), (INPUT, 10, 60_000), (OUTPUT, 0, 1000)])[2:] == [
        "x-ratelimit-limit-requests: 60", "x-ratelimit-remaining-requests: 59", "x-ratelimit-reset-requests: 1s",
        "x-ratelimit-limit-tokens: 1000", "x-ratelimit-remaining-tokens: 10", "x-ratelimit-reset-tokens: 1m0s",
    ]


def test_the_fields_of_the_draft_have_an_item_for_each_limit() -> None:
    left = [(REQUESTS, 59, 1200), (("tokens", 1000, 0), 0, 0)]
    assert field_lines(left, None, 0).decode().splitlines() == [
        'RateLimit-Policy: "requests";q=60;w=60, "tokens";q=1000',
        'RateLimit: "requests";r=59;t=2, "tokens";r=0;t=0',
    ]


def test_fields_of_the_same_limits_have_the_values_of_their_own_response() -> None:
    for remaining, reset_ms in ((59, 1000), (7, 61_000)):
        found = lines([(REQUESTS, remaining, reset_ms)])
        assert found[1] == f'RateLimit: "requests";r={remaining};t={reset_ms // 1000}'
        assert found[3] == f"x-ratelimit-remaining-requests: {remaining}"
