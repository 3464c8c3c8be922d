"""Calls go to the client one after the other, live where that is possible, and nothing of them is lost."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from relayd.protocols._bounds import Allowance
from relayd.protocols.canon import ToolDelta, ToolStart
from relayd.protocols.openai_chat.tool_call_serializer import ToolCallSerializer

START_A = {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}
START_B = {"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": ""}}


def piece(index: int, arguments: str) -> dict[str, Any]:
    return {"index": index, "function": {"arguments": arguments}}


def test_calls_that_take_turns_wait_for_the_open_one_and_no_longer() -> None:
    line = ToolCallSerializer(frozenset(), Allowance())
    assert list(line.start(ToolStart(0, "a", "f"))) == [START_A]
    assert list(line.add(ToolDelta(0, '{"x":'))) == [piece(0, '{"x":')]
    assert list(line.start(ToolStart(1, "b", "g"))) == []
    assert list(line.add(ToolDelta(1, '{"y":'))) == []
    assert list(line.add(ToolDelta(0, "{}}"))) == [piece(0, "{}}"), START_B, piece(1, '{"y":')]
    assert list(line.add(ToolDelta(1, "1}"))) == [piece(1, "1}")]
    assert list(line.close()) == []


def test_a_call_behind_a_whole_one_is_live() -> None:
    line = ToolCallSerializer(frozenset(), Allowance())
    list(line.start(ToolStart(0, "a", "f")))
    list(line.add(ToolDelta(0, "{}")))
    assert list(line.start(ToolStart(1, "b", "g"))) == [START_B]
    assert list(line.add(ToolDelta(0, " "))) == [] and list(line.add(ToolDelta(0, "x"))) == [piece(0, "x")]
    assert list(line.close()) == [piece(1, "{}")]


def test_brackets_in_a_string_end_nothing_and_the_end_lets_everything_out() -> None:
    line = ToolCallSerializer(frozenset(), Allowance())
    list(line.start(ToolStart(0, "a", "f")))
    list(line.add(ToolDelta(0, '{"x":"')))
    list(line.start(ToolStart(1, "b", "g")))
    for _ in range(65):
        assert list(line.add(ToolDelta(0, "}"))) == [piece(0, "}")]
    assert list(line.add(ToolDelta(0, '"}'))) == [piece(0, '"}'), START_B]
    assert list(line.close()) == [piece(1, "{}")]


@given(st.lists(st.sampled_from(["{}", '{"a":{"b":"}"}}', "", "[1]", '{"cut":'])), st.randoms(), st.booleans())
def test_no_call_is_opened_inside_another_and_nothing_is_lost(wanted: list[str], random: Any, custom: bool) -> None:
    line = ToolCallSerializer(frozenset({"f"} if custom else ()), Allowance())
    out: list[dict[str, Any]] = []
    left = {index: list(text) for index, text in enumerate(wanted)}
    begun = 0
    while begun < len(wanted) or any(left[index] for index in range(begun)):
        pending = [index for index in range(begun) if left[index]]
        if begun < len(wanted) and (not pending or random.random() < 0.4):
            out += line.start(ToolStart(begun, f"id{begun}", "f"))
            begun += 1
        else:
            index = random.choice(pending)
            out += line.add(ToolDelta(index, left[index].pop(0)))
    out += line.close()
    order = [entry["index"] for entry in out]
    assert order == sorted(order)
    for index, text in enumerate(wanted):
        mine = [entry for entry in out if entry["index"] == index]
        assert mine[0]["id"] == f"id{index}" and all("id" not in entry for entry in mine[1:])
        if custom:
            assert "".join(entry["custom"]["input"] for entry in mine) == text
        else:
            assert "".join(entry["function"]["arguments"] for entry in mine) == (text or "{}")


def test_the_input_of_a_custom_tool_is_unwrapped_while_it_arrives() -> None:
    line = ToolCallSerializer(frozenset({"patch"}), Allowance())
    [start] = line.start(ToolStart(0, "a", "patch", signature="sig"))
    assert start["custom"] == {"name": "patch", "input": ""}
    assert start["extra_content"] == {"google": {"thought_signature": "sig"}}
    assert list(line.add(ToolDelta(0, json.dumps({"input": "raw\n"})))) == [{"index": 0, "custom": {"input": "raw\n"}}]
    assert list(line.start(ToolStart(1, "b", "g"))) == [START_B]
