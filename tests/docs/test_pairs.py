"""What becomes of a sample is found by translating it: each fate with a dialect that was made to have it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from relayd.protocols import _json, registry
from relayd.protocols.canon import Request
from relayd.protocols.dialect import Dialect, EncodedRequest, Memory, Options, Refused
from tests.aids.memories import Forgetful
from tests.docs import pairs
from tests.docs.pairs import BY_OPTION, CARRIED, DROPPED, REFUSED, REWORDED, Found
from tests.docs.samples import ANSWERS, REQUESTS, Sample

CHAT = next(one for one in registry.dialects() if one.name == "openai_chat")
SEED = next(sample for sample in REQUESTS if sample.what == "seed")


def back(**members: object) -> Dialect:
    """An endpoint that is sent the model and these members of the request, by their names."""

    def write_request(request: Request, options: Options, memory: Memory) -> EncodedRequest:
        sent = {"model": request.model}
        for name, of in members.items():
            value = getattr(request, name)
            if of == "option" and not options.metadata:
                continue
            if of == "refuse" and value is not None:
                raise Refused("No.", name)
            sent[name] = "some" if of == "reword" and value is not None else value
        return EncodedRequest("/x", _json.write(sent))

    return replace(CHAT, name="made", write_request=write_request, drops=("The seed is left out.",))


@pytest.mark.parametrize(
    ("of", "found"),
    [
        ("carry", Found(CARRIED)),
        ("option", Found(BY_OPTION)),
        ("refuse", Found(REFUSED, "seed")),
        ("reword", Found(DROPPED, documented="The seed is left out.")),
    ],
)
def test_each_fate_is_told_from_the_others(of: str, found: Found) -> None:
    assert pairs.found(CHAT, back(seed=of), SEED) == found


def test_what_is_not_sent_at_all_is_dropped() -> None:
    assert pairs.found(CHAT, back(), SEED) == Found(DROPPED, documented="The seed is left out.")
    assert pairs.found(CHAT, replace(back(), drops=()), replace(SEED, word="sown")) == Found(DROPPED)


def test_a_sample_that_may_be_said_in_other_words_is_reworded() -> None:
    loose = Sample(SEED.what, SEED.word, SEED.asked, SEED.mark, in_words=True)
    assert pairs.found(CHAT, back(seed="reword"), loose).fate == REWORDED
    assert pairs.found(CHAT, back(seed="carry"), loose).fate == CARRIED


def test_an_answer_is_rendered_twice_alike_though_ids_are_minted() -> None:
    text = next(one for one in ANSWERS if one.what == "text")
    for front in pairs.fronts():
        same = replace(text, events=text.without, mark=None)
        assert pairs.shown(front, same, stream=True).fate == DROPPED
        assert pairs.shown(front, text, stream=False) == Found(CARRIED)


def test_a_memory_that_forgets_says_so() -> None:
    memory = Forgetful()
    memory.put("key", 1)
    assert memory.get("key") is None and memory.delete("key") is False
