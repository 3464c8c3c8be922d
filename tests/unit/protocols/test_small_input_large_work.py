"""Small inputs that once made large work, each with its kind; tests/fuzz looks for more of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relayd.protocols._bounds import Allowance
from relayd.protocols._call_arguments import CallArguments
from relayd.protocols.canon import Message, Request, Text, ToolCall, ToolResult
from relayd.protocols.dialect import Dialect, Options, Refused, RequestContext, run_steps
from relayd.protocols.openai_responses import DIALECT as RESPONSES
from relayd.protocols.openai_responses.tools import ClientTool, ToolNames
from tests.aids.growth import linear
from tests.aids.memories import Kept
from tests.docs.pairs import NEWEST, backs

LARGE = "s" * 50_000
REMEMBERED = {
    "anthropic_messages/thoughts/call_1": [{"text": "", "signature": LARGE, "redacted": None}],
    "thought_signature:call_1": LARGE,
    "openai_chat/reasoning_details/call_1": [{"type": "reasoning.encrypted", "data": LARGE}],
}


@pytest.mark.parametrize("back", backs(), ids=lambda back: back.name)
@pytest.mark.parametrize("parts", ["one turn", "many turns"])
def test_what_is_remembered_of_a_call_goes_out_once_however_often_its_id_is_named(back: Dialect, parts: str) -> None:
    memory = Kept()
    for key, value in REMEMBERED.items():
        memory.put(key, value)
    calls = [ToolCall("call_1", "f", "{}") for _ in range(50)]
    messages = [Message("user", (Text("Well?"),))]
    for batch in [calls] if parts == "one turn" else [[call] for call in calls]:
        messages.append(Message("assistant", tuple(batch)))
        messages += [Message("tool", (ToolResult(call.id, (Text("x"),)),)) for call in batch]
    assert back.write_request is not None
    try:
        sent = back.write_request(Request(NEWEST.get(back.name, "m"), tuple(messages)), Options(), memory)
    except Refused:
        return  # a call of the same turn may not be answered twice
    assert sent.body.count(LARGE.encode()) <= 2  # the Chat dialect has a proof of each of two kinds


def test_fragments_behind_complete_arguments_are_compared_without_putting_them_together() -> None:
    def read(size: int) -> None:
        arguments = CallArguments(Allowance())
        run_steps(arguments.add('  {"a":"' + "x" * (size * 200) + '"}'))
        for _ in range(size):
            assert not run_steps(arguments.is_repeated_by("y"))

    assert linear(read, 300)


def test_arguments_that_come_again_are_known_whatever_blanks_are_around_them() -> None:
    arguments = CallArguments(Allowance())
    run_steps(arguments.add('  {"a":1}'))
    assert run_steps(arguments.is_repeated_by('{"a":1}\n')) and run_steps(arguments.is_repeated_by(' {"a":1}'))
    assert not run_steps(arguments.is_repeated_by('{"a":2}')) and not run_steps(arguments.is_repeated_by("")) and not run_steps(arguments.is_repeated_by(" "))


def test_a_name_without_its_namespace_is_found_without_looking_at_every_tool() -> None:
    def find(size: int) -> None:
        names = ToolNames()
        for number in range(size):
            names.add(ClientTool("files", f"f{number}", "function"))
        for _ in range(size):
            assert names.find(None, "f1", "function") == "files__f1"

    assert linear(find, 150)


class Counted(Kept):
    """Counts what is read of it."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[str] = []

    def get(self, key: str) -> Any:
        self.read.append(key)
        return super().get(key)


def test_a_stored_response_is_read_once_however_many_of_its_items_are_referred_to() -> None:
    memory = Counted()
    output = [{"type": "message", "id": f"msg_{number}", "role": "assistant", "content": f"x{number}"} for number in range(50)]
    memory.put("response:resp_1", {"response": {"id": "resp_1", "output": output}, "items": output})
    for item in output:
        memory.put(f"response_item:{item['id']}", "resp_1")

    def read(ids: list[str]) -> Request:
        body = json.dumps({"model": "m", "input": [*({"id": one} for one in ids), {"role": "user", "content": "Well?"}]})
        assert RESPONSES.read_request is not None
        return RESPONSES.read_request(body.encode(), RequestContext("POST", "/v1/responses", "", {}, "req-1", memory))

    received = json.dumps([repr(message) for message in read([f"msg_{number}" for number in range(50)]).messages])
    assert all(f"x{number}'" in received for number in range(50))
    assert memory.read.count("response:resp_1") == 1
    with pytest.raises(Refused) as refused:
        read(["msg_1", "msg_2", "msg_1"])
    assert refused.value.param == "input[2].id" and "msg_1" in refused.value.message
