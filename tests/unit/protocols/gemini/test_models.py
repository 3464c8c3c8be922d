"""What the generations take, told by their names."""

from __future__ import annotations

import pytest

from relayd.protocols.dialect import Refused
from relayd.protocols.gemini.models import budget_of, generation_of, level_of


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
