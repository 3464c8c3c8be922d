"""When to try again, in every form that it comes in."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd import clock
from relayd.protocols.retry_after import LONGEST_S, retry_after_headers, retry_after_s, retry_info_s


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "7", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "7", "retry-after-ms": "soon"}, 7.0),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "99999999999"}, LONGEST_S),
        ({"retry-after": "1795961412000"}, LONGEST_S),  # milliseconds since 1970
        ({"retry-after": "9" * 5000}, LONGEST_S),
        ({"retry-after": "2.0000000000000000001"}, 2.0),
        ({"retry-after": "Sat, 99 Foo 2026 12:00:00 GMT"}, None),
    ],
)
def test_seconds_are_read(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers) == seconds


def test_a_date_counts_from_now_and_never_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "wall", lambda: 1_800_000_000.0)
    assert retry_after_s({"retry-after": "Fri, 15 Jan 2027 08:00:30 GMT"}) == 30.0
    assert retry_after_s({"retry-after": "Fri, 15 Jan 2027 08:00:30"}) == 30.0
    assert retry_after_s({"retry-after": "Fri, 15 Jan 2027 07:00:00 GMT"}) == 0.0


@given(st.text(max_size=40))
def test_no_text_raises(text: str) -> None:
    found = retry_after_s({"retry-after": text})
    assert found is None or 0 <= found <= LONGEST_S


@pytest.mark.parametrize(
    ("details", "seconds"),
    [
        ([{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7s"}], 7.0),
        ([{"@type": "x.Help"}, {"@type": "x.RetryInfo", "retryDelay": "0.25s"}], 0.25),
        ([{"@type": "x.RetryInfo", "retryDelay": 7}, None, "x"], None),
        ([{"@type": "x.QuotaFailure", "retryDelay": "7s"}], None),
        ({"retryDelay": "7s"}, None),
        (None, None),
    ],
)
def test_googles_retry_info_is_read(details: Any, seconds: float | None) -> None:
    assert retry_info_s(details) == seconds


def test_a_wait_is_written_in_both_forms_and_never_shorter() -> None:
    assert retry_after_headers(None) == ()
    assert retry_after_headers(0.2504) == (("Retry-After", "1"), ("retry-after-ms", "251"))
    assert retry_after_headers(0) == (("Retry-After", "0"), ("retry-after-ms", "0"))
