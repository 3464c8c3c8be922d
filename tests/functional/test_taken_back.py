"""What relayd has invented in an answer never reaches an endpoint that speaks the client's dialect, on any path.

Every turn is answered by another upstream than the turn before, and the client sends back the whole answer, as SDKs do.
The scripted endpoints are strict; `invented` is what none of them may see.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.dialects.fronts import FULL, FullFront, ResponsesFront
from tests.functional.harness.dialects.gateway import BACKS, THERE, Gateway, gateway
from tests.functional.harness.dialects.said import Asked, Fail, Reply, small_model
from tests.functional.harness.dialects.turns import Turns

RESPONSES = ResponsesFront()
# Ids of responses and items that relayd wrote (not those of calls, which connect a call with its result), sealed and
# packed texts, signatures that are none.
INVENTED = re.compile(rb'"(?:resp|msg|rs|fc|fco|ctc|ctco|cmp|item)_72656c6179|relayd-|"signature": ?""|"responses:|(?:toolu|call)_[0-9a-f]{24}":')


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder: Path = tmp_path_factory.mktemp("taken")
    routes: list[dict[str, Any]] = [
        {"name": "native", "match": {"prefix": "/native/"}, "strip_prefix": "/native", "upstream": "openai_responses"},
    ]
    models = {
        f"{first} then {second}": {"upstream": first, "model": THERE[first], "fallbacks": [{"upstream": second, "model": THERE[second], "on": ["any"]}]}
        for first in BACKS for second in BACKS if first != second
    }
    with gateway(folder, {"models": models}, routes=routes) as found:
        yield found


@pytest.fixture(autouse=True)
def fresh(running: Gateway) -> Iterator[None]:
    running.fresh()
    yield
    running.check()


def sent_to(running: Gateway, back: str) -> bytes:
    """The last body that a back-end got."""
    return running.backs[back].bodies[-1]


def invented_in(running: Gateway, back: str) -> list[bytes]:
    return INVENTED.findall(sent_to(running, back))


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("second", BACKS)
@pytest.mark.parametrize("first", BACKS)
@pytest.mark.parametrize("front", FULL, ids=lambda front: front.name)
def test_the_next_upstream_sees_nothing_invented(front: FullFront, first: str, second: str, stream: bool, running: Gateway) -> None:
    body = front.ask(first, "Weather?", tools=True, stream=stream)
    if front.name == "openai_responses":
        body["include"] = ["reasoning.encrypted_content"]
    heard = front.read(running.ask(front, first, body), stream)
    assert len(heard.calls) == 2
    then = front.follow(body, heard, ["rain", "sun"]) | {"model": second}
    told = front.read(running.ask(front, second, then), stream)
    assert told.text == "It is rain and sun."
    if first != front.name or first != second:  # the answers of the scripted endpoint itself have ids of this kind
        assert not invented_in(running, second) or first == front.name == "openai_responses", sent_to(running, second)


@pytest.mark.parametrize("first", [back for back in BACKS if back != "anthropic_messages"])
def test_a_loop_that_falls_back_to_anthropic_in_the_middle(first: str, running: Gateway) -> None:
    """The first upstream answers one turn and fails then."""
    front = FULL[2]
    failing = f"{first} then anthropic_messages"
    body = front.ask(failing, "Weather?", tools=True) | {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2048}

    def once(asked: Asked) -> Reply:
        return Fail(500) if asked.results else small_model(asked)

    running.backs[first].brain = once
    heard = front.read(running.ask(front, first, body), False)
    told = front.read(running.ask(front, first, front.follow(body, heard, ["rain", "sun"])), False)
    assert told.text == "It is rain and sun."
    assert not invented_in(running, "anthropic_messages")
    sent = json.loads(sent_to(running, "anthropic_messages"))
    assert sent["thinking"] == {"type": "disabled"}, "a loop that lost its thinking cannot think on"


@pytest.mark.parametrize("native", [False, True], ids=["by_model", "route"])
@pytest.mark.parametrize("first", [back for back in BACKS if back != "openai_responses"])
def test_a_stored_response_of_another_upstream_is_continued_at_a_native_one(first: str, native: bool, running: Gateway) -> None:
    asked = RESPONSES.ask(first, "Weather?", tools=True) | {"store": True}
    heard = RESPONSES.read(running.ask(RESPONSES, first, asked), False)
    results = [{"type": "function_call_output", "call_id": call.id, "output": "rain"} for call in heard.calls]
    path = ("/native" if native else "") + "/v1/responses"
    body = {"model": "openai_responses", "previous_response_id": heard.answer["id"], "input": results, "store": True, "tools": asked["tools"]}
    told = RESPONSES.read(running.post(path, body), False)
    assert told.text == "It is rain and rain." and told.answer["previous_response_id"] == heard.answer["id"]
    assert not invented_in(running, "openai_responses") and b"previous_response_id" not in sent_to(running, "openai_responses")
    assert running.backs["openai_responses"].asked[-1].prompt == "Weather?"
    item = next(item for item in told.answer["output"] if item["type"] == "message")
    again = {"model": "openai_responses", "previous_response_id": told.answer["id"], "input": [{"type": "item_reference", "id": item["id"]}, {"role": "user", "content": "And?"}]}
    assert RESPONSES.read(running.post(path, again), False).text.startswith("You said: And?")
    assert not invented_in(running, "openai_responses")
    stored = running.send("GET", f"{path}/{heard.answer['id']}")
    assert stored.status == 200 and json.loads(stored.body)["id"] == heard.answer["id"]


def test_turns_of_a_socket_that_pass_bring_nothing_invented(running: Gateway) -> None:
    with Turns(running.relay.port) as turns:
        body = RESPONSES.ask("anthropic_messages", "Weather?", tools=True)
        del body["store"]
        first = turns.turn(**body, store=False)
        results = [
            {"type": "function_call_output", "call_id": item["call_id"], "output": "rain"}
            for item in first["output"] if item["type"] == "function_call"
        ]
        turns.turn(**body | {"model": "openai_responses", "input": [*body["input"], *first["output"], *results]})
        assert not invented_in(running, "openai_responses")
        last = turns.turn(**body | {"model": "anthropic_messages"}, store=False)
        results = [
            {"type": "function_call_output", "call_id": item["call_id"], "output": "sun"}
            for item in last["output"] if item["type"] == "function_call"
        ]
        turns.turn(model="openai_responses", previous_response_id=last["id"], input=results, tools=body["tools"])
        assert not invented_in(running, "openai_responses") and b"previous_response_id" not in sent_to(running, "openai_responses")
