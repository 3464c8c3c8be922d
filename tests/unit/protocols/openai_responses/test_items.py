"""Input items converted to canonical messages."""

from __future__ import annotations

from typing import Any

import pytest

from relayd.protocols.canon import (
    Audio,
    File,
    Image,
    Message,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
    ToolResult,
)
from relayd.protocols.openai_responses.items import typed_item
from tests.unit.protocols.openai_responses.harness import read, refusal

USER = {"role": "user", "content": "go"}


def call(number: int, arguments: Any = "{}", **more: Any) -> dict[str, Any]:
    return {"type": "function_call", "call_id": f"c{number}", "name": "f", "arguments": arguments, **more}


def output_of(number: int, output: Any = "ok") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": f"c{number}", "output": output}


def messages_of(*items: Any) -> tuple[Message, ...]:
    return read(input=list(items)).messages


def outline(*items: Any) -> list[tuple[str, ...]]:
    """Return the role and a short form of the parts of each message."""
    entries = []
    for message in messages_of(*items):
        parts = []
        for part in message.parts:
            match part:
                case Text(text):
                    parts.append(text)
                case Reasoning(text):
                    parts.append(f"~{text}")
                case ToolCall(call_id):
                    parts.append(f">{call_id}")
                case ToolResult(call_id):
                    parts.append(f"<{call_id}")
        entries.append((message.role, *parts))
    return entries


def test_a_string_is_one_user_message() -> None:
    assert read(input="hello").messages == (Message("user", (Text("hello"),)),)


def test_short_and_full_messages_are_equivalent() -> None:
    full = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "go"}], "id": "msg_1"}
    assert messages_of(USER) == messages_of(full)


@pytest.mark.parametrize("role", ["system", "developer", "user"])
def test_roles_are_kept(role: str) -> None:
    assert messages_of({"role": role, "content": "x"})[0].role == role


def test_assistant_texts_of_every_name_are_parts_and_phase_is_accepted() -> None:
    item = {"role": "assistant", "phase": "final", "content": [
        {"type": "output_text", "text": "a", "annotations": []}, {"type": "text", "text": "b"}]}  # fmt: skip
    assert messages_of(item, USER)[0] == Message("assistant", (Text("a"), Text("b")))


def test_a_refusal_stays_an_assistants_turn() -> None:
    item = {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}
    assert messages_of(item, USER)[0] == Message("assistant", (Refusal("no"),))


def test_images_files_and_sound() -> None:
    content = [
        {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"},
        {"type": "input_image", "image_url": {"url": "https://x.example/a.png", "detail": "high"}},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="},
        {"type": "input_file", "file_url": "https://x.example/a.pdf"},
        {"type": "input_file", "file_id": "file_1"},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
    ]
    assert messages_of({"role": "user", "content": content})[0].parts == (
        Image("data:image/png;base64,AA==", "low"),
        Image("https://x.example/a.png", "high"),
        File("a.pdf", "data:application/pdf;base64,AA=="),
        File(url="https://x.example/a.pdf"),
        File(file_id="file_1"),
        Audio("AA==", "wav"),
    )


def test_calls_join_the_text_before_them_and_their_outputs_follow() -> None:
    text = {"role": "assistant", "content": "I look"}
    assert outline(USER, text, call(1), call(2), output_of(1), output_of(2), USER) == [
        ("user", "go"), ("assistant", "I look", ">c1", ">c2"), ("tool", "<c1", "<c2"), ("user", "go")]  # fmt: skip


def test_alternating_calls_and_outputs_are_pairs() -> None:
    assert outline(USER, call(1), output_of(1), call(2), output_of(2)) == [
        ("user", "go"), ("assistant", ">c1"), ("tool", "<c1"), ("assistant", ">c2"), ("tool", "<c2")]  # fmt: skip


def test_a_late_tool_output_follows_its_call() -> None:
    assert outline(USER, call(1), call(2), output_of(1), USER, output_of(2)) == [
        ("user", "go"), ("assistant", ">c1", ">c2"), ("tool", "<c1", "<c2"), ("user", "go")]  # fmt: skip


def test_a_reused_call_id_refers_to_its_latest_call() -> None:
    assert outline(call(1), output_of(1), call(1), output_of(1)) == [
        ("assistant", ">c1"), ("tool", "<c1"), ("assistant", ">c1"), ("tool", "<c1")]  # fmt: skip


def test_reasoning_belongs_to_the_next_assistant_item() -> None:
    thought = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]}
    text = {"role": "assistant", "content": "a"}
    assert outline(USER, thought, call(1), output_of(1), thought, text, thought, text) == [
        ("user", "go"), ("assistant", "~hm", ">c1"), ("tool", "<c1"), ("assistant", "~hm", "a"), ("assistant", "~hm", "a")]  # fmt: skip
    assert outline(text, thought, call(1), output_of(1)) == [("assistant", "a", "~hm", ">c1"), ("tool", "<c1")]
    assert outline(thought, USER) == [("user", "go")]


def test_two_texts_are_two_turns() -> None:
    text = {"role": "assistant", "content": "a"}
    assert outline(text, text, USER) == [("assistant", "a"), ("assistant", "a"), ("user", "go")]


@pytest.mark.parametrize(("arguments", "expected"), [("", "{}"), (None, "{}"), ({"a": 1}, '{"a":1}'), ('{"a": 1.0}', '{"a": 1.0}')])
def test_arguments_are_text(arguments: Any, expected: str) -> None:
    part = messages_of(call(1, arguments), output_of(1))[0].parts[0]
    assert isinstance(part, ToolCall) and part.arguments == expected


def test_an_output_may_be_a_list_with_images() -> None:
    output = [{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": "data:x"}]
    assert messages_of(call(1), output_of(1, output))[1].parts == (ToolResult("c1", (Text("a"), Image("data:x"))),)
    assert messages_of(call(1), output_of(1, []))[1].parts == (ToolResult("c1", ()),)


def test_a_custom_call_has_its_raw_input() -> None:
    items = [{"type": "custom_tool_call", "call_id": "c1", "name": "apply_patch", "input": "*** x"},
             {"type": "custom_tool_call_output", "call_id": "c1", "output": "ok"}]  # fmt: skip
    assert messages_of(*items)[0].parts == (ToolCall("c1", "apply_patch", "*** x", "custom"),)


def test_a_namespace_call_has_the_endpoints_name() -> None:
    part = messages_of(call(1, namespace="mcp"), output_of(1))[0].parts[0]
    assert isinstance(part, ToolCall) and part.name == "mcp__f"


def test_items_of_hosted_tools_and_their_outputs_are_left_out() -> None:
    items = [{"type": "web_search_call", "id": "ws_1", "status": "completed"},
             {"type": "local_shell_call", "call_id": "c9", "action": {}}, output_of(9), USER]  # fmt: skip
    assert outline(*items) == [("user", "go")]


@pytest.mark.parametrize(
    ("items", "param"),
    [
        ([{"type": "made_up"}], "input"),
        ([call(1), {"type": "made_up_output", "call_id": "c1", "picture": "x"}], "input[1].type"),
        ([{"type": "agent_message", "content": [{"type": "made_up"}]}], "input[0].content[0].type"),
        ([{"type": "agent_message"}], "input[0].content"),
        ([{"type": "additional_tools", "tools": "none"}, USER], "input[0].tools"),
        ([{"type": "additional_tools", "tools": [{"type": "function"}]}, USER], "input[0].tools[0].name"),
        ([{"type": "tool_search_output", "execution": "client", "call_id": "c", "tools": []}], "input[0].call_id"),
        ([USER, {"no": 1}], "input[1].type"),
        (["text"], "input[0]"),
        ([{"role": "robot", "content": "x"}], "input[0].role"),
        ([{"role": "user"}], "input[0].content"),
        ([{"role": "user", "content": [{"type": "made_up"}]}], "input[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "input_text"}]}], "input[0].content[0].text"),
        ([{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}], "input[0].content[0].file_id"),
        ([{"role": "user", "content": [{"type": "input_image"}]}], "input[0].content[0].image_url"),
        ([{"role": "user", "content": [{"type": "input_file"}]}], "input[0].content[0].file_data"),
        ([{"role": "assistant", "content": [{"type": "input_image", "image_url": "data:x"}]}], "input[0].content"),
        ([output_of(1)], "input[0].call_id"),
        ([output_of(1), call(1)], "input[0].call_id"),
        ([call(1), output_of(1), output_of(1)], "input[2].call_id"),
        ([call(1), output_of(1, 7)], "input[1].output"),
        ([call(1), output_of(1, [{"type": "refusal", "refusal": "x"}])], "input[1].output[0]"),
        ([{"type": "function_call", "name": "f"}], "input[0].call_id"),
        ([{"type": "function_call", "name": "", "call_id": "c"}], "input[0].name"),
        ([call(1, 7)], "input[0].arguments"),
        ([{"type": "custom_tool_call", "call_id": "c", "name": "f"}], "input[0].input"),
        ([{"type": "reasoning", "summary": [{}]}], "input[0].summary[0].text"),
        ([{"type": "compaction", "encrypted_content": "foreign"}], "input[0].encrypted_content"),
    ],
)
def test_invalid_items_are_refused_with_their_path(items: list[Any], param: str) -> None:
    refused = refusal(input=items)
    assert refused.status == 400 and refused.param == param and refused.message


def test_a_type_of_null_with_a_role_is_a_message() -> None:
    assert typed_item({"type": None, "role": "user", "content": "x"}, "input[0]")["type"] == "message"


def test_a_message_between_agents_names_author_and_recipient() -> None:
    item = {"type": "agent_message", "author": "lead", "recipient": "lead/worker", "content": [
        {"type": "input_text", "text": "Look at this:"}, {"type": "encrypted_content", "encrypted_content": "the task"},
    ]}  # fmt: skip
    assert outline(item) == [("user", "Message from lead to lead/worker:", "Look at this:", "the task")]
    assert outline({"type": "agent_message", "content": "done"}) == [("user", "Message from another agent:", "done")]


def test_encrypted_content_parts_are_read_as_text_everywhere() -> None:
    part = {"type": "encrypted_content", "encrypted_content": "plain"}
    assert messages_of({"role": "user", "content": [part]})[0].parts == (Text("plain"),)
    assert messages_of(call(1), output_of(1, [part]), USER)[1].parts == (ToolResult("c1", (Text("plain"),)),)


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"type": "ghost_snapshot", "ghost_commit": {"id": "5f", "parent": None}}, None),
        ({"type": "agent_reasoning", "text": "I think."}, ("user", "[agent_reasoning]\nI think.")),
        ({"type": "note", "content": [{"type": "input_text", "text": "a"}, {"type": "x", "y": 1}, "b", None]},
         ("user", "[note]\na\nb")),
        ({"type": "note", "summary": [{"type": "summary_text", "text": "short"}]}, ("user", "[note]\nshort")),
        ({"type": "note", "role": "developer", "content": "rule"}, ("developer", "rule")),
        ({"type": "note", "content": {"text": "deep"}}, ("user", "[note]\ndeep")),
        ({"type": "note", "text": "  ", "content": 5, "summary": {}, "message": None, "call_id": []}, None),
    ],
)  # fmt: skip
def test_an_item_of_an_unknown_type_does_not_fail_the_request(item: Any, expected: Any) -> None:
    request = read(input=[USER, item, USER])
    assert outline(USER, item, USER) == [("user", "go"), *([expected] if expected else []), ("user", "go")]
    assert request.unknown == {(item["type"], "carried" if expected else "left_out"): 1}


def test_calls_keep_their_outputs_beside_items_of_unknown_types() -> None:
    progress = {"type": "progress", "call_id": "c1", "text": "half"}
    assert outline(call(1), progress, output_of(1), USER) == [
        ("assistant", ">c1"), ("tool", "<c1"), ("user", "[progress]\nhalf"), ("user", "go"),
    ]  # fmt: skip
    foreign = [{"type": "made_call", "call_id": "c7"}, {"type": "made_call_output", "call_id": "c7", "output": "x"}]
    assert outline(*foreign, output_of(7), USER) == [("user", "[made_call_output]\nx"), ("user", "go")]
    own = {"type": "made_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "x"}]}
    assert messages_of(call(1), own, USER)[1].parts == (ToolResult("c1", (Text("x"),)),)


def test_unknown_types_are_counted_up_to_a_bound() -> None:
    items = [{"type": f"made_up_{number}" + "x" * 500} for number in range(100)]
    request = read(input=[*items, USER])
    assert len(request.unknown) == 16 and max(len(kind) for kind, _ in request.unknown) == 64


SEARCH = {"type": "tool_search", "execution": "client", "description": "Finds tools.", "parameters": {"type": "object"}}
FOUND = {"type": "namespace", "name": "mcp", "tools": [
    {"type": "function", "name": "read", "description": "Reads.", "defer_loading": True},
    {"type": "mcp", "name": ["odd"]}, {"type": "custom", "name": "run"},
]}  # fmt: skip


def searched(**more: Any) -> list[dict[str, Any]]:
    return [
        {"type": "tool_search_call", "call_id": "s1", "execution": "client", "arguments": {"query": "files"}, **more},
        {"type": "tool_search_output", "call_id": "s1", "execution": "client", "status": "completed", "tools": [FOUND],
         **more},
    ]  # fmt: skip


def test_a_tool_search_of_the_client_is_a_call_and_its_output_names_the_tools_found() -> None:
    request = read(input=[USER, *searched(), USER], tools=[SEARCH])
    assert request.messages[1:3] == (
        Message("assistant", (ToolCall("s1", "tool_search", '{"query":"files"}'),)),
        Message("tool", (ToolResult("s1", (
            Text('{"tools":[{"name":"mcp__read","description":"Reads."},{"name":"mcp__run"}]}'),
        )),)),
    )  # fmt: skip
    assert [tool.name for tool in request.tools] == ["tool_search", "mcp__read", "mcp__run"]


@pytest.mark.parametrize("more", [{"execution": "server"}, {"execution": "server", "call_id": None}])
def test_a_tool_search_of_the_provider_adds_its_tools_and_no_call(more: dict[str, Any]) -> None:
    request = read(input=[USER, *searched(**more), USER], tools=[{"type": "tool_search"}])
    assert [message.role for message in request.messages] == ["user", "user"]
    assert [tool.name for tool in request.tools] == ["mcp__read", "mcp__run"]
