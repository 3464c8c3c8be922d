"""Tools that items bring: where they stand, and that a list which comes again is remembered once."""

from __future__ import annotations

from typing import Any

import pytest

from relayd.protocols.dialect import Refused
from relayd.protocols.openai_responses.brought_tools import brought_tools, once_each

F = {"type": "function", "name": "f"}
FOUND: dict[str, Any] = {"type": "tool_search_output", "tools": [F]}
BROUGHT: dict[str, Any] = {"type": "additional_tools", "tools": [F]}
MESSAGE: dict[str, Any] = {"type": "message", "tools": [F]}


def test_lists_are_found_with_their_path() -> None:
    placed = [("input[0]", BROUGHT), ("input[1]", MESSAGE), ("input[2]", FOUND), ("input[3]", {**BROUGHT, "tools": None})]
    assert list(brought_tools(placed)) == [("input[0].tools", [F]), ("input[2].tools", [F])]


def test_what_is_no_list_is_refused_by_its_path() -> None:
    with pytest.raises(Refused) as refused:
        list(brought_tools([("input[7]", {**BROUGHT, "tools": {}})]))
    assert refused.value.param == "input[7].tools"


def test_only_lists_of_additional_tools_are_left_out_when_they_come_again() -> None:
    items = [BROUGHT, MESSAGE, {**BROUGHT, "id": "at_1"}, FOUND, MESSAGE, FOUND, {**BROUGHT, "tools": []}]
    placed = [(str(number), item) for number, item in enumerate(items)]
    assert [at for at, _ in once_each(placed)] == ["0", "1", "3", "4", "5", "6"]
