"""What the generations of each API take: efforts, budgets, names of tools, stop strings."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.protocols import registry
from relayd.protocols._capabilities import CHAT, GEMINI, MESSAGES, OLLAMA, RESPONSES, Api
from relayd.protocols.anthropic_messages.read_request import read_request
from relayd.protocols.anthropic_messages.write_request import write_request as write_messages
from relayd.protocols.canon import (
    Message,
    Request,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    ToolStart,
)
from relayd.protocols.dialect import Options, Refused, RequestContext
from relayd.protocols.gemini.request import write_request
from tests.aids.memories import Forgetful

ASKED = (Message("user", (Text("x"),)),)


def written(name: str, **members: Any) -> dict[str, Any]:
    """A request as endpoints of this dialect get it."""
    write = registry.load(name).write_request
    assert write is not None
    body = write(Request(**{"model": "m", "messages": ASKED} | members), Options(), Forgetful()).body
    found: dict[str, Any] = json.loads(body)
    return found


@pytest.mark.parametrize(
    ("model", "thinking", "ids"),
    [
        ("gemini-1.5-flash", "no", False),
        ("models/gemini-1.5-pro", "no", False),
        ("gemini-pro", "no", False),
        ("gemini-2.0-flash-lite", "no", False),
        ("gemma-3-27b-it", "no", False),
        ("gemini-2.5-flash-preview-04-17", "budget", False),
        ("gemini-2.5-pro", "budget", False),
        ("gemini-3-pro-preview", "effort", True),
        ("gemini-3.5-flash", "effort", True),
        ("gemini-flash-latest", "effort", True),
        ("gemini-4", "effort", True),
        ("tunedModels/mine", "effort", True),
    ],
)
def test_a_models_name_determines_its_family(model: str, thinking: str, ids: bool) -> None:
    family = GEMINI.of(model)
    assert (family.thinking, family.call_ids, family.signatures) == (thinking, ids, ids)


def test_pro_models_never_think_less_than_they_can() -> None:
    assert GEMINI.of("gemini-3-pro").effort("none") == "low"
    assert GEMINI.of("gemini-3-flash").effort("none") == "minimal"
    assert GEMINI.of("gemini-2.5-pro").budget("none") == 128
    assert GEMINI.of("gemini-2.5-flash").budget("none") == 0


def test_an_unknown_effort_is_refused() -> None:
    for effort in ("", "LOW", "x" * 1000):
        with pytest.raises(Refused):
            GEMINI.of("gemini-3-pro").effort(effort)


@pytest.mark.parametrize(
    ("model", "asked", "received"),
    [
        ("gemini-2.5-flash", 31999, 24576), ("gemini-2.5-flash", 0, 0), ("gemini-2.5-flash", 100, 100),
        ("gemini-2.5-flash-lite", 31999, 24576), ("gemini-2.5-flash-lite", 100, 512), ("gemini-2.5-flash-lite", 0, 0),
        ("gemini-2.5-pro", 31999, 31999), ("gemini-2.5-pro", 64000, 32768), ("gemini-2.5-pro", 0, 128),
        ("gemini-2.5-pro", -1, -1), ("gemini-3-flash", 31999, 31999), ("gemini-3-flash", 1 << 40, 32768),
    ],
)
def test_a_budget_is_brought_into_what_the_models_take(model: str, asked: int, received: int) -> None:
    assert GEMINI.of(model).clamp_budget(asked) == received
    request = Request(model, (Message("user", (Text("x"),)),), thinking=Thinking(budget=asked))
    body = json.loads(write_request(request, Options(), Forgetful()).body)
    assert body["generationConfig"]["thinkingConfig"]["thinkingBudget"] == received


# ---- efforts


@pytest.mark.parametrize(
    ("api", "model", "asked", "received"),
    [
        (CHAT, "qwen3", "max", "high"), (CHAT, "qwen3", "xhigh", "high"), (CHAT, "qwen3", "minimal", "low"),
        (CHAT, "qwen3", "none", "none"), (CHAT, "qwen3", "default", "default"),
        (CHAT, "o3-mini", "xhigh", "high"), (CHAT, "o3-mini", "none", "low"), (CHAT, "openai/gpt-oss-120b", "max", "high"),
        (CHAT, "gpt-5", "minimal", "minimal"), (CHAT, "gpt-5-mini-2025-08-07", "none", "minimal"),
        (CHAT, "gpt-5-pro", "low", "high"), (CHAT, "gpt-5.1", "minimal", "low"), (CHAT, "gpt-5.1", "xhigh", "high"),
        (RESPONSES, "gpt-5.2", "max", "xhigh"), (RESPONSES, "gpt-5.1-codex-max", "xhigh", "xhigh"),
        (RESPONSES, "gpt-5.6-sol", "minimal", "low"), (RESPONSES, "mine", "max", "xhigh"),
        (MESSAGES, "claude-opus-4-6", "xhigh", "high"), (MESSAGES, "claude-opus-4-6", "max", "max"),
        (MESSAGES, "claude-opus-4-7", "xhigh", "xhigh"), (MESSAGES, "mine", "minimal", "low"),
        (GEMINI, "gemini-3-pro", "medium", "high"), (GEMINI, "gemini-3.1-pro", "medium", "medium"),
        (GEMINI, "gemini-3-flash", "max", "high"), (OLLAMA, "gpt-oss:20b", "none", "low"),
    ],
)  # fmt: skip
def test_an_effort_becomes_the_nearest_that_the_generation_has(api: Api, model: str, asked: str, received: str) -> None:
    assert api.of(model).effort(asked) == received


@pytest.mark.parametrize(
    ("model", "thinking"),
    [
        ("claude-3-5-sonnet-20241022", None), ("claude-3-haiku-20240307", None),
        ("claude-3-7-sonnet-latest", "enabled"), ("claude-sonnet-4-20250514", "enabled"),
        ("claude-opus-4-1-20250805", "enabled"), ("claude-sonnet-4-5", "enabled"), ("claude-haiku-4-5@20251001", "enabled"),
        ("anthropic.claude-sonnet-4-5-20250929-v1:0", "enabled"),
        ("claude-opus-4-6", "adaptive"), ("claude-opus-4-7-20260401", "adaptive"), ("claude-sonnet-5", "adaptive"),
        ("mine", "adaptive"),
    ],
)  # fmt: skip
def test_a_model_of_anthropic_is_asked_to_think_as_its_generation_is(model: str, thinking: str | None) -> None:
    body = written("anthropic_messages", model=model, thinking=Thinking("medium"))
    assert body.get("thinking", {}).get("type") == thinking
    assert ("output_config" in body) == (thinking == "adaptive")


def test_models_that_decide_by_themselves_get_no_budget_whatever_the_options_say() -> None:
    request = Request("claude-opus-4-7", ASKED, thinking=Thinking(budget=31999))
    body = json.loads(write_messages(request, Options(thinking="budget"), Forgetful()).body)
    assert body["thinking"] == {"type": "adaptive"}


# ---- names of tools

LONG = "mcp__a_server_with_a_name__" + "x" * 60
ODD = "files.read/all"
LONGEST = {"openai_chat": 64, "openai_responses": 64, "anthropic_messages": 128, "gemini": 64}


def names_in(value: Any) -> set[str]:
    """Every name of a function in a request."""
    if isinstance(value, list):
        return set().union(*map(names_in, value))
    if not isinstance(value, dict):
        return set()
    found = set().union(*map(names_in, value.values()))
    found |= {value["name"]} if isinstance(value.get("name"), str) else set()
    return found | set(value.get("allowedFunctionNames", ()))


@pytest.mark.parametrize("name", LONGEST)
@pytest.mark.parametrize("tool", [LONG, ODD, LONG * 3])
def test_the_name_of_a_tool_is_one_that_is_taken_wherever_it_stands(name: str, tool: str) -> None:
    history = (*ASKED, Message("assistant", (ToolCall("call_1", tool, "{}"),)),
               Message("tool", (ToolResult("call_1", (Text("x"),)),)))  # fmt: skip
    body = written(name, messages=history, tools=(Tool(tool),), tool_choice=ToolChoice("named", tool))
    names = names_in(body)
    assert len(names) == 1, "the tool, the choice and the call are one"
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", one) and len(one) <= LONGEST[name] for one in names)


ANSWERS: dict[str, Callable[[str], Any]] = {
    "openai_chat": lambda name: {"choices": [{"finish_reason": "tool_calls", "message": {"role": "assistant", "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": name, "arguments": "{}"}}]}}]},
    "openai_responses": lambda name: {"id": "resp_1", "status": "completed", "output": [
        {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": name, "arguments": "{}"}]},
    "anthropic_messages": lambda name: {"type": "message", "role": "assistant", "stop_reason": "tool_use", "content": [
        {"type": "tool_use", "id": "toolu_1", "name": name, "input": {}}]},
    "gemini": lambda name: {"candidates": [{"finishReason": "STOP", "content": {"parts": [
        {"functionCall": {"name": name, "args": {}}}]}}]},
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_a_call_comes_back_under_the_name_that_the_client_knows(name: str) -> None:
    tool = LONG * 2
    request = Request("m", ASKED, tools=(Tool(tool), Tool("look")))
    received = names_in(written(name, tools=request.tools)) - {"look"}
    make = registry.load(name).reader
    assert make is not None and len(received) == 1 and received != {tool}
    for called, known in ((received.pop(), tool), ("look", "look")):
        reader = make(request, Options(), Forgetful())
        events = reader.decode(json.dumps(ANSWERS[name](called)).encode()) + reader.finish()
        assert [one.name for one in events if isinstance(one, ToolStart)] == [known]


TAKEN = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]{0,63}", re.ASCII)


@given(st.lists(st.text(max_size=100), unique=True, max_size=20))
def test_every_name_becomes_one_that_is_taken_and_comes_back(names: list[str]) -> None:
    assert GEMINI.names is not None
    back = GEMINI.names.reverse_map(names)
    for name in names:
        other = GEMINI.tool_name(name)
        assert TAKEN.fullmatch(other)
        assert back.get(other, other) == name


def test_a_name_that_is_taken_stays_and_long_ones_stay_apart() -> None:
    for name in ("look", "_x", "mcp__files__read-file", "x" * 64):
        assert CHAT.tool_name(name) == GEMINI.tool_name(name) == name
    assert CHAT.tool_name("x" * 65) != CHAT.tool_name("x" * 66)


# ---- stop strings

STOPS = {"openai_chat": 4, "openai_responses": 0, "anthropic_messages": 6, "gemini": 5, "ollama": 7}


@pytest.mark.parametrize("name", STOPS)
def test_an_endpoint_gets_as_many_stop_strings_as_it_takes(name: str) -> None:
    stops = ("one", "two", "three", "four", "\n", "six", "seven")
    body = written(name, stop=stops)
    found = body.get("stop") or body.get("stop_sequences") or body.get("generationConfig", {}).get("stopSequences") \
        or body.get("options", {}).get("stop") or []
    assert len(found) == STOPS[name]
    assert found == [one for one in stops if one.strip() or name != "anthropic_messages"][: STOPS[name]]


def test_so_many_stop_strings_that_looking_for_them_takes_long_are_refused() -> None:
    with pytest.raises(Refused) as refused:
        written("openai_chat", stop=tuple(map(str, range(100))))
    assert refused.value.param == "stop"


# ---- strict


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        ({"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": False}, True),
        ({"type": "object", "properties": {"a": {}}, "additionalProperties": False}, False),
        ({"type": "object", "properties": {"a": {}}, "required": ["a"]}, False),
        ({"type": "object", "properties": {"a": {"allOf": [{}]}}, "required": ["a"], "additionalProperties": False}, False),
        ({"type": "object", "properties": {"a": {"minLength": 1}}, "required": ["a"], "additionalProperties": False}, False),
        ({"type": "object", "required": ["a"], "additionalProperties": False, "properties": {"a": {
            "type": ["object", "null"], "properties": {"b": {}}, "additionalProperties": False}}}, False),
        ({"anyOf": [{"type": "string"}]}, False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["openai_chat", "openai_responses"])
def test_strict_of_messages_is_sent_only_for_a_strict_schema(name: str, schema: dict[str, Any], strict: bool) -> None:
    asked = {
        "model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}],
        "tools": [{"name": "look", "input_schema": schema, "strict": True}],
        "output_config": {"format": {"type": "json_schema", "name": "n", "schema": schema}},
    }
    request = read_request(json.dumps(asked).encode(), RequestContext("POST", "/v1/messages", "", {}, "req", Forgetful()))
    write = registry.load(name).write_request
    assert write is not None
    assert (b'"strict":true' in write(request, Options(), Forgetful()).body) == strict
