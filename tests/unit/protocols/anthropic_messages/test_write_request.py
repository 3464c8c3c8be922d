"""The canonical form as a request for a Messages endpoint."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from relayd.protocols.anthropic_messages import thinking_memory
from relayd.protocols.anthropic_messages.write_request import write_request
from relayd.protocols.canon import (
    Format,
    Message,
    Reasoning,
    Request,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from relayd.protocols.dialect import EncodedRequest, Options, Refused
from tests.aids.memories import Kept

USER = Message("user", (Text("Hi"),))
READ = Tool("read", "Reads.", {"type": "object", "properties": {"path": {"type": "string"}}}, strict=True)
LOOP = (
    USER,
    Message("assistant", (ToolCall("toolu_1", "read", '{"path":"a"}'),)),
    Message("tool", (ToolResult("toolu_1", (Text("b"),)),)),
)


def send(options: Options | None = None, memory: Kept | None = None, **members: Any) -> EncodedRequest:
    asked = Request("claude", **({"messages": (USER,)} | members))
    return write_request(asked, options or Options(), memory or Kept())


def write(options: Options | None = None, memory: Kept | None = None, **members: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(send(options, memory, **members).body)
    return body


def test_the_least_request() -> None:
    sending = send()
    assert (sending.path, sending.headers) == ("/messages", (("anthropic-version", "2023-06-01"),))
    assert json.loads(sending.body) == {
        "model": "claude",
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    }


def test_the_limit_is_the_clients_or_the_upstreams() -> None:
    assert write(max_tokens=5)["max_tokens"] == 5
    assert write(Options(default_max_tokens=99))["max_tokens"] == 99


def test_system_and_developer_messages_are_joined() -> None:
    body = write(
        messages=(Message("system", (Text("A"),)), USER, Message("developer", (Text("B"), Text(" "), Text("C"))))
    )
    assert body["system"] == "A\n\nB\n\nC"
    assert len(body["messages"]) == 1


def test_sampling_is_put_into_the_apis_bounds() -> None:
    body = write(temperature=1.7, top_k=3, stop=("END", " \n"), stream=True)
    assert (body["temperature"], body["top_k"], body["stop_sequences"], body["stream"]) == (1, 3, ["END"], True)
    assert write(temperature=0)["temperature"] == 0
    assert write(top_p=0.5)["top_p"] == 0.5
    assert "top_p" not in write(top_p=0.5, temperature=0.2)


def test_what_the_api_does_not_know_is_left_out() -> None:
    body = write(
        seed=1, presence_penalty=1.0, frequency_penalty=1.0, logit_bias={"1": 1}, logprobs=True, top_logprobs=2,
        verbosity="low", service_tier="flex", metadata={"a": "b"}, prompt_cache_key="k", n=1, extra={"x": 1},
        format=Format("json_object"), parallel_tool_calls=False, tool_choice=ToolChoice("auto"),
    )  # fmt: skip
    assert body == write()


def test_more_than_one_answer_is_refused() -> None:
    with pytest.raises(Refused) as refused:
        send(n=2)
    assert refused.value.param == "n"


def test_tools_are_written_with_an_object_schema() -> None:
    body = write(tools=(READ, Tool("now")))
    assert body["tools"] == [
        {"name": "read", "description": "Reads.", "input_schema": dict(READ.parameters or {})},
        {"name": "now", "input_schema": {"type": "object"}},
    ]
    assert "tool_choice" not in body


def test_a_tool_that_takes_free_text_takes_it_as_input() -> None:
    tool = Tool("patch", "Patches.", kind="custom", grammar={"type": "grammar", "definition": "start: x"})
    written = write(tools=(tool,))["tools"][0]
    assert written["input_schema"]["required"] == ["input"]
    assert written["description"].startswith("Patches.") and "start: x" in written["description"]


@pytest.mark.parametrize(
    ("choice", "parallel", "written"),
    [
        (ToolChoice("auto"), None, {"type": "auto"}),
        (ToolChoice("required"), None, {"type": "any"}),
        (ToolChoice("named", "read"), None, {"type": "tool", "name": "read"}),
        (ToolChoice("none"), False, {"type": "none"}),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        (ToolChoice("required"), False, {"type": "any", "disable_parallel_tool_use": True}),
        (None, True, None),
    ],
)
def test_tool_choices_are_written(choice: ToolChoice | None, parallel: bool | None, written: Any) -> None:
    assert write(tools=(READ,), tool_choice=choice, parallel_tool_calls=parallel).get("tool_choice") == written


def test_a_choice_of_no_tool_is_refused() -> None:
    with pytest.raises(Refused):
        send(tools=(READ,), tool_choice=ToolChoice("named", "gone"))


def test_calls_in_the_history_have_their_tools_declared() -> None:
    body = write(messages=LOOP)
    assert body["tools"] == [{"name": "read", "input_schema": {"type": "object"}}]
    assert body["tool_choice"] == {"type": "none"}


def test_a_schema_for_the_answer_is_asked_for() -> None:
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    body = write(format=Format("json_schema", "n", schema, True), thinking=Thinking(effort="low"))
    assert body["output_config"] == {"effort": "low", "format": {"type": "json_schema", "schema": schema}}


def test_the_user_is_named() -> None:
    assert write(user="u", safety_identifier="s")["metadata"] == {"user_id": "u"}
    assert write(safety_identifier="s")["metadata"] == {"user_id": "s"}


def test_an_effort_is_adaptive_thinking_and_takes_sampling_away() -> None:
    body = write(thinking=Thinking(effort="minimal"), temperature=0.2, top_k=1)
    assert body["thinking"] == {"type": "adaptive"} and body["output_config"] == {"effort": "low"}
    assert "temperature" not in body and "top_k" not in body
    assert write(thinking=Thinking(effort="xhigh"))["output_config"] == {"effort": "xhigh"}
    assert write(thinking=Thinking(enabled=True, visible=False))["thinking"]["display"] == "omitted"


@pytest.mark.parametrize("off", [Thinking(effort="none"), Thinking(enabled=False), Thinking(budget=0)])
def test_thinking_can_be_switched_off(off: Thinking) -> None:
    body = write(thinking=off, temperature=0.2)
    assert body["thinking"] == {"type": "disabled"} and body["temperature"] == 0.2 and "output_config" not in body


def test_an_upstream_may_know_no_thinking() -> None:
    assert write(Options(thinking="drop"), thinking=Thinking(effort="high")) == write()


def test_a_forced_tool_comes_before_thinking() -> None:
    body = write(tools=(READ,), tool_choice=ToolChoice("required"), thinking=Thinking(effort="high"), temperature=0)
    assert "thinking" not in body and body["temperature"] == 0 and body["tool_choice"] == {"type": "any"}


def test_an_answer_that_is_begun_goes_on_without_thinking() -> None:
    begun = (USER, Message("assistant", (Text("So"),)))
    assert "thinking" not in write(messages=begun, thinking=Thinking(effort="high"))


@pytest.mark.parametrize(
    ("thinking", "limit", "budget", "written_limit"),
    [
        (Thinking(effort="low"), None, 2048, 4096 + 2048),
        (Thinking(effort="high"), 4000, 3999, 4000),
        (Thinking(budget=5000), 20000, 5000, 20000),
        (Thinking(budget=10), 20000, 1024, 20000),
        (Thinking(enabled=True), 20000, 8192, 20000),
        (Thinking(effort="low"), 1024, None, 1024),
        (Thinking(effort="low"), 1025, 1024, 1025),
    ],
)
def test_a_budget_lies_between_its_least_and_the_limit(
    thinking: Thinking, limit: int | None, budget: int | None, written_limit: int
) -> None:
    body = write(Options(thinking="budget"), thinking=thinking, max_tokens=limit)
    expected = None if budget is None else {"type": "enabled", "budget_tokens": budget}
    assert body.get("thinking") == expected and body["max_tokens"] == written_limit
    assert "output_config" not in body


def test_a_budget_waits_for_signed_thoughts_in_the_loop() -> None:
    options, memory = Options(thinking="budget"), Kept()
    assert "thinking" not in write(options, memory, messages=LOOP, tools=(READ,), thinking=Thinking(budget=2000))
    thinking_memory.store(memory, "toolu_1", [Reasoning("Hm", signature="s")])
    body = write(options, memory, messages=LOOP, tools=(READ,), thinking=Thinking(budget=2000))
    assert body["thinking"]["type"] == "enabled"
    assert body["messages"][1]["content"][0] == {"type": "thinking", "thinking": "Hm", "signature": "s"}


def test_the_request_is_not_changed() -> None:
    asked = Request("claude", LOOP, tools=(READ,), thinking=Thinking(effort="high"))
    before = dataclasses.replace(asked)
    write_request(asked, Options(), Kept())
    assert asked == before
