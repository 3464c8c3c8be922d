"""Tools: the names that endpoints take, the way back, and the choice."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.protocols.canon import Tool, ToolChoice
from relayd.protocols.openai_responses.response_settings import settings_of
from relayd.protocols.openai_responses.tools import Called, Names, fitting, read_offer
from tests.unit.protocols.openai_responses.talk import read, refusal

F = {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True}
G = {"type": "function", "name": "g"}
SPACE = {"type": "namespace", "name": "mcp", "description": "x", "tools": [F, G]}
CUSTOM = {"type": "custom", "name": "patch", "format": {"type": "grammar", "syntax": "lark", "definition": "start: x"}}


def test_a_function_keeps_all_it_has() -> None:
    assert read(tools=[F, G]).tools == (Tool("f", "d", {"type": "object"}, True), Tool("g"))


def test_the_echo_of_a_function_is_whole_and_others_are_as_sent() -> None:
    echo = settings_of(read(tools=[G, CUSTOM, SPACE, {"type": "web_search"}])).echo["tools"]
    assert echo == [{"description": None, "parameters": None, "strict": None, **G}, CUSTOM, SPACE, {"type": "web_search"}]


def test_a_namespace_is_one_function_for_each_of_its_tools() -> None:
    assert [tool.name for tool in read(tools=[SPACE, F]).tools] == ["mcp__f", "mcp__g", "f"]


def test_a_custom_tool_takes_one_text() -> None:
    [tool] = read(tools=[CUSTOM]).tools
    assert tool.kind == "custom" and tool.parameters is not None and tool.parameters["required"] == ["input"]
    assert tool.grammar == CUSTOM["format"]


def test_hosted_tools_are_left_out() -> None:
    request = read(tools=[{"type": "web_search"}, {"type": "mcp", "server_label": "x"}], parallel_tool_calls=True)
    assert request.tools == () and request.parallel_tool_calls is None and request.tool_choice is None


@given(st.text(max_size=90), st.text(min_size=1, max_size=90))
def test_every_name_fits_and_leads_back(namespace: str, name: str) -> None:
    names = Names()
    called = Called(namespace or None, name, "function")
    known = names.add(called)
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", known)
    assert names.called(known) == called
    assert names.of_history(namespace or None, name, "function") == known == fitting(namespace or None, name)


def test_names_that_would_meet_are_told_apart() -> None:
    names = Names()
    one = names.add(Called("a", "b", "function"))
    two = names.add(Called(None, "a__b", "function"))
    assert one == "a__b" != two and names.called(two) == Called(None, "a__b", "function")


def test_long_names_that_begin_alike_are_told_apart() -> None:
    assert fitting("server", "x" * 80) != fitting("server", "x" * 81)


@pytest.mark.parametrize("mode", ["auto", "none", "required"])
def test_a_mode_is_a_mode(mode: str) -> None:
    assert read(tools=[F], tool_choice=mode).tool_choice == ToolChoice(mode)


@pytest.mark.parametrize(
    ("choice", "name"),
    [
        ({"type": "function", "name": "f"}, "f"),
        ({"type": "custom", "name": "patch"}, "patch"),
        ({"type": "function", "name": "g", "namespace": "mcp"}, "mcp__g"),
        ({"type": "function", "name": "g"}, "mcp__g"),
    ],
)
def test_a_named_choice_has_the_endpoints_name(choice: dict[str, Any], name: str) -> None:
    assert read(tools=[F, CUSTOM, SPACE], tool_choice=choice).tool_choice == ToolChoice("named", name)


def test_allowed_tools_are_all_that_is_offered() -> None:
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "g"}]}
    request = read(tools=[F, G], tool_choice=choice)
    assert [tool.name for tool in request.tools] == ["g"]
    assert request.tool_choice == ToolChoice("required")
    assert settings_of(request).allowed == {"g"}
    assert len(settings_of(request).echo["tools"]) == 2


def test_the_echo_of_allowed_tools_has_a_mode() -> None:
    choice = {"type": "allowed_tools", "tools": [{"type": "function", "name": "g"}]}
    assert settings_of(read(tools=[F, G], tool_choice=choice)).echo["tool_choice"] == {"mode": "auto", **choice}
    assert settings_of(read()).echo["tool_choice"] == "auto"


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"tools": [7]}, "tools[0]"),
        ({"tools": [{"name": "f"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{"type": "function", "name": ""}]}, "tools[0].name"),
        ({"tools": [F | {"strict": "yes"}]}, "tools[0].strict"),
        ({"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "function"}]}]}, "tools[0].tools[0].name"),
        ({"tools": [F] * 1025}, "tools"),
        ({"tools": [F], "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": [F], "tool_choice": {"type": "web_search_preview"}}, "tool_choice"),
        ({"tools": [F], "tool_choice": {"type": "function", "name": "other"}}, "tool_choice"),
        ({"tools": [F], "tool_choice": {"type": "allowed_tools", "tools": [{"type": "function", "name": "x"}]}},
         "tool_choice.tools[0]"),
        ({"tools": [{"type": "web_search"}], "tool_choice": "required"}, "tool_choice"),
    ],
)  # fmt: skip
def test_what_cannot_be_offered_is_refused(members: dict[str, Any], param: str) -> None:
    assert refusal(**members).param == param


def test_no_tools_is_no_offer() -> None:
    offer = read_offer({})
    assert offer.tools == () and offer.allowed is None and offer.choice is None
