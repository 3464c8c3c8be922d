"""The optional members of a record."""

from __future__ import annotations

from typing import Any

import pytest

from relayd import clock
from relayd.protocols.tap import Observed
from relayd.proxy.account import more_of, record_model, record_observed, record_pace, record_translated, record_unknown
from relayd.telemetry.metrics import Metrics
from relayd.telemetry.outcome import More, Record
from relayd.usage import Usage


class Asking:
    def __init__(self, model: str) -> None:
        self.model = model


def test_a_plain_exchange_has_nothing_more() -> None:
    record = Record()
    assert record.more is None
    more_of(record)["model"] = "m"
    assert record.more == {"model": "m"} and more_of(record) is record.more


@pytest.mark.parametrize(("asked", "seen", "more"), [
    ("", Observed("m", usage=Usage(3, 0)), {"model": "m"}),
    ("m", Observed("m", "stop"), {"finish": "stop"}),
    ("m", Observed("m-2026", usage=Usage(0, 5, 2)), {"model_served": "m-2026"}),
    ("m", Observed(), None),
])
def test_the_results_of_a_tap_are_recorded(asked: str, seen: Observed, more: dict[str, Any] | None) -> None:
    record = Record()
    record_observed(record, seen, Asking(asked))  # type: ignore[arg-type]
    assert (record.usage, record.more) == (seen.usage, more)


def test_the_results_of_a_translation_are_recorded() -> None:
    usage, record = Usage(10, 7, cached_read=4, cache_creation=1, reasoning=2), Record()
    record_translated(record, usage, "length")
    assert record.usage == usage and record.more == {"finish": "length"}
    record = Record()
    record_translated(record, None, "")
    assert record.usage is None and record.more is None


def test_the_pace_counts_from_the_first_content(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "monotonic", lambda: 14.0)
    record = Record()
    record.started, record.usage = 10.0, Usage(output=50)
    record_pace(record, 12.0)
    assert record.more == {"first_token_ms": 2000.0, "tokens_per_s": 25.0}


@pytest.mark.parametrize(("asked", "there", "expected"), [
    ("a", "b", {"model": "a", "model_there": "b"}), ("a", "a", {"model": "a"}), ("a", None, {"model": "a"}), ("", "b", {}),
])
def test_a_model_has_its_other_name_beside_it(asked: str, there: str | None, expected: dict[str, Any]) -> None:
    more: More = {}
    record_model(more, Asking(asked), there)  # type: ignore[arg-type]
    assert more == expected


def test_parts_that_a_dialect_did_not_know_are_counted_by_their_fate() -> None:
    r = Record()
    record_unknown(r, {("a", "carried"): 2, ("a", "left_out"): 1, ("b", "left_out"): 3})
    assert r.more == {"unknown_carried": 2, "unknown_left_out": 4, "unknown_types": "a,b"}
    metrics = Metrics()
    metrics.count_exchange(r)
    assert metrics.value("relayd.proxy.unknown_items", fate="carried") == 2
    assert metrics.value("relayd.proxy.unknown_items", fate="left_out") == 4
