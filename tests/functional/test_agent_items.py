"""What coding agents put into a Responses request beside messages, before back-ends that know nothing of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.functional.harness.dialects.fronts import FULL, Front, wire
from tests.functional.harness.dialects.gateway import Gateway
from tests.functional.harness.dialects.said import Asked, Call, Fail, Reply, Say
from tests.functional.harness.dialects.turns import text_of
from tests.functional.harness.message import Message, answer
from tests.functional.harness.upstream import Peer

BACKS = ("openai_chat", "anthropic_messages", "gemini", "ollama")
EXEC = {"type": "custom", "name": "exec", "description": "Runs.", "format": {"type": "text"}}
SPAWN = {"type": "function", "name": "spawn", "strict": False, "parameters": {
    "type": "object", "properties": {"message": {"type": "string", "encrypted": True}}, "required": ["message"],
}}  # fmt: skip
BROUGHT = {"type": "additional_tools", "role": "developer", "tools": [
    {"type": "namespace", "name": "functions", "tools": [EXEC, SPAWN]}, {"type": "web_search"},
]}  # fmt: skip
SEARCH = {"type": "tool_search", "execution": "client", "description": "Finds tools.", "parameters": {
    "type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"],
}}  # fmt: skip
FOUND = {"type": "namespace", "name": "mcp__files", "tools": [{
    "type": "function", "name": "read", "description": "Reads.", "defer_loading": True,
    "parameters": {"type": "object", "properties": {"path": {"type": "string"}}},
}]}  # fmt: skip
GO = {"role": "user", "content": "Go on."}


def create(running: Gateway, back: str, path: str = "/v1/responses", **members: Any) -> dict[str, Any]:
    message = running.post(path, {"model": back, **members})
    assert message.status == 200, message.body
    found: dict[str, Any] = json.loads(message.body)
    return found


def calling(*calls: Call) -> Any:
    """A model that makes these calls, and says "done" when it has their results."""

    def brain(asked: Asked) -> Reply:
        return Say(("done",)) if asked.results else Say(calls=calls)

    return brain


@pytest.mark.parametrize("back", BACKS)
def test_tools_of_an_item_are_called_and_answered_through_a_chain(back: str, running: Gateway) -> None:
    running.backs[back].brain = calling(Call("c1", "functions__exec", '{"input":"ls -l"}'))
    first = create(running, back, input=[BROUGHT, GO])
    assert running.backs[back].asked[-1].tools == ("functions__exec", "functions__spawn")
    assert b'"encrypted"' not in json.dumps(running.backs[back].asked[-1].body).encode()
    [call] = [item for item in first["output"] if item["type"] != "message"]
    assert (call["type"], call["namespace"], call["name"], call["input"]) == (
        "custom_tool_call", "functions", "exec", "ls -l",
    )  # fmt: skip
    output = {"type": "custom_tool_call_output", "call_id": call["call_id"], "output": "a.txt"}
    second = create(running, back, input=[BROUGHT, output], previous_response_id=first["id"])
    asked = running.backs[back].asked[-1]
    assert text_of(second) == "done" and asked.tools == ("functions__exec", "functions__spawn")
    assert [text for _, text in asked.results] == ["a.txt"]


@pytest.mark.parametrize("back", BACKS)
def test_a_search_for_tools_goes_to_the_client_and_what_it_finds_can_be_called(back: str, running: Gateway) -> None:
    running.backs[back].brain = calling(Call("s1", "tool_search", '{"query":"files"}'))
    first = create(running, back, input=[GO], tools=[SEARCH])
    [search] = [item for item in first["output"] if item["type"] != "message"]
    assert (search["type"], search["execution"], search["arguments"]) == ("tool_search_call", "client", {"query": "files"})
    found = {"type": "tool_search_output", "call_id": search["call_id"], "execution": "client", "status": "completed",
             "tools": [FOUND]}  # fmt: skip
    running.backs[back].brain = lambda asked: Say(calls=(Call("r1", "mcp__files__read", '{"path":"a"}'),))
    second = create(running, back, input=[GO, search, found], tools=[SEARCH])
    assert running.backs[back].asked[-1].tools == ("tool_search", "mcp__files__read")
    assert "mcp__files__read" in running.backs[back].asked[-1].results[0][1]
    [call] = [item for item in second["output"] if item["type"] != "message"]
    assert (call["type"], call["namespace"], call["name"]) == ("function_call", "mcp__files", "read")


@pytest.mark.parametrize("back", BACKS)
def test_agents_messages_and_items_that_only_the_client_knows_are_told_and_counted(back: str, running: Gateway) -> None:
    running.backs[back].brain = lambda asked: Say(("done",))
    before = unknown_items(running, back)
    task = {"type": "agent_message", "author": "lead", "recipient": "lead/worker", "content": [
        {"type": "input_text", "text": "Your task:"}, {"type": "encrypted_content", "encrypted_content": "count files"},
    ]}  # fmt: skip
    items = [task, {"type": "ghost_snapshot", "ghost_commit": {"id": "5f"}}, {"type": "agent_reasoning", "text": "Hm."}]
    create(running, back, input=[*items, {"type": "ghost_snapshot"}, GO], store=False)
    told = " ".join(text for _, text in running.backs[back].asked[-1].said)
    assert all(text in told for text in ("lead to lead/worker", "Your task:", "count files", "Hm.", "Go on."))
    record = running.relay.record(path="/v1/responses", unknown_left_out=2, unknown_carried=1, upstream=back)
    assert record["unknown_types"] == "agent_reasoning,ghost_snapshot"
    after = unknown_items(running, back)
    assert {fate: after[fate] - before[fate] for fate in after} == {"carried": 1, "left_out": 2}


@pytest.mark.parametrize("back", ["ollama", "openai_chat"])
def test_a_model_that_cannot_think_is_asked_once_more_and_then_not_any_more(back: str, running: Gateway) -> None:
    words = {"ollama": "think", "openai_chat": "reasoning_effort"}

    def brain(asked: Asked) -> Reply:
        refuses = words[back] in asked.body
        return Fail(400, f'"{asked.model}" does not support thinking', "") if refuses else Say(("done",))

    running.backs[back].brain = brain
    thoughts = [[{"type": "message", "role": "user", "content": "Go on."}], {"effort": "high", "summary": "auto"}]
    for round_, stream in enumerate((False, True, False)):
        message = running.post("/v1/responses", {"model": back, "input": thoughts[0], "reasoning": thoughts[1], "stream": stream})
        assert message.status == 200 and b"done" in message.body, message.body
        assert [words[back] in asked.body for asked in running.backs[back].asked] == [True, *[False] * (round_ + 1)]


def test_a_refusal_that_stays_reaches_the_client_after_one_more_attempt(running: Gateway) -> None:
    running.backs["ollama"].brain = lambda asked: Fail(400, "the other model does not support thinking", "")
    members = {"model": "ollama", "input": [GO], "reasoning": {"effort": "high"}}
    message = running.post("/v1/responses", {**members, "max_output_tokens": 5})
    assert message.status == 400 and b"does not support thinking" in message.body
    assert len(running.backs["ollama"].asked) <= 2


def unknown_items(running: Gateway, back: str) -> dict[str, float]:
    status, text = running.relay.admin("/metrics")
    assert status == 200
    found = {"carried": 0.0, "left_out": 0.0}
    for line in text.decode().splitlines():
        if line.startswith("relayd_proxy_unknown_items") and f'upstream="{back}"' in line:
            found["carried" if 'fate="carried"' in line else "left_out"] += float(line.rpartition(" ")[2])
    return found


TRANSLATED = [(front, back) for front in FULL for back in (*BACKS, "openai_responses") if front.name != back]


@pytest.mark.parametrize(("front", "back"), TRANSLATED, ids=[f"{front.name}-{back}" for front, back in TRANSLATED])
def test_a_slash_behind_the_path_changes_nothing(front: Front, back: str, running: Gateway) -> None:
    running.backs[back].brain = lambda asked: Say(("done",))
    with running.relay.client() as client:
        told = client.ask(wire(front, front.ask(back, "Go on."), path=front.path + "/"))
    assert front.read(told, False).text == "done"


@pytest.mark.parametrize("back", BACKS)
def test_tokens_are_counted_and_nobody_is_asked(back: str, running: Gateway) -> None:
    for path in ("/v1/responses/input_tokens", "/v1/responses/input_tokens/"):
        counted = create(running, back, path, input=[BROUGHT, GO])
        assert counted["object"] == "response.input_tokens" and counted["input_tokens"] > 20
    assert not running.backs[back].asked
    assert running.send("GET", "/v1/responses/input_tokens").status == 405


def test_a_responses_upstream_counts_the_tokens_itself(running: Gateway) -> None:
    back = running.backs["openai_responses"]
    told = b'{"object":"response.input_tokens","input_tokens":4321}'

    def counts(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(answer(told, b"Content-Type: application/json"))

    back.upstream.script = counts
    try:
        for path in ("/v1/responses/input_tokens", "/v1/responses/input_tokens?x=1"):
            assert running.post(path, {"model": "openai_responses", "input": [GO]}).body == told
            assert back.upstream.heads[-1].target == path.encode()
    finally:
        back.upstream.script = back.play


def test_the_list_of_models_has_a_slash_too(running: Gateway) -> None:
    plain, slash = (running.send("GET", path) for path in ("/v1/models", "/v1/models/"))
    assert (slash.status, slash.body) == (200, plain.body)
    assert running.send("GET", "/v1/models/gemini/").body == running.send("GET", "/v1/models/gemini").body
