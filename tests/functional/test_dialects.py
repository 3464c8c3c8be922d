"""Every client dialect over every back-end dialect, through the real process: text, streams, tool loops."""

from __future__ import annotations

import threading

import pytest

from tests.functional.harness.dialects.fronts import FRONTS, FULL, Front, FullFront
from tests.functional.harness.dialects.gateway import BACKS, THERE, Gateway
from tests.functional.harness.dialects.said import Asked, Reply, Say

PAIRS = [pytest.param(front, back, id=f"{front.name}-{back}") for front in FRONTS for back in BACKS]
STREAMED = [pytest.param(front, back, id=f"{front.name}-{back}") for front in FULL for back in BACKS]
TOOLED = [
    pytest.param(front, back, stream, id=f"{front.name}-{back}-{'stream' if stream else 'plain'}")
    for front in FULL for back in BACKS for stream in (False, True)
]  # fmt: skip
FIRST = {"openai_chat": 2, "openai_responses": 2, "anthropic_messages": 4, "gemini": 1, "ollama": 1}  # frames to the first word
both = pytest.mark.parametrize(("front", "back"), PAIRS)
streamed = pytest.mark.parametrize(("front", "back"), STREAMED)


@both
def test_a_plain_answer(front: Front, back: str, running: Gateway) -> None:
    heard = front.read(running.ask(front, back, front.ask(back, "Grüße, 世界")), stream=False)
    assert heard.text == "You said: Grüße, 世界 🌧" and heard.finish == "stop"
    if heard.usage is not None:
        assert heard.usage == (11, 7)
    (asked,) = running.backs[back].asked
    # A dialect's own front passes by its upstream without a table of models.
    assert asked.model == ("dialogflow" if front.name == "dialogflow" else THERE[back])
    assert not asked.stream and asked.prompt == "Grüße, 世界"
    if front in FULL:
        assert asked.system == "Be brief."


@streamed
def test_a_streamed_answer(front: FullFront, back: str, running: Gateway) -> None:
    heard = front.read(running.ask(front, back, front.ask(back, "Grüße, 世界", stream=True)), stream=True)
    assert heard.text == "You said: Grüße, 世界 🌧" and heard.finish == "stop" and heard.usage == (11, 7)
    assert running.backs[back].asked[0].stream


@pytest.mark.parametrize(("front", "back", "stream"), TOOLED)
def test_a_tool_loop_with_two_calls_at_once(front: FullFront, back: str, stream: bool, running: Gateway) -> None:
    body = front.ask(back, "How is the weather?", stream=stream, tools=True)
    first = front.read(running.ask(front, back, body), stream)
    assert first.text == "Let me see." and first.thought == "Two cities." and first.finish == "tool_calls"
    assert [(call.name, call.values) for call in first.calls] == [("look_up", {"city": "Köln"}), ("look_up", {"city": "Bern"})]
    assert len({call.id for call in first.calls}) == 2
    second = front.read(running.ask(front, back, front.follow(body, first, ["rain", "sun"])), stream)
    assert second.text == "It is rain and sun." and second.finish == "stop" and second.usage == (40, 12)
    asked = running.backs[back].asked[-1]
    assert [text for _, text in asked.results] == ["rain", "sun"] and asked.tools == ("look_up",)


@streamed
def test_words_arrive_while_the_back_end_still_speaks(front: FullFront, back: str, running: Gateway) -> None:
    gate = threading.Event()

    def brain(asked: Asked) -> Reply:
        return Say(("first ", "second"), gate=gate, gate_after=FIRST[back])

    running.backs[back].brain = brain
    with running.relay.client() as client:
        client.send(running.bytes_of(front, back, front.ask(back, "x", stream=True)))
        while b"first" not in client.buffer:
            assert client.fill(5)
        assert b"second" not in client.buffer
        gate.set()
        assert front.read(client.answer(b"POST"), stream=True).text == "first second"


@both
def test_an_answer_that_met_its_limit_says_so(front: Front, back: str, running: Gateway) -> None:
    running.backs[back].brain = lambda asked: Say(("half",), finish="length")
    heard = front.read(running.ask(front, back, front.ask(back, "x")), stream=False)
    assert heard.text == "half" and heard.finish == ("stop" if front.name == "dialogflow" else "length")
    if front in FULL:
        heard = front.read(running.ask(front, back, front.ask(back, "x", stream=True)), stream=True)
        assert heard.text == "half" and heard.finish == "length"
