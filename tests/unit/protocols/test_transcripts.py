"""Real transcripts through every dialect: the golden files say what becomes of them, wherever their bytes are cut."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from relayd.protocols.canon import (
    Begin,
    End,
    Event,
    Failure,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolDelta,
    ToolStart,
)
from tests.docs import pairs as _pairs
from tests.unit.protocols.transcripts import (
    ANSWERS,
    FOLDER,
    REQUESTS,
    Transcript,
    becomes,
    events_of,
    joined,
    named,
    rendering,
)

any_transcript = pytest.mark.parametrize("one", REQUESTS + ANSWERS, ids=lambda one: f"{one.dialect}-{one.name}")
any_answer = pytest.mark.parametrize("one", ANSWERS, ids=lambda one: f"{one.dialect}-{one.name}")
SAID = (TextDelta, ReasoningDelta, RefusalDelta, ToolStart, ToolDelta)
STREAMS = tuple(one for one in ANSWERS if one.kind != "json")


@any_transcript
def test_a_transcript_becomes_its_golden_file(one: Transcript) -> None:
    assert becomes(one) == one.golden.read_bytes().decode(), "transcripts --write shows what has changed"


def test_no_golden_file_is_left_over_and_every_dialect_has_transcripts() -> None:
    stored = {path for folder in ("sent", "rendered") for path in (FOLDER / folder).iterdir()}
    assert stored == {one.golden for one in REQUESTS + ANSWERS}
    assert {one.dialect for one in ANSWERS} == {one.name for one in _pairs.backs()}


def same(one: Sequence[Event], other: Sequence[Event]) -> bool:
    """Whether they are the same, whatever ids were minted and however text was cut."""
    events, others = joined(list(one)), joined(list(other))
    return events == others or named("\n".join(map(repr, events))) == named("\n".join(map(repr, others)))


@any_answer
def test_an_answer_cut_anywhere_gives_the_same_events(one: Transcript) -> None:
    whole = events_of(one)
    for cut in range(1, len(one.data), max(1, len(one.data) // 150)):
        assert same(events_of(one, [cut]), whole), cut


@pytest.mark.fuzz
@any_answer
def test_an_answer_cut_at_every_byte_gives_the_same_events(one: Transcript) -> None:
    whole = events_of(one)
    for cut in range(1, len(one.data)):
        assert same(events_of(one, [cut]), whole), cut


@any_answer
def test_an_answer_byte_by_byte_and_in_any_pieces_gives_the_same_events(one: Transcript) -> None:
    whole = events_of(one)
    assert same(events_of(one, list(range(1, len(one.data)))), whole)
    dice = random.Random(7)
    for _ in range(20):
        cuts = sorted(dice.sample(range(1, len(one.data)), min(9, len(one.data) - 1)))
        assert same(events_of(one, cuts), whole)


@pytest.mark.parametrize("one", STREAMS, ids=lambda one: f"{one.dialect}-{one.name}")
def test_a_stream_that_ends_anywhere_before_its_end_is_never_a_whole_answer_too_early(one: Transcript) -> None:
    whole = joined(events_of(one))
    fault = next((event for event in whole if isinstance(event, Failure)), None)
    text_message = [event for event in whole if isinstance(event, SAID)]
    finished = 0
    for length in range(0, len(one.data), max(1, len(one.data) // 200)):
        events = joined(events_of(Transcript(one.dialect, one.name, one.kind, one.data[:length])))
        ends = [event for event in events if isinstance(event, End | Failure)]
        assert len(ends) == 1 and events[-1] is ends[0]
        assert sum(isinstance(event, Begin) for event in events) <= 1
        if isinstance(ends[0], End):
            finished += 1
            # What may be missing behind a finish reason is the token counts, and nothing that was said.
            assert same([event for event in events if isinstance(event, SAID)], text_message)
    assert fault is None or finished == 0


@any_answer
@pytest.mark.parametrize("front", _pairs.fronts(), ids=lambda one: one.name)
def test_events_one_by_one_render_as_all_at_once(one: Transcript, front: object) -> None:
    dialect = next(it for it in _pairs.fronts() if it is front)
    events = events_of(one)
    for stream in (False, True):
        run_steps = named(rendering(dialect, events, stream))
        assert named(rendering(dialect, events, stream, one_by_one=True)) == run_steps
