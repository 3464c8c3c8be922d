"""The time in queues, in the record and the trace of an exchange."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from relayd import clock
from relayd.proxy.exchange import Exchange
from relayd.proxy.queue_time import record_wait


def test_the_times_of_all_queues_are_added_and_each_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[tuple[float, float]] = []
    trace = SimpleNamespace(add_wait=lambda since_s, until_s: waits.append((since_s, until_s)))
    waiting: Any = SimpleNamespace(waiting_since_s=-1.0, record=SimpleNamespace(queue_s=0.5, trace=trace))
    exchange = cast(Exchange, waiting)
    record_wait(exchange)
    assert waiting.record.queue_s == 0.5, "it does not wait"
    monkeypatch.setattr(clock, "monotonic", lambda: 13.0)
    waiting.waiting_since_s = 10.0
    record_wait(exchange)
    record_wait(exchange)
    assert (waiting.record.queue_s, waits, waiting.waiting_since_s) == (3.5, [(10.0, 13.0)], -1.0)
    waiting.waiting_since_s, waiting.record.trace = 12.0, None
    record_wait(exchange)
    assert waiting.record.queue_s == 4.5
