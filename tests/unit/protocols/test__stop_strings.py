"""Stop strings that relayd itself ends an answer at."""

from __future__ import annotations

import itertools
import json

from hypothesis import given
from hypothesis import strategies as st

from relayd.protocols import registry
from relayd.protocols._stop_strings import StopStringFilter
from relayd.protocols.canon import (
    End,
    Event,
    Failure,
    Finish,
    Message,
    ReasoningDelta,
    Request,
    Text,
    TextDelta,
    ToolStart,
)
from relayd.protocols.dialect import Options
from relayd.usage import Usage
from tests.aids.memories import Forgetful


def text_of(events: list[Event], choice: int = 0) -> str:
    return "".join(one.text for one in events if isinstance(one, TextDelta) and one.choice == choice)


@given(
    st.text("abc", max_size=30), st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=4),
    st.lists(st.integers(0, 30), max_size=6),
)
def test_the_answer_ends_at_the_first_stop_string_however_it_was_cut(text: str, stops: list[str], cuts: list[int]) -> None:
    watch = StopStringFilter(tuple(stops))
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    received: list[Event] = []
    for start, end in itertools.pairwise(places):
        received += watch.filter([TextDelta(text[start:end])])
    received += watch.filter([Finish("length"), Usage(3, 4), End()])
    ends = [position for stop in stops if (position := text.find(stop)) >= 0]
    finish = next(one for one in received if isinstance(one, Finish))
    assert text_of(received) == text[: min(ends, default=len(text))] or any(text_of(received).startswith(text[:end]) for end in ends)
    assert finish.reason == ("stop" if ends else "length") and (finish.stop in stops) == bool(ends)
    assert received[-2:] == [Usage(3, 4), End()]


def test_a_partial_match_is_released_when_it_fails() -> None:
    watch = StopStringFilter(("STOP",))
    assert text_of(watch.filter([TextDelta("a ST")])) == "a "
    assert watch.filter([ReasoningDelta("hm")]) == [TextDelta("ST"), ReasoningDelta("hm")]
    assert watch.filter([TextDelta("S"), Failure(502, "cut")]) == [TextDelta("S"), Failure(502, "cut")]


def test_after_a_stop_string_its_choice_has_no_more_content() -> None:
    watch = StopStringFilter(("\n\n",))
    events = watch.filter([TextDelta("a\n"), TextDelta("\nb"), TextDelta("c", 1), ToolStart(0, "x", "look"), TextDelta("d")])
    assert text_of(events) == "a" and text_of(events, 1) == "c"
    assert watch.filter([Finish("tool_calls"), Finish("stop", 1)]) == [Finish("stop", 0, "\n\n"), Finish("stop", 1)]


def test_a_fifth_stop_string_ends_the_answer_of_a_chat_endpoint() -> None:
    request = Request("m", (Message("user", (Text("x"),)),), stream=True, stop=("1", "2", "3", "4", "END"))
    make = registry.load("openai_chat").reader
    assert make is not None
    reader = make(request, Options(), Forgetful())
    events: list[Event] = []
    for piece in ("so", " E", "ND", " more"):
        chunk = {"choices": [{"index": 0, "delta": {"content": piece}}]}
        events += reader.decode(b"data: " + json.dumps(chunk).encode() + b"\n\n")
    events += reader.decode(b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}\n\ndata: [DONE]\n\n')
    assert text_of(events) == "so " and Finish("stop", 0, "END") in events and End() in events
