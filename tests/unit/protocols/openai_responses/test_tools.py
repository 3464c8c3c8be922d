"""Tools: their endpoint names, the mapping back, and the tool choice."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.protocols.canon import (
    Begin,
    End,
    Event,
    Finish,
    TextDelta,
    Tool,
    ToolCall,
    ToolChoice,
    ToolDelta,
    ToolStart,
)
from relayd.protocols.openai_responses.response_settings import settings_of
from relayd.protocols.openai_responses.tools import ClientTool, ToolNames, endpoint_name_of, read_tool_config
from relayd.wire.tool_list_cache import CachedList
from tests.unit.protocols.openai_responses.harness import make_context, plain, read, refusal, streamed

F = {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True}
G = {"type": "function", "name": "g"}
SPACE = {"type": "namespace", "name": "mcp", "description": "x", "tools": [F, G]}
CUSTOM = {"type": "custom", "name": "patch", "format": {"type": "grammar", "syntax": "lark", "definition": "start: x"}}


def test_a_function_keeps_all_its_members() -> None:
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
def test_every_endpoint_name_is_valid_and_maps_back(namespace: str, name: str) -> None:
    names = ToolNames()
    client_tool = ClientTool(namespace or None, name, "function")
    endpoint_name = names.add(client_tool)
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", endpoint_name)
    assert names.client_tool(endpoint_name) == client_tool
    assert names.name_in_history(namespace or None, name, "function") == endpoint_name == endpoint_name_of(namespace or None, name)


def test_colliding_names_are_distinguished() -> None:
    names = ToolNames()
    one = names.add(ClientTool("a", "b", "function"))
    two = names.add(ClientTool(None, "a__b", "function"))
    assert one == "a__b" != two and names.client_tool(two) == ClientTool(None, "a__b", "function")


def test_long_names_with_a_common_prefix_are_distinguished() -> None:
    assert endpoint_name_of("server", "x" * 80) != endpoint_name_of("server", "x" * 81)


@pytest.mark.parametrize("mode", ["auto", "none", "required"])
def test_a_string_is_a_mode(mode: str) -> None:
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


def test_only_allowed_tools_are_offered() -> None:
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "g"}]}
    request = read(tools=[F, G], tool_choice=choice)
    assert [tool.name for tool in request.tools] == ["g"]
    assert request.tool_choice == ToolChoice("required")
    assert settings_of(request).allowed == frozenset({"g"})
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
        ({"tools": [{"type": "namespace", "name": "n", "tools": [F, {"type": "namespace", "name": "m", "tools": [G]}]}]}, "tools[0].tools[1].type"),
        ({"tools": [F] * 1025}, "tools"),
        ({"tools": [F], "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": [F], "tool_choice": {"type": "web_search_preview"}}, "tool_choice"),
        ({"tools": [F], "tool_choice": {"type": "function", "name": "other"}}, "tool_choice"),
        ({"tools": [F], "tool_choice": {"type": "allowed_tools", "tools": [{"type": "function", "name": "x"}]}},
         "tool_choice.tools[0]"),
        ({"tools": [{"type": "web_search"}], "tool_choice": "required"}, "tool_choice"),
    ],
)  # fmt: skip
def test_invalid_tools_are_refused(members: dict[str, Any], param: str) -> None:
    assert refusal(**members).param == param


def test_a_request_without_tools_has_an_empty_tool_configuration() -> None:
    tool_config = read_tool_config({})
    assert tool_config.tools == () and tool_config.allowed is None and tool_config.choice is None


EXEC = {"type": "custom", "name": "exec", "format": {"type": "grammar", "syntax": "lark", "definition": "start: x"}}
BROUGHT: dict[str, Any] = {"type": "additional_tools", "role": "developer", "tools": [
    {"type": "namespace", "name": "functions", "tools": [EXEC, F]}, {"type": "web_search"}, G,
]}  # fmt: skip
GO = {"role": "user", "content": "go"}


def test_tools_of_input_items_are_offered_and_mapped_back_like_those_in_tools() -> None:
    request = read(input=[BROUGHT, GO], tools=[F], tool_choice={"type": "custom", "name": "exec"})
    assert [tool.name for tool in request.tools] == ["f", "functions__exec", "functions__f", "g"]
    assert request.tools[1].kind == "custom" and request.tools[1].grammar == EXEC["format"]
    assert request.tool_choice == ToolChoice("named", "functions__exec")
    assert [message.role for message in request.messages] == ["user"]
    names = settings_of(request).names
    assert names.client_tool("functions__exec") == ClientTool("functions", "exec", "custom")
    assert read(input=[BROUGHT, GO], tool_choice="required", parallel_tool_calls=True).parallel_tool_calls is True
    allowed = {"type": "allowed_tools", "tools": [{"type": "function", "name": "g"}]}
    assert [tool.name for tool in read(input=[BROUGHT, GO], tool_choice=allowed).tools] == ["g"]


def test_repeated_tools_are_offered_once_with_their_last_definition() -> None:
    newer = {**BROUGHT, "tools": [{**G, "description": "newer"}]}
    request = read(input=[BROUGHT, GO, {**BROUGHT, "id": "at_2"}, newer], tools=[G])
    assert [tool.name for tool in request.tools] == ["g", "functions__exec", "functions__f"]
    assert request.tools[0].description == "newer"
    assert [item["type"] for item in settings_of(request).items] == ["additional_tools", "message", "additional_tools"]


def test_a_call_of_a_tool_of_an_input_item_is_returned_and_read_from_the_history() -> None:
    context = make_context()
    events: list[Event] = [
        Begin("x", "m"), ToolStart(0, "c1", "functions__exec"), ToolDelta(0, '{"input":"ls"}'), Finish("tool_calls"), End(),
    ]  # fmt: skip
    for rendered in (streamed, plain):
        response = rendered(events, context, input=[BROUGHT, GO])
        [item] = response["output"]
        expected = (item["type"], item["namespace"], item["name"], item["input"])
        assert expected == ("custom_tool_call", "functions", "exec", "ls")
    output = {"type": "custom_tool_call_output", "call_id": "c1", "output": "a.txt"}
    for more in ([output], [BROUGHT, output]):
        request = read(context, input=more, previous_response_id=response["id"])
        assert [tool.name for tool in request.tools] == ["functions__exec", "functions__f", "g"]
        assert request.messages[1].parts == (ToolCall("c1", "functions__exec", "ls", "custom"),)
        assert [item["type"] for item in settings_of(request).items].count("additional_tools") == 1


def test_tools_of_input_items_are_not_added_to_cached_lists() -> None:
    cached = CachedList([{"type": "function", "name": f"tool_{number}"} for number in range(40)])
    for _ in range(2):
        assert len(read_tool_config({"tools": cached}, [("input[0].tools", BROUGHT["tools"])]).tools) == 43
        assert len(read_tool_config({"tools": cached}).tools) == 40
        assert read_tool_config({"tools": cached}).names.client_tool("g") is None


def test_too_many_tools_are_refused_wherever_they_are_declared() -> None:
    half = [{"type": "function", "name": f"tool_{number}"} for number in range(600)]
    other = [{**tool, "name": "x" + str(tool["name"])} for tool in half]
    refused = [
        refusal(tools=half, input=[{**BROUGHT, "tools": other}, GO]),
        refusal(tools=[{"type": "namespace", "name": "a", "tools": half}, {"type": "namespace", "name": "b", "tools": half}]),
    ]
    assert [one.message.startswith("At most 1024 tools") for one in refused] == [True, True]
    assert len(read(tools=half, input=[{**BROUGHT, "tools": half}, GO]).tools) == 600


SEARCH = {"type": "tool_search", "execution": "client", "description": "Finds tools.", "parameters": {"type": "object"}}


def test_a_tool_search_of_the_client_is_a_function_and_one_of_the_provider_is_left_out() -> None:
    assert read(tools=[SEARCH]).tools == (Tool("tool_search", "Finds tools.", {"type": "object"}),)
    assert read(tools=[{"type": "tool_search"}, {**SEARCH, "execution": "server"}]).tools == ()
    named = read(tools=[SEARCH, F], tool_choice={"type": "tool_search"})
    assert named.tool_choice == ToolChoice("named", "tool_search")
    assert refusal(tools=[F], tool_choice={"type": "tool_search"}).param == "tool_choice"
    namesake = {"type": "function", "name": "tool_search"}
    assert len({tool.name for tool in read(tools=[SEARCH, namesake]).tools}) == 2


@pytest.mark.parametrize(("arguments", "expected"), [
    (['{"que', 'ry":"files"}'], {"query": "files"}), ([], {}), (["[1]"], {}), (['{"query":'], {}),
    (['{"a":' * 300 + "1" + "}" * 300], {}),
])  # fmt: skip
def test_a_tool_search_call_has_its_own_item_type(arguments: list[str], expected: Any) -> None:
    events: list[Event] = [
        Begin("x", "m"), TextDelta("Let me see."), ToolStart(0, "s1", "tool_search"), ToolStart(1, "c2", "f"),
        *(ToolDelta(0, piece) for piece in arguments), ToolDelta(1, "{}"), Finish("tool_calls"), End(),
    ]  # fmt: skip
    for rendered in (streamed, plain):
        response = rendered(events, tools=[SEARCH, F])
        search = response["output"][1]
        assert search.pop("id").startswith("tsc_")
        assert search == {"type": "tool_search_call", "call_id": "s1", "execution": "client", "arguments": expected,
                          "status": "completed"}  # fmt: skip
        assert [item["type"] for item in response["output"]] == ["message", "tool_search_call", "function_call"]
