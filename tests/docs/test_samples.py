"""The samples are well-formed: each can be read by the dialect in whose words it is, and its mark is in it."""

from __future__ import annotations

import json
import re

import pytest

from relayd.protocols.canon import Begin, End
from tests.docs import pairs
from tests.docs.samples import ANSWERS, PLAIN, REQUESTS, Answered, Sample

IN_WORDS = [
    pytest.param(sample, name, id=f"{name}-{sample.what}") for sample in REQUESTS for name in sample.asked
]  # fmt: skip


@pytest.mark.parametrize(("sample", "name"), IN_WORDS)
def test_a_sample_is_read_by_its_dialect_and_so_is_the_request_without_it(sample: Sample, name: str) -> None:
    front = next(one for one in pairs.fronts() if one.name == name)
    assert front.read_request is not None
    for asked in (sample.asked[name], sample.without.get(name, {})):
        front.read_request(json.dumps(pairs.members_of(front, asked)).encode(), pairs.ask_in(front))


@pytest.mark.parametrize(("sample", "name"), IN_WORDS)
def test_a_mark_is_in_the_sample_and_nowhere_without_it(sample: Sample, name: str) -> None:
    re.compile(sample.word)
    if sample.mark is not None:
        said = json.dumps(sample.asked[name], ensure_ascii=False)
        assert sample.mark in said
        assert sample.mark not in json.dumps([PLAIN[name], sample.without.get(name, {})], ensure_ascii=False)
    else:
        assert sample.asked[name] != sample.without.get(name)


def test_every_front_has_a_plain_request_and_no_two_samples_have_one_name() -> None:
    assert set(PLAIN) == {one.name for one in pairs.fronts()}
    assert len({sample.what for sample in REQUESTS}) == len(REQUESTS)


@pytest.mark.parametrize("answered", ANSWERS, ids=lambda one: one.what)
def test_an_answer_is_a_whole_run_of_events(answered: Answered) -> None:
    for events in (answered.events, answered.without):
        assert isinstance(events[0], Begin) and isinstance(events[-1], End)
    assert answered.events != answered.without
