"""Usage, finish reason and model as this dialect's answers report them."""

from __future__ import annotations

from relayd.protocols.dialect import ResponseFacts
from relayd.protocols.ollama.usage import TAP, read_usage
from relayd.usage import Usage


def test_the_counts_stand_beside_the_message() -> None:
    last = {"model": "m", "done": True, "done_reason": "stop", "prompt_eval_count": 9, "eval_count": 4}
    facts = TAP.facts(last)
    assert facts == ResponseFacts("m", "stop", {"prompt_eval_count": 9, "eval_count": 4})
    assert facts.usage is not None and read_usage(facts.usage) == Usage(9, 4)
    assert TAP.facts({"done": False}) == ResponseFacts()
