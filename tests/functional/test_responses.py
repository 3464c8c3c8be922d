"""The state of the Responses API through the process: chains, retrieval, deletion, keys, restarts, WebSocket turns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.dialects.gateway import FRONT_ROUTES, Gateway, gateway
from tests.functional.harness.dialects.said import Asked, Fail, Reply, Say
from tests.functional.harness.dialects.turns import Turns, text_of
from tests.functional.harness.message import Message

ALICE, BOB = b"Authorization: Bearer alice-key-0123456789", b"Authorization: Bearer bob-key-0123456789"
FRAMES = {"openai_chat": 3, "anthropic_messages": 5, "gemini": 2, "ollama": 2}  # up to the second word
BACKS = ("openai_chat", "anthropic_messages", "gemini", "ollama")


def brain(asked: Asked) -> Reply:
    return Say(("I heard ", str(len(asked.said))))


@pytest.fixture(scope="module")
def module_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("responses")
    consumers = {}
    for name in ("alice", "bob"):
        (folder / name).write_text(f"{name}-key-0123456789")
        (folder / name).chmod(0o600)
        consumers[name] = {"bearer": {"file": str(folder / name)}}
    change = {
        "consumers": consumers, "store": {"kind": "sqlite", "path": str(folder / "store.sqlite")},
        "routes": [{**route, "allow": ["alice", "bob"]} for route in FRONT_ROUTES],
    }  # fmt: skip
    (folder / "state").mkdir()
    with gateway(folder / "r", change, environment={"STATE_DIRECTORY": str(folder / "state")}) as running:
        yield running


@pytest.fixture
def running(running: Gateway) -> Gateway:
    for back in running.backs.values():
        back.brain = brain
    return running


def create(running: Gateway, text: str, key: bytes = ALICE, model: str = "openai_chat", **members: Any) -> dict[str, Any]:
    message = running.post("/v1/responses", {"model": model, "input": text, **members}, key)
    assert message.status == 200, message.body
    found: dict[str, Any] = json.loads(message.body)
    return found


def error(message: Message) -> dict[str, Any]:
    assert message.status >= 400, message.body
    found: dict[str, Any] = json.loads(message.body)["error"]
    return found


@pytest.mark.parametrize("back", BACKS)
def test_a_chain_over_any_back_end(back: str, running: Gateway) -> None:
    first = create(running, "one", model=back, instructions="Once.")
    second = create(running, "two", model=back, previous_response_id=first["id"])
    third = create(running, "three", model=back, previous_response_id=second["id"])
    asked = running.backs[back].asked[-1]
    assert [text for _, text in asked.said] == ["one", "I heard 1", "two", "I heard 3", "three"]
    assert "Once." not in asked.system and third["previous_response_id"] == second["id"]


def test_what_is_stored_is_retrieved_listed_and_deleted(running: Gateway) -> None:
    first = create(running, "one")
    second = create(running, "two", previous_response_id=first["id"])
    path = f"/v1/responses/{second['id']}"
    before = len(running.backs["openai_chat"].asked)
    assert json.loads(running.send("GET", path, None, ALICE).body) == second
    items = json.loads(running.send("GET", f"{path}/input_items?order=asc", None, ALICE).body)
    assert items["object"] == "list" and items["has_more"] is False
    assert [item["content"][0]["text"] for item in items["data"]] == ["one", "I heard 1", "two"]
    assert items["first_id"] == items["data"][0]["id"] and items["last_id"] == items["data"][-1]["id"]
    assert running.send("POST", f"{path}/cancel", b"", ALICE).status == 400  # it is over
    assert json.loads(running.send("DELETE", path, None, ALICE).body) == {"id": second["id"], "object": "response", "deleted": True}
    assert running.send("GET", path, None, ALICE).status == 404
    assert len(running.backs["openai_chat"].asked) == before  # nothing of this went upstream


def test_another_consumer_does_not_find_it(running: Gateway) -> None:
    mine = create(running, "secret")
    assert running.send("GET", f"/v1/responses/{mine['id']}", None, BOB).status == 404
    assert running.send("DELETE", f"/v1/responses/{mine['id']}", None, BOB).status == 404
    refused = running.post("/v1/responses", {"model": "openai_chat", "input": "x", "previous_response_id": mine["id"]}, BOB)
    assert refused.status in (400, 404)
    assert error(refused)["code"] == "previous_response_not_found" and error(refused)["param"] == "previous_response_id"
    assert running.send("GET", f"/v1/responses/{mine['id']}").status == 401
    assert running.send("GET", f"/v1/responses/{mine['id']}", None, ALICE).status == 200


def test_what_shall_not_be_stored_is_not(running: Gateway) -> None:
    found = create(running, "one", store=False)
    assert running.send("GET", f"/v1/responses/{found['id']}", None, ALICE).status == 404
    refused = running.post("/v1/responses", {"model": "openai_chat", "input": "x", "previous_response_id": found["id"]}, ALICE)
    assert error(refused)["code"] == "previous_response_not_found"


def test_a_failed_response_is_not_continued(running: Gateway) -> None:
    running.backs["openai_chat"].brain = lambda asked: Say(("half",), breaks="ended", frames=2)
    body = running.post("/v1/responses", {"model": "openai_chat", "input": "x", "stream": True}, ALICE).body
    identity = json.loads(body.split(b"data: ")[1].split(b"\n")[0])["response"]["id"]
    refused = running.post("/v1/responses", {"model": "openai_chat", "input": "x", "previous_response_id": identity}, ALICE)
    assert error(refused)["code"] == "previous_response_not_found"


def test_a_streamed_response_is_continued(running: Gateway) -> None:
    body = running.post("/v1/responses", {"model": "openai_chat", "input": "x", "stream": True}, ALICE).body
    identity = json.loads(body.split(b"data: ")[1].split(b"\n")[0])["response"]["id"]
    assert text_of(create(running, "y", previous_response_id=identity)) == "I heard 3"


def test_it_survives_a_restart(running: Gateway) -> None:
    first = create(running, "one")
    compacted = json.loads(running.post("/v1/responses/compact", {"model": "openai_chat", "input": "Remember rhubarb."}, ALICE).body)
    assert running.relay.stop() == 0
    running.relay.start()
    assert json.loads(running.send("GET", f"/v1/responses/{first['id']}", None, ALICE).body) == first
    assert text_of(create(running, "two", previous_response_id=first["id"])) == "I heard 3"
    history = [*compacted["output"], {"role": "user", "content": "And?"}]
    assert running.post("/v1/responses", {"model": "openai_chat", "input": history}, ALICE).status == 200
    assert "I heard" in json.dumps(running.backs["openai_chat"].asked[-1].body)  # the summary, unsealed again
    assert error(running.send("GET", "/v1/responses/resp_unknown", None, BOB))


@pytest.mark.parametrize(("body", "param"), [
    ({"model": "openai_chat"}, "input"), ({"model": "openai_chat", "input": 42}, "input"), ({"input": "x"}, "model"),
    ({"model": "openai_chat", "input": [{"type": "made_up"}]}, "input"),  # nothing is left of it
    ({"model": "openai_chat", "input": [{"role": "user", "content": [{"type": "made_up"}]}]}, "input[0].content[0].type"),
    ({"model": "openai_chat", "input": "x", "background": True}, "background"),
    ({"model": "openai_chat", "input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "input[0].call_id"),
])  # fmt: skip
def test_what_is_wrong_is_named(body: dict[str, Any], param: str, running: Gateway) -> None:
    refused = running.post("/v1/responses", body, ALICE)
    assert refused.status == 400 and error(refused)["param"] == param, refused.body
    assert not running.backs["openai_chat"].asked


def test_a_body_that_is_no_json_is_400(running: Gateway) -> None:
    refused = running.send("POST", "/v1/responses", b'{"model": "openai_chat", "input": ', ALICE)
    assert refused.status == 400 and error(refused)["message"]


def test_a_socket_needs_a_key_as_every_request_does(running: Gateway) -> None:
    exceptions = pytest.importorskip("websockets.exceptions")
    with pytest.raises(exceptions.InvalidStatus) as refused, Turns(running.relay.port):
        pass
    assert refused.value.response.status_code == 401


def test_a_socket_goes_on_from_what_was_stored(running: Gateway) -> None:
    first = create(running, "one")
    with Turns(running.relay.port, "alice-key-0123456789") as turns:
        second = turns.turn(model="openai_chat", input="two", previous_response_id=first["id"])
        assert text_of(second) == "I heard 3"
    with Turns(running.relay.port, "bob-key-0123456789") as turns:
        lost = turns.refused(model="openai_chat", input="x", previous_response_id=first["id"])
        assert lost["error"]["code"] == "previous_response_not_found"
    assert json.loads(running.send("GET", f"/v1/responses/{second['id']}", None, ALICE).body)["output"] == second["output"]


@pytest.mark.parametrize("back", BACKS)
def test_a_socket_tells_the_back_ends_errors_and_serves_the_next_turn(back: str, running: Gateway) -> None:
    running.backs[back].brain = lambda asked: Fail(429, "Slow down.") if asked.prompt == "fail" else Say(("well",))
    with Turns(running.relay.port, "alice-key-0123456789") as turns:
        refused = turns.refused(model=back, input="fail", store=False)
        assert refused["status"] == 429 and "Slow down." in refused["error"]["message"]
        running.backs[back].brain = lambda asked: Say(("half a", " word"), breaks="ended", frames=FRAMES[back])
        turns.send(model=back, input="x", store=False)
        assert turns.events()[-1]["type"] in ("response.failed", "error")
        running.backs[back].brain = brain
        assert text_of(turns.turn(model=back, input="y", store=False)) == "I heard 1"
        unknown = turns.refused(model="no-such-model", input="x")
        assert unknown["status"] == 404 and unknown["error"]["code"] == "model_not_found"
        turns.connection.send("no json")
        assert turns.event()["type"] == "error"
        assert text_of(turns.turn(model=back, input="y", store=False)) == "I heard 1"


def test_who_closes_a_socket_cancels_its_turn(running: Gateway) -> None:
    running.backs["openai_chat"].brain = lambda asked: Say(("first", "never"), breaks="hangs", frames=2)
    with Turns(running.relay.port, "alice-key-0123456789") as turns:
        turns.send(model="openai_chat", input="x", store=False)
        while turns.event()["type"] != "response.output_text.delta":
            pass
    running.backs["openai_chat"].upstream.left.get(timeout=60)
    running.relay.wait_quiet()


def test_every_turn_is_in_the_access_record(running: Gateway, tmp_path: Path) -> None:
    with Turns(running.relay.port, "alice-key-0123456789") as turns:
        turns.turn(model="openai_chat", input="x", store=False)
    record = running.relay.record(path="/v1/responses", model="openai_chat", route="responses", consumer="alice", status=200, code="")
    assert record["tokens_output"] == 7
