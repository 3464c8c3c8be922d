"""Tools as JSON: once for those that are shared, every time for the others, never of another dialect."""

from __future__ import annotations

import json
from typing import Any

from relayd.protocols._tools import with_tools, write_tools
from relayd.protocols.canon import SharedTools, Tool

TOOLS = (Tool("a", "what a is for"), Tool("b"))


def test_shared_tools_are_written_once_for_each_dialect() -> None:
    asked: list[str] = []

    def named(tool: Tool) -> dict[str, Any]:
        asked.append(tool.name)
        return {"name": tool.name}

    shared = SharedTools(TOOLS)
    for _ in range(3):
        assert json.loads(write_tools(shared, "one", named)) == [{"name": "a"}, {"name": "b"}]
    assert json.loads(write_tools(shared, "two", lambda tool: {"n": tool.name})) == [{"n": "a"}, {"n": "b"}]
    assert asked == ["a", "b"]
    for _ in range(2):
        write_tools(TOOLS, "one", named)
    assert asked == ["a", "b"] * 3


def test_tools_are_a_member_of_the_body() -> None:
    assert with_tools({"a": 1}, None) == b'{"a":1}'
    assert with_tools({"a": 1}, b'[{"b":2}]') == b'{"a":1,"tools":[{"b":2}]}'
