"""What the generations take, told by their names."""

from __future__ import annotations

import json

import pytest

from relayd.protocols.canon import Message, Request, Text, Thinking
from relayd.protocols.dialect import Options, Refused
from relayd.protocols.gemini.models import budget_of, fitting_budget, generation_of, level_of
from relayd.protocols.gemini.request import write_request
from tests.aids.memories import Forgetful


@pytest.mark.parametrize(
    ("model", "thinking", "ids"),
    [
        ("gemini-1.5-flash", "no", False),
        ("models/gemini-1.5-pro", "no", False),
        ("gemini-pro", "no", False),
        ("gemini-2.0-flash-lite", "no", False),
        ("gemma-3-27b-it", "no", False),
        ("gemini-2.5-flash-preview-04-17", "budget", False),
        ("gemini-2.5-pro", "budget", False),
        ("gemini-3-pro-preview", "level", True),
        ("gemini-3.5-flash", "level", True),
        ("gemini-flash-latest", "level", True),
        ("gemini-4", "level", True),
        ("tunedModels/mine", "level", True),
    ],
)
def test_a_name_tells_the_generation(model: str, thinking: str, ids: bool) -> None:
    generation = generation_of(model)
    assert (generation.thinking, generation.call_ids, generation.signatures) == (thinking, ids, ids)


def test_pro_models_never_think_less_than_they_can() -> None:
    assert level_of(generation_of("gemini-3-pro"), "none") == "LOW"
    assert level_of(generation_of("gemini-3-flash"), "none") == "MINIMAL"
    assert budget_of(generation_of("gemini-2.5-pro"), "none") == 128
    assert budget_of(generation_of("gemini-2.5-flash"), "none") == 0


def test_a_word_that_is_no_effort_is_refused() -> None:
    for effort in ("", "LOW", "x" * 1000):
        with pytest.raises(Refused):
            level_of(generation_of("gemini-3-pro"), effort)


@pytest.mark.parametrize(
    ("model", "asked", "told"),
    [
        ("gemini-2.5-flash", 31999, 24576), ("gemini-2.5-flash", 0, 0), ("gemini-2.5-flash", 100, 100),
        ("gemini-2.5-flash-lite", 31999, 24576), ("gemini-2.5-flash-lite", 100, 512), ("gemini-2.5-flash-lite", 0, 0),
        ("gemini-2.5-pro", 31999, 31999), ("gemini-2.5-pro", 64000, 32768), ("gemini-2.5-pro", 0, 128),
        ("gemini-2.5-pro", -1, -1), ("gemini-3-flash", 31999, 31999), ("gemini-3-flash", 1 << 40, 32768),
    ],
)
def test_a_budget_is_brought_into_what_the_models_take(model: str, asked: int, told: int) -> None:
    assert fitting_budget(generation_of(model), asked) == told
    request = Request(model, (Message("user", (Text("x"),)),), thinking=Thinking(budget=asked))
    body = json.loads(write_request(request, Options(), Forgetful()).body)
    assert body["generationConfig"]["thinkingConfig"]["thinkingBudget"] == told
