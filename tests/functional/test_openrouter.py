"""OpenRouter as an endpoint: its comments, reasons, errors, proofs of reasoning and costs, for clients of each dialect."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.functional.harness.dialects.backend import KEY, KEY_NAME, Backend
from tests.functional.harness.dialects.fronts import ChatFront, FullFront, MessagesFront, ResponsesFront
from tests.functional.harness.dialects.gateway import FRONT_ROUTES, Gateway
from tests.functional.harness.dialects.openrouter_backend import COMMENT, RAW, OpenRouter
from tests.functional.harness.dialects.said import Fail, Say, always
from tests.functional.harness.relay import Relay

NAME, MODEL = "router", "google/gemini-3-pro"
CHAT, RESPONSES, MESSAGES = ChatFront(), ResponsesFront(), MessagesFront()
TRANSLATED = pytest.mark.parametrize("front", [RESPONSES, MESSAGES], ids=lambda front: front.name)
STREAM = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Backend(OpenRouter()) as back:
        change = {
            "upstreams": {"up": None, NAME: back.section}, "models": {NAME: {"upstream": NAME, "model": MODEL}},
            "routes": [route for route in FRONT_ROUTES if route["upstream"] == "by_model"],
        }
        with Relay(tmp_path_factory.mktemp("openrouter"), "http://127.0.0.1:1", change, environment={KEY_NAME: KEY}) as relay:
            yield Gateway(relay, {NAME: back})


@pytest.fixture
def router(shared: Gateway) -> Iterator[Gateway]:
    shared.fresh()
    yield shared
    shared.check()
    shared.relay.wait_quiet()


def ask(router: Gateway, front: FullFront, stream: bool, tools: bool = False) -> Any:
    return router.ask(front, NAME, front.ask(NAME, "How wide?", stream=stream, tools=tools))


def failure_of(front: FullFront, message: Any) -> str:
    """The reason of a failure, which is an error answer unless the stream had begun."""
    if message.status == 502:
        return front.error(message)
    assert message.status == 200
    return front.cut(message.body).failed


@TRANSLATED
@STREAM
def test_an_answer_with_thoughts_and_usage(router: Gateway, front: FullFront, stream: bool) -> None:
    router.backs[NAME].brain = always(Say(("Very", " wide."), thought="How wide is it?"))
    heard = front.read(ask(router, front, stream), stream)
    assert (heard.text, heard.thought, heard.finish, heard.usage) == ("Very wide.", "How wide is it?", "stop", (11, 7))
    assert router.backs[NAME].asked[-1].model == MODEL
    record = router.relay.record(outcome="complete", upstream=NAME)
    assert (record["tokens_input"], record["tokens_output"]) == (11, 7)


@STREAM
def test_a_chat_client_gets_the_bytes_of_the_endpoint(router: Gateway, stream: bool) -> None:
    router.backs[NAME].brain = always(Say(("Very", " wide."), thought="How wide is it?"))
    message = ask(router, CHAT, stream)
    tongue = router.backs[NAME].tongue
    asked, said = router.backs[NAME].asked[-1], Say(("Very", " wide."), thought="How wide is it?")
    if stream:
        assert message.complete and message.body == b"".join(tongue.frames(asked, said)) + tongue.end and COMMENT in message.body
    else:
        assert json.loads(message.body) == tongue.plain(asked, said)


@TRANSLATED
@STREAM
def test_the_proofs_of_reasoning_go_back_with_the_calls(router: Gateway, front: FullFront, stream: bool) -> None:
    first = front.ask(NAME, "What is the weather?", stream=stream, tools=True)
    heard = front.read(router.ask(front, NAME, first), stream)
    assert [call.values["city"] for call in heard.calls] == ["Köln", "Bern"] and heard.finish == "tool_calls"
    second = router.ask(front, NAME, front.follow(first, heard, ["rain", "sun"]))
    assert front.read(second, stream).text == "It is rain and sun."
    (turn,) = [message for message in router.backs[NAME].asked[-1].body["messages"] if message.get("tool_calls")]
    assert {call["id"] for call in turn["tool_calls"]} == {call.id for call in heard.calls}


def test_a_turn_without_its_proofs_is_refused_with_the_reason_of_the_endpoint(router: Gateway) -> None:
    """The back-end is as strict as a model of Google: the test above would fail if relayd did not bring them back."""
    first = CHAT.ask(NAME, "What is the weather?", tools=True)
    heard = CHAT.read(router.ask(CHAT, NAME, first), False)
    refused = router.ask(CHAT, NAME, CHAT.follow(first, heard, ["rain", "sun"]))
    assert refused.status == 400 and b"thought_signature" in refused.body
    router.backs[NAME].refused.clear()


@TRANSLATED
def test_a_failure_behind_status_200_is_an_error_with_the_words_of_the_provider(router: Gateway, front: FullFront) -> None:
    router.backs[NAME].brain = always(Say(("Ver",), finish="error"))
    for stream in (False, True):
        assert RAW in failure_of(front, ask(router, front, stream))


def test_a_chat_client_sees_a_failure_behind_status_200(router: Gateway) -> None:
    router.backs[NAME].brain = always(Say(("Ver",), finish="error"))
    for stream in (False, True):
        assert RAW in ask(router, CHAT, stream).body.decode().replace("\\", "")


@TRANSLATED
def test_an_error_in_the_middle_of_a_stream_is_one(router: Gateway, front: FullFront) -> None:
    router.backs[NAME].brain = always(Say(("Very", " wide."), breaks="error", frames=2))
    assert "The flux is not aligned." in failure_of(front, ask(router, front, True))


@pytest.mark.parametrize("front", [CHAT, RESPONSES, MESSAGES], ids=lambda front: front.name)
@STREAM
def test_an_error_of_the_provider_is_told_in_its_words(router: Gateway, front: FullFront, stream: bool) -> None:
    router.backs[NAME].brain = always(Fail(503, "No capacity in this zone."))
    message = ask(router, front, stream)
    assert message.status in (503, 529)
    if front is CHAT:
        assert b"No capacity in this zone." in message.body
    else:
        assert "No capacity in this zone." in front.error(message)


@TRANSLATED
@STREAM
@pytest.mark.parametrize("finish", ["length", "content_filter"])
def test_the_reasons_of_an_end(router: Gateway, front: FullFront, stream: bool, finish: str) -> None:
    router.backs[NAME].brain = always(Say(("Very", " wide."), finish=finish))
    assert front.read(ask(router, front, stream), stream).finish == finish
