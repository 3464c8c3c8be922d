"""The lag of the event loop."""

from __future__ import annotations

import asyncio

import pytest

from relayd import clock
from relayd.daemon.loop_lag import INTERVAL_S, LoopLag


async def test_a_blocked_loop_is_measured_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[float] = []
    measured = asyncio.Event()

    def report(late_s: float) -> None:
        reported.append(late_s)
        measured.set()

    lag = LoopLag(report)
    lag.start()
    now = clock.monotonic()
    monkeypatch.setattr(clock, "monotonic", lambda: now + INTERVAL_S + 0.4)  # the loop was blocked for 400 ms
    assert lag.current_s == pytest.approx(0.4, abs=0.05)
    await asyncio.wait_for(measured.wait(), 60)
    assert reported[0] == pytest.approx(0.4, abs=0.05)
    assert lag.worst_s == reported[0]
    lag.stop()


async def test_a_free_loop_is_no_later_than_its_timer() -> None:
    measured = asyncio.Event()
    lag = LoopLag(lambda late_s: measured.set())
    begun = clock.monotonic()
    lag.start()
    await asyncio.wait_for(measured.wait(), 60)
    assert 0.0 <= lag.last_s <= clock.monotonic() - begun - INTERVAL_S
    lag.stop()


async def test_after_stop_nothing_is_measured() -> None:
    reported: list[float] = []
    lag = LoopLag(reported.append)
    lag.start()
    lag.stop()
    await asyncio.sleep(0)
    assert reported == []
    assert lag.current_s == 0.0
