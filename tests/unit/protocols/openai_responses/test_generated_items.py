"""What relayd wrote into earlier responses is removed from requests that pass, or the request is translated."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from relayd.protocols.dialect import RequestContext, run_steps
from relayd.protocols.openai_responses.generated_items import (
    MARKS,
    continues_stored,
    has_generated_parts,
    names_stored,
    strip_generated,
)
from relayd.protocols.openai_responses.reasoning_items import pack_encrypted_content
from relayd.protocols.openai_responses.state import delete_steps, is_generated_id, new_id, store_steps
from relayd.stores._space import Space
from relayd.stores.memory import Store
from relayd.wire.body import PARSED_BYTES, edited, inspect_json
from relayd.wire.seal import seal

KEY = b"k" * 32
SEALED, FOREIGN = (seal(key, b"responses: compaction", "so far") for key in (KEY, b"other" * 8))
PACKED = pack_encrypted_content("sig", None)


def body_of(*items: Any, **members: Any) -> bytes:
    return json.dumps({"model": "m", "input": list(items), **members}).encode()


def stripped(body: bytes) -> bytes:
    look = inspect_json(body)
    assert any(body.find(mark) >= 0 for mark in MARKS) or not has_generated_parts(json.loads(body))
    return edited(body, run_steps(strip_generated(look)))


def test_ids_of_relayd_are_recognised() -> None:
    assert all(is_generated_id(new_id(prefix)) for prefix in ("resp", "msg", "rs", "fc"))
    assert not any(map(is_generated_id, ("msg_1", "msg_72656c6179", new_id("msg") + "0", None, 7, "")))


def test_ids_of_items_are_removed_and_ids_of_calls_stay() -> None:
    call_id = new_id("call")
    items: list[dict[str, Any]] = [
        {"role": "user", "content": "hi"}, {"id": new_id("msg"), "type": "message", "role": "assistant", "content": []},
        {"type": "function_call", "call_id": call_id, "name": "f", "arguments": "{}", "id": new_id("fc")},
        {"type": "function_call_output", "call_id": call_id, "output": json.dumps({"id": new_id("msg")}), "id": "fco_own"},
    ]
    found = json.loads(stripped(body_of(*items)))["input"]
    assert found == [items[0], {key: value for key, value in items[1].items() if key != "id"},
                     {key: value for key, value in items[2].items() if key != "id"}, items[3]]  # fmt: skip


@pytest.mark.parametrize("item", ['{"id" : "ID" , "role":"user"}', '{ "role":"user"\n,\n"id":"ID"}', '{"role":"user","id":"ID","content":"\\"id\\":\\"ID\\","}'])
def test_nothing_but_the_id_changes(item: str) -> None:
    identity = new_id("msg")
    raw = '{"n":1.50, "input":[' + item.replace("ID", identity) + '],"x":[1e400]}'
    new = stripped(raw.encode()).decode()
    assert '"n":1.50, "input":[{' in new and new.endswith('],"x":[1e400]}')
    assert "id" not in json.loads(new)["input"][0] and json.loads(new)["input"][0]["role"] == "user"
    assert ('\\"id\\"' in raw) is ('\\"id\\"' in new)


def test_reasoning_of_other_endpoints_is_removed() -> None:
    own = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA"}
    kept = {"type": "reasoning", "id": new_id("rs"), "summary": [], "encrypted_content": "gAAAA"}
    items = [{"type": "reasoning", "id": new_id("rs"), "summary": []}, {"type": "reasoning", "id": "rs_2", "encrypted_content": PACKED}, own, kept]
    assert has_generated_parts({"input": items})
    assert json.loads(stripped(body_of(*items)))["input"] == [own, {key: value for key, value in kept.items() if key != "id"}]
    assert not has_generated_parts({"input": [own, "text", {"type": "message", "id": "msg_1"}]})
    assert not has_generated_parts({"input": "text"}) and run_steps(strip_generated(inspect_json(b'{"model":"m"}'))) == []


KNOWN, LOST, SOCKET = new_id("resp"), new_id("resp"), new_id("resp")
ITEM = new_id("msg")


class Losing(Space):
    """A space that could not store one response."""

    def lost(self, key: str) -> str:
        return "the disk is full" if key.endswith(LOST) else ""


@pytest.fixture
def context() -> RequestContext:
    store = Store(100, 1 << 20, 60)
    found = RequestContext("POST", "/v1/responses", "", {}, "r", Losing(store, "a", 60.0), store.space("socket"), KEY)
    for identity in (KNOWN, SOCKET):
        response = {"id": identity, "output": [{"type": "message", "id": ITEM}]}
        within = found if identity == SOCKET else dataclasses.replace(found, socket=None)
        run_steps(store_steps(within, response, [], identity == KNOWN, False))
    return found


@pytest.mark.parametrize("size", [0, PARSED_BYTES])
@pytest.mark.parametrize(("members", "continues"), [
    ({"previous_response_id": KNOWN}, True), ({"previous_response_id": LOST}, True), ({"previous_response_id": SOCKET}, True),
    ({"previous_response_id": new_id("resp")}, False), ({"previous_response_id": "resp_1"}, False), ({}, False),
    ({"input": [{"type": "item_reference", "id": ITEM}]}, True), ({"input": [{"type": "item_reference", "id": "msg_1"}]}, False),
    ({"input": [{"type": "item_reference", "id": new_id("msg")}]}, False),
    ({"input": [{"type": "compaction", "encrypted_content": SEALED}]}, True), ({"input": [{"type": "compaction", "encrypted_content": "gAAA"}]}, False),
    ({"input": [{"type": "compaction", "encrypted_content": FOREIGN}]}, False),
    ({"input": ["text", {"type": "message", "role": "user", "id": ITEM, "content": "x"}]}, False),
])  # fmt: skip
def test_a_request_that_refers_to_data_of_this_relayd_is_recognised_at_any_size(
    members: dict[str, Any], continues: bool, size: int, context: RequestContext
) -> None:
    body = json.dumps({"model": "m", "input": "hi", **members, "instructions": "x" * size}).encode()
    assert continues_stored(inspect_json(body), lambda: context) is continues


def test_a_reference_without_a_type_is_one(context: RequestContext) -> None:
    assert continues_stored(inspect_json(body_of({"id": ITEM})), lambda: context)
    assert not continues_stored(inspect_json(body_of({"id": ITEM, "role": "user"})), lambda: context)


def test_a_path_with_the_id_of_a_stored_response_is_recognised(context: RequestContext) -> None:
    assert names_stored(dataclasses.replace(context, path=f"/v1/responses/{KNOWN}/input_items"))
    for path in ("/v1/responses/resp_1", f"/v1/responses/{new_id('resp')}", "/v1/responses"):
        assert not names_stored(dataclasses.replace(context, path=path))
    run_steps(delete_steps(context, {"response": {"id": KNOWN, "output": []}}))
    assert not names_stored(dataclasses.replace(context, path=f"/v1/responses/{KNOWN}"))


@pytest.mark.parametrize("kind", ['"type":"item_reference",', ""])
def test_a_reference_keeps_its_id_which_is_all_that_it_has(kind: str) -> None:
    body = b'{"input":[{"role":"user","content":"hi"},{%b"id":"%b"}]}' % (kind.encode(), new_id("fc").encode())
    assert edited(body, run_steps(strip_generated(inspect_json(body)))) == body
