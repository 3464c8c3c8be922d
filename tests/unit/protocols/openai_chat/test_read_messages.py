"""Messages of every role and form become canonical messages."""

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
from relayd.protocols.dialect import Refused
from relayd.protocols.openai_chat.read_messages import read_messages


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"role": "system", "content": "s"}, Message("system", (Text("s"),))),
        ({"role": "developer", "content": [{"type": "text", "text": "d"}], "name": "n"}, Message("developer", (Text("d"),), "n")),
        ({"role": "user", "content": ""}, Message("user", (Text(""),))),
        ({"role": "user", "content": ["a", {"type": "text", "text": "b"}]}, Message("user", (Text("a"), Text("b")))),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u", "detail": "low"}},
                                      {"type": "image_url", "image_url": "v"},
                                      {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
                                      {"type": "file", "file": {"file_id": "f"}},
                                      {"type": "file", "file": {"filename": "n.pdf", "file_data": "data:a/b;base64,AA"}},
                                      {"type": "file", "file": {"file_data": "AA"}}]},
         Message("user", (Image("u", "low"), Image("v"), Audio("AA", "wav"), File(None, None, None, "f"),
                          File("n.pdf", "data:a/b;base64,AA"), File(None, "data:application/pdf;base64,AA")))),
        ({"role": "assistant", "content": "x"}, Message("assistant", (Text("x"),))),
        ({"role": "assistant", "content": None, "refusal": "no"}, Message("assistant", (Refusal("no"),))),
        ({"role": "assistant", "content": [{"type": "text", "text": "x"}, {"type": "refusal", "refusal": "no"}]},
         Message("assistant", (Text("x"), Refusal("no")))),
        ({"role": "assistant", "reasoning_content": "hm", "content": "x"}, Message("assistant", (Reasoning("hm"), Text("x")))),
        ({"role": "assistant", "reasoning": "hm", "content": ""}, Message("assistant", (Reasoning("hm"),))),
        ({"role": "assistant", "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"},
             "extra_content": {"google": {"thought_signature": "sig"}}},
            {"id": "b", "type": "custom", "custom": {"name": "c", "input": "raw"}},
            {"id": "c", "function": {"name": "g"}}]},
         Message("assistant", (ToolCall("a", "f", "{}", "function", "sig"), ToolCall("b", "c", "raw", "custom"),
                               ToolCall("c", "g", "")))),
        ({"role": "tool", "tool_call_id": "a", "content": "r"}, Message("tool", (ToolResult("a", (Text("r"),)),))),
        ({"role": "tool", "tool_call_id": "a", "content": ""}, Message("tool", (ToolResult("a", ()),))),
        ({"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "r"}, {"type": "image_url", "image_url": {"url": "u"}}]},
         Message("tool", (ToolResult("a", (Text("r"), Image("u"))),))),
    ],
)  # fmt: skip
def test_a_message_is_read(entry: dict[str, Any], message: Message) -> None:
    assert read_messages([entry]) == (message,)


def test_the_old_form_of_calls_gets_ids_that_its_answers_find() -> None:
    call = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    answer = {"role": "function", "name": "f", "content": "r"}
    first, second, third, fourth = read_messages([call, answer, call, answer])
    assert isinstance(first.parts[0], ToolCall) and isinstance(third.parts[0], ToolCall)
    assert first.parts[0].id != third.parts[0].id
    assert second == Message("tool", (ToolResult(first.parts[0].id, (Text("r"),)),))
    assert fourth == Message("tool", (ToolResult(third.parts[0].id, (Text("r"),)),))


@pytest.mark.parametrize(
    ("entry", "param"),
    [
        (5, "messages[0]"), ({}, "messages[0].role"), ({"role": "boss", "content": ""}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"), ({"role": "user", "content": 5}, "messages[0].content"),
        ({"role": "user", "content": [5]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"text": "x"}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": [{"type": "refusal", "refusal": ""}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "messages[0].content[0].image_url"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "messages[0].content[0].image_url.url"),
        ({"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": ""}}]}, "messages[0].content[0].input_audio.format"),
        ({"role": "user", "content": [{"type": "file", "file": {}}]}, "messages[0].content[0].file.file_data"),
        ({"role": "system", "content": [{"type": "image_url", "image_url": "u"}]}, "messages[0].content[0].type"),
        ({"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f"}}]}, "messages[0].tool_calls[0].id"),
        ({"role": "assistant", "tool_calls": [{"id": "", "function": {"name": "f"}}]}, "messages[0].tool_calls[0].id"),
        ({"role": "assistant", "tool_calls": [{"id": "a", "type": "x"}]}, "messages[0].tool_calls[0].type"),
        ({"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": ""}}]}, "messages[0].tool_calls[0].function.name"),
        ({"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": {}}}]}, "messages[0].tool_calls[0].function.arguments"),
        ({"role": "tool", "content": "r"}, "messages[0].tool_call_id"), ({"role": "function", "content": "r"}, "messages[0].name"),
        ({"role": "function", "name": "f", "content": "r"}, "messages[0].name"), ({"role": "user", "content": "", "name": 5}, "messages[0].name"),
    ],
)  # fmt: skip
def test_a_faulty_message_is_refused_by_its_path(entry: Any, param: str) -> None:
    with pytest.raises(Refused) as caught:
        read_messages([entry])
    assert caught.value.param == param
