"""The rate of a body: what is too slow, and that a pause is not."""

from __future__ import annotations

import pytest

from relayd import clock
from relayd.server.body_rate import MIN_BYTES_PER_S, WINDOW_S, BodyRate


@pytest.mark.parametrize(("received", "after_s", "silence_s", "slow"), [
    (0, WINDOW_S - 1, 5.0, False), (0, WINDOW_S + 1, 5.0, True), (MIN_BYTES_PER_S * 32, WINDOW_S + 1, 5.0, False),
    (0, WINDOW_S + 1, 60.0, False), (0, 61.0, 60.0, True),
])
def test_a_rate_is_judged_after_a_window(received: int, after_s: float, silence_s: float, slow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = clock.monotonic()
    monkeypatch.setattr(clock, "monotonic", lambda: now_s)
    rate = BodyRate()
    rate.received = received
    assert rate.is_too_slow(now_s + after_s, silence_s) is slow
    if slow:
        assert not rate.is_too_slow(now_s + after_s + 1, silence_s), "the next window has begun"


def test_a_pause_is_not_the_silence_of_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = clock.monotonic()
    rate = BodyRate()
    monkeypatch.setattr(clock, "monotonic", lambda: now_s + 100)
    rate.restart()
    assert not rate.is_too_slow(now_s + 101, 5.0)
