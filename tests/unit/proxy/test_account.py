"""What the account says beyond a plain exchange."""

from __future__ import annotations

from typing import Any

import pytest

from relayd import clock
from relayd.protocols.canon import Usage
from relayd.protocols.dialect import Tapped
from relayd.proxy.account import More, more_of, tell_model, tell_pace, tell_seen, tell_translated
from relayd.telemetry.outcome import Record


class Asking:
    def __init__(self, model: str) -> None:
        self.model = model


class Translated:
    def __init__(self, usage: Usage | None, finish: str) -> None:
        self.usage, self.finish = usage, finish


def test_a_plain_exchange_has_nothing_more() -> None:
    record = Record()
    assert record.more is None
    more_of(record)["model"] = "m"
    assert record.more == {"model": "m"} and more_of(record) is record.more


@pytest.mark.parametrize(("asked", "seen", "told"), [
    ("", Tapped(model="m", input=3, output=0), {"tokens_input": 3, "tokens_output": 0, "model": "m"}),
    ("m", Tapped(model="m", finish="stop"), {"finish": "stop"}),
    ("m", Tapped(model="m-2026", output=5, cached=2), {"tokens_output": 5, "tokens_cached": 2, "model_served": "m-2026"}),
    ("m", Tapped(cached=0), {}),
])
def test_what_a_tap_saw_is_told(asked: str, seen: Tapped, told: dict[str, Any]) -> None:
    more: More = {}
    tell_seen(more, seen, Asking(asked))  # type: ignore[arg-type]
    assert more == told


def test_what_a_translation_said_is_told() -> None:
    more: More = {}
    tell_translated(more, Translated(Usage(10, 7, cached=4, reasoning=2), "length"))  # type: ignore[arg-type]
    assert more == {
        "tokens_input": 10, "tokens_output": 7, "tokens_cached": 4, "tokens_reasoning": 2, "finish": "length"}
    more = {}
    tell_translated(more, Translated(None, ""))  # type: ignore[arg-type]
    assert more == {}


def test_the_pace_counts_from_the_first_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "monotonic", lambda: 14.0)
    more: More = {"tokens_output": 50}
    tell_pace(more, 10.0, 12.0)
    assert more == {"tokens_output": 50, "first_token_ms": 2000.0, "tokens_per_s": 25.0}


@pytest.mark.parametrize(("asked", "there", "told"), [
    ("a", "b", {"model": "a", "model_there": "b"}), ("a", "a", {"model": "a"}), ("a", None, {"model": "a"}), ("", "b", {}),
])
def test_a_model_has_its_other_name_beside_it(asked: str, there: str | None, told: dict[str, Any]) -> None:
    more: More = {}
    tell_model(more, Asking(asked), there)  # type: ignore[arg-type]
    assert more == told
