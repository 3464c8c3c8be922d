"""Tools in input items: their paths, and the removal of repeated lists."""

from __future__ import annotations

from typing import Any

import pytest

from relayd.protocols.dialect import Refused, run_steps
from relayd.protocols.openai_responses.item_tool_lists import item_tool_lists, without_repeated_lists
from relayd.protocols.openai_responses.read_request import read_steps
from tests.unit.protocols.openai_responses.harness import make_context

F = {"type": "function", "name": "f"}
FOUND: dict[str, Any] = {"type": "tool_search_output", "tools": [F]}
BROUGHT: dict[str, Any] = {"type": "additional_tools", "tools": [F]}
MESSAGE: dict[str, Any] = {"type": "message", "tools": [F]}


def test_lists_are_found_with_their_path() -> None:
    placed = [("input[0]", BROUGHT), ("input[1]", MESSAGE), ("input[2]", FOUND), ("input[3]", {**BROUGHT, "tools": None})]
    assert list(item_tool_lists(placed)) == [("input[0].tools", [F]), ("input[2].tools", [F])]


def test_a_value_that_is_not_a_list_is_refused_with_its_path() -> None:
    with pytest.raises(Refused) as refused:
        list(item_tool_lists([("input[7]", {**BROUGHT, "tools": {}})]))
    assert refused.value.param == "input[7].tools"


def test_only_repeated_additional_tools_are_removed() -> None:
    items = [BROUGHT, MESSAGE, {**BROUGHT, "id": "at_1"}, FOUND, MESSAGE, FOUND, {**BROUGHT, "tools": []}]
    placed = [(str(number), item) for number, item in enumerate(items)]
    assert [at for at, _ in run_steps(without_repeated_lists(placed))] == ["0", "1", "3", "4", "5", "6"]


def steps_of(members: dict[str, Any]) -> int:
    """Return the number of steps in which a request is read."""
    count = 0
    for _ in read_steps(members, make_context()):
        count += 1
    return count


@pytest.mark.parametrize("brought", [
    [{**BROUGHT, "tools": [F] * 3000}],
    [{**BROUGHT, "tools": [{"type": "namespace", "name": "n", "tools": [F] * 3000}]}],
    [{**BROUGHT, "tools": [{**F, "description": str(number)} for _ in range(300)]} for number in range(10)],
])  # fmt: skip
def test_tools_of_input_items_are_read_in_steps(brought: list[Any]) -> None:
    assert steps_of({"model": "m", "input": [*brought, {"role": "user", "content": "x"}]}) > 3000


def test_a_large_list_of_tools_is_compared_in_steps() -> None:
    odd = {**F, "parameters": {"properties": {f"p{number}": {"type": "string"} for number in range(20_000)}}}
    message = {"role": "user", "content": "x"}
    assert steps_of({"model": "m", "input": [{**BROUGHT, "tools": [odd]}, message]}) > 100


@pytest.mark.parametrize("tools", [
    [F] * 20_000, [{"type": "namespace", "name": "n", "tools": []}] * 20_000, [{"type": "web_search"}] * 20_000,
    [{"type": "namespace", "name": "n", "tools": [F] * 20_000}],
])  # fmt: skip
def test_repeated_tools_are_counted_too(tools: list[Any]) -> None:
    message = {"role": "user", "content": "x"}
    for members in ({"input": [{**BROUGHT, "tools": tools}, message]}, {"input": [message], "tools": tools}):
        with pytest.raises(Refused) as refused:
            steps_of({"model": "m", **members})
        assert "tools" in str(refused.value.param)
