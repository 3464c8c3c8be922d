"""What the generations of Gemini's models take: a table, since one interface serves all of them.

Names that say nothing (`gemini-flash-latest`, tuned models) are held for the newest generation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from relayd.protocols.dialect import Refused

# Google's own compatibility layer maps efforts to these budgets.
_BUDGETS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576}
_LEVELS = {"none": "MINIMAL", "minimal": "MINIMAL", "low": "LOW", "medium": "MEDIUM", "high": "HIGH"}
_PRO_LEVELS = _LEVELS | {"none": "LOW", "minimal": "LOW"}
_AS_HIGH = ("xhigh", "max")


@dataclass(frozen=True, slots=True)
class Generation:
    """What the models of one generation take.

    `thinking` is no, budget or level. `json_schema`: takes JSON Schema for structured output, else the older subset.
    `least_budget` and `most_budget` bound the tokens to think with; where `can_rest`, 0 switches thinking off.
    `call_ids`: knows ids of calls. `signatures`: answers 400 to a call of the current turn without a thought signature.
    """

    thinking: str = "level"
    json_schema: bool = True
    call_ids: bool = True
    signatures: bool = True
    levels: Mapping[str, str] = field(default_factory=lambda: _LEVELS)
    least_budget: int = 0
    most_budget: int = 32768
    can_rest: bool = True


_OLD = Generation(thinking="no", json_schema=False, call_ids=False, signatures=False)
# The first that matches the name (without `models/`) counts.
_GENERATIONS: tuple[tuple[re.Pattern[str], Generation], ...] = (
    (re.compile(r"gemini-1|gemini-2\.0|gemini-(?:pro|ultra)(?:-vision)?$"), _OLD),
    (re.compile(r"gemma|learnlm"), Generation(thinking="no", call_ids=False, signatures=False)),
    (
        re.compile(r"gemini-2\.5-pro"),
        Generation(thinking="budget", call_ids=False, signatures=False, least_budget=128, can_rest=False),
    ),
    (
        re.compile(r"gemini-2\.5-flash-lite"),
        Generation(thinking="budget", call_ids=False, signatures=False, least_budget=512, most_budget=24576),
    ),
    (re.compile(r"gemini-2"), Generation(thinking="budget", call_ids=False, signatures=False, most_budget=24576)),
    (re.compile(r"gemini-3-pro"), Generation(levels=_PRO_LEVELS | {"medium": "HIGH"})),
    (re.compile(r"gemini-[0-9.]+-pro|gemini-pro-latest"), Generation(levels=_PRO_LEVELS)),
)
_NEWEST = Generation()


def generation_of(model: str) -> Generation:
    """The generation that a model's name tells."""
    name = model.removeprefix("models/")
    for pattern, generation in _GENERATIONS:
        if pattern.match(name):
            return generation
    return _NEWEST


def level_of(generation: Generation, effort: str) -> str:
    """The thinking level for an effort. Raises Refused for a word that is no effort."""
    return generation.levels[_known(effort)]


def budget_of(generation: Generation, effort: str) -> int:
    """The tokens for an effort. Raises Refused for a word that is no effort."""
    return fitting_budget(generation, _BUDGETS[_known(effort)])


def fitting_budget(generation: Generation, tokens: int) -> int:
    """The nearest number of tokens that the models take; -1 leaves it to them."""
    if tokens < 0 or (tokens == 0 and generation.can_rest):
        return max(tokens, -1)
    return min(max(tokens, generation.least_budget), generation.most_budget)


def _known(effort: str) -> str:
    if effort in _AS_HIGH:
        return "high"
    if effort not in _BUDGETS:
        known = ", ".join((*_BUDGETS, *_AS_HIGH))
        raise Refused(f"Unknown reasoning effort {effort[:40]!r}; known: {known}.", "reasoning_effort", "invalid_value")
    return effort
