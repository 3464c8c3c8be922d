"""What the compliance runner of Open Responses (specification 2026-04-24) asks: its 17 cases, over a Chat-only back-end.

The runner checks schemas; here every object and every event is held against tests/aids/responses_grammar, which is
stricter: order, numbering, and that what is told twice is told the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.aids.responses_grammar import check_response, frames, read_stream
from tests.functional.harness.dialects.gateway import Gateway
from tests.functional.harness.dialects.said import Asked, Call, Reply, Say
from tests.functional.harness.dialects.turns import Turns, text_of

MODEL = "openai_chat"
HEART = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
WEATHER = {"type": "function", "name": "get_weather", "description": "Get the current weather for a location", "parameters": {
    "type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]}}  # fmt: skip


def brain(asked: Asked) -> Reply:
    """Remembers the last word that it was told to remember."""
    if asked.tools and not asked.results:
        return Say((), calls=(Call("call_weather1", "get_weather", '{"location": "San Francisco, CA"}'),))
    told = [text for _, text in asked.said if text.startswith("Remember")]
    if asked.results:
        return Say(("It is ", asked.results[-1][1]))
    return Say(("Hello ", "there, ", told[-1] if told else asked.prompt))


@pytest.fixture
def running(running: Gateway) -> Gateway:
    running.backs[MODEL].brain = brain
    return running


@pytest.fixture
def turns(running: Gateway) -> Iterator[Turns]:
    with Turns(running.relay.port) as connection:
        yield connection


def user(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": text}


def create(running: Gateway, *items: Any, **members: Any) -> dict[str, Any]:
    message = running.post("/v1/responses", {"model": MODEL, "input": list(items), **members})
    assert message.status == 200, message.body
    response: dict[str, Any] = json.loads(message.body)
    check_response(response, "completed")
    assert response["output"]
    return response


def test_basic_text(running: Gateway) -> None:
    assert text_of(create(running, user("Say hello in exactly 3 words.")))


def test_phase_of_an_assistant_in_the_history_is_accepted(running: Gateway) -> None:
    said = {"type": "message", "role": "assistant", "phase": "commentary", "content": [{"type": "output_text", "text": "I look."}]}
    create(running, user("Look."), said, user("Go on."))
    assert "phase" not in json.dumps(running.backs[MODEL].asked[-1].body)


def test_phase_is_only_in_an_output_that_knows_one(running: Gateway) -> None:
    response = create(running, user("Hello"))
    assert all(item.get("phase", "final_answer") in ("commentary", "final_answer") for item in response["output"])


def test_streaming(running: Gateway) -> None:
    message = running.post("/v1/responses", {"model": MODEL, "input": [user("Count from 1 to 5.")], "stream": True})
    response = read_stream(message.body)
    assert response["status"] == "completed" and text_of(response)


def test_system_role(running: Gateway) -> None:
    create(running, {"type": "message", "role": "system", "content": "You are a pirate."}, user("Say hello."))
    assert running.backs[MODEL].asked[-1].system == "You are a pirate."


@pytest.mark.parametrize("stream", [False, True])
def test_a_function_tool_gives_a_function_call(stream: bool, running: Gateway) -> None:
    if not stream:
        response = create(running, user("What's the weather like in San Francisco?"), tools=[WEATHER])
    else:
        asked = {"model": MODEL, "input": [user("Weather?")], "tools": [WEATHER], "stream": True}
        body = running.post("/v1/responses", asked).body
        response = read_stream(body)
        kinds = [event["type"] for event in frames(body)]
        assert {"response.function_call_arguments.delta", "response.function_call_arguments.done"} <= set(kinds)
    assert [item["type"] for item in response["output"]] == ["function_call"]
    assert json.loads(response["output"][0]["arguments"]) == {"location": "San Francisco, CA"}


def test_an_image_as_a_data_url(running: Gateway) -> None:
    content = [{"type": "input_text", "text": "What is this?"}, {"type": "input_image", "image_url": HEART}]
    create(running, {"type": "message", "role": "user", "content": content})
    assert running.backs[MODEL].asked[-1].body["messages"][-1]["content"][1]["image_url"]["url"] == HEART


def test_multi_turn(running: Gateway) -> None:
    create(running, user("My name is Alice."), {"type": "message", "role": "assistant", "content": "Hello Alice!"}, user("My name?"))
    assert [role for role, _ in running.backs[MODEL].asked[-1].said] == ["user", "assistant", "user"]


def compact(running: Gateway, **members: Any) -> dict[str, Any]:
    message = running.post("/v1/responses/compact", {"model": MODEL, **members})
    assert message.status == 200, message.body
    compacted: dict[str, Any] = json.loads(message.body)
    assert compacted["object"] == "response.compaction" and isinstance(compacted["created_at"], int) and compacted["id"]
    (sealed,) = [item for item in compacted["output"] if item["type"] == "compaction"]
    assert sealed["id"] and sealed["encrypted_content"]
    usage = compacted["usage"]
    assert all(isinstance(usage[key], int) for key in ("input_tokens", "output_tokens", "total_tokens"))
    assert {"cached_tokens"} <= usage["input_tokens_details"].keys() and {"reasoning_tokens"} <= usage["output_tokens_details"].keys()
    return compacted


def test_compaction_and_what_goes_on_from_it(running: Gateway) -> None:
    output = compact(running, input=[user("Remember the word rhubarb.")])["output"]
    assert "rhubarb" not in next(item["encrypted_content"] for item in output if item["type"] == "compaction")
    create(running, *output, user("And now?"))
    said = json.dumps(running.backs[MODEL].asked[-1].body["messages"])
    assert "Remember the word rhubarb." in said and "Hello there" in said  # the kept message, and the summary


def test_compaction_without_a_model_is_refused(running: Gateway) -> None:
    message = running.post("/v1/responses/compact", {"input": [user("x")]})
    assert message.status in (400, 422) and json.loads(message.body)["error"]["message"]


def test_socket_basic_turn(turns: Turns) -> None:
    assert turns.turn(model=MODEL, input=[user("Hello")], store=False)["status"] == "completed"


def test_socket_turns_one_after_another(turns: Turns) -> None:
    for number in range(3):
        turns.send(model=MODEL, input=[user(f"Turn {number}")], store=False)
    assert [text_of(turns.response()) for _ in range(3)] == [f"Hello there, Turn {number}" for number in range(3)]


def test_socket_continuation_with_store_false(turns: Turns) -> None:
    first = turns.turn(model=MODEL, input=[user("Remember the word rhubarb.")], store=False)
    second = turns.turn(model=MODEL, input=[user("Which?")], store=False, previous_response_id=first["id"])
    assert "rhubarb" in text_of(second) and second["previous_response_id"] == first["id"]


def test_socket_after_a_reconnect_an_id_that_was_not_stored_is_unknown(turns: Turns, running: Gateway) -> None:
    first = turns.turn(model=MODEL, input=[user("Remember the word rhubarb.")], store=False)
    with Turns(running.relay.port) as other:
        lost = other.refused(model=MODEL, input=[user("Which?")], store=False, previous_response_id=first["id"])
        assert lost["status"] in (400, 404) and lost["error"]["code"] == "previous_response_not_found"
        assert other.turn(model=MODEL, input=[user("A clean one")], store=False)["status"] == "completed"


def test_socket_a_failed_continuation_evicts_the_id(turns: Turns) -> None:
    first = turns.turn(model=MODEL, input=[user("Remember the word rhubarb.")], store=False)
    orphan = {"type": "function_call_output", "call_id": "call_that_never_was", "output": "x"}
    failed = turns.refused(model=MODEL, input=[orphan], store=False, previous_response_id=first["id"])
    assert 400 <= failed["status"] < 600
    lost = turns.refused(model=MODEL, input=[user("Which?")], store=False, previous_response_id=first["id"])
    assert lost["error"]["code"] == "previous_response_not_found"


def test_socket_a_tool_loop(turns: Turns) -> None:
    first = turns.turn(model=MODEL, input=[user("Weather?")], tools=[WEATHER], store=False)
    output = {"type": "function_call_output", "call_id": first["output"][0]["call_id"], "output": "fog"}
    second = turns.turn(model=MODEL, input=[output], tools=[WEATHER], store=False, previous_response_id=first["id"])
    assert text_of(second) == "It is fog"


def test_socket_a_new_chain_from_a_compaction(turns: Turns, running: Gateway) -> None:
    first = turns.turn(model=MODEL, input=[user("Remember the word rhubarb.")], store=False)
    items = [user("Remember the word rhubarb."), *first["output"]]
    output = compact(running, input=items)["output"]
    assert turns.turn(model=MODEL, input=[*output, user("Which?")], store=False)["status"] == "completed"
