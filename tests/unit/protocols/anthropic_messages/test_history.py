"""Turns: alternation, results in their place, thoughts put back, and nothing blank."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.protocols._turns import last_calls
from relayd.protocols.anthropic_messages import thinking_memory
from relayd.protocols.anthropic_messages.history import OPENING, UNANSWERED, History
from relayd.protocols.canon import (
    Audio,
    File,
    Image,
    Message,
    Part,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
    ToolResult,
)
from relayd.protocols.dialect import Refused
from tests.aids.memories import Kept


def turns(*messages: Message, memory: Kept | None = None, unanswered: str = "fill") -> list[dict[str, Any]]:
    history = History(memory or Kept(), unanswered, last_calls(messages))
    for number, message in enumerate(messages):
        history.add(message, f"messages[{number}]")
    history.end()
    return history.turns


def text_message(role: str, *parts: Part | str) -> Message:
    return Message(role, tuple(Text(part) if isinstance(part, str) else part for part in parts))


def text(names: str) -> dict[str, Any]:
    return {"type": "text", "text": names}


def call(identity: str, arguments: str = "{}") -> ToolCall:
    return ToolCall(identity, "f", arguments)


def test_turns_of_one_role_are_merged() -> None:
    found = turns(text_message("user", "a"), text_message("user", "b"), text_message("assistant", "c"), text_message("assistant", "d"), text_message("user", "e"))
    assert found == [
        {"role": "user", "content": [text("a"), text("b")]},
        {"role": "assistant", "content": [text("c"), text("d")]},
        {"role": "user", "content": [text("e")]},
    ]


def test_the_user_comes_first() -> None:
    assert turns(text_message("assistant", "a"))[0] == {"role": "user", "content": [text(OPENING)]}
    assert turns(text_message("system", "a")) == [{"role": "user", "content": [text(OPENING)]}]


def test_blank_texts_and_turns_without_anything_are_left_out() -> None:
    found = turns(text_message("user", "a", "", " \n"), text_message("assistant", ""), text_message("user", "b"))
    assert found == [{"role": "user", "content": [text("a"), text("b")]}]


def test_a_text_to_go_on_with_ends_without_blanks() -> None:
    assert turns(text_message("user", "a"), text_message("assistant", "So: \n"))[-1]["content"] == [text("So:")]


def test_results_are_first_in_the_turn_behind_their_calls_and_in_their_order() -> None:
    found = turns(
        text_message("user", "go"),
        text_message("assistant", "on it", call("1", '{"x": 1}'), call("2")),
        text_message("tool", ToolResult("2", (Text("two"),), is_error=True)),
        text_message("user", "and"),
        text_message("user", "more"),
    )
    assert found[1]["content"][1] == {"type": "tool_use", "id": "1", "name": "f", "input": {"x": 1}}
    assert found[2]["content"] == [
        {"type": "tool_result", "tool_use_id": "1", "content": UNANSWERED, "is_error": True},
        {"type": "tool_result", "tool_use_id": "2", "content": [text("two")], "is_error": True},
        text("and"),
        text("more"),
    ]


def test_calls_and_results_in_turns_are_two_pairs() -> None:
    found = turns(
        text_message("user", "go"),
        text_message("assistant", call("1")), text_message("tool", ToolResult("1", ())),
        text_message("assistant", call("2")), text_message("tool", ToolResult("2", (Image("https://a/b.png"),))),
    )  # fmt: skip
    assert [turn["role"] for turn in found] == ["user", "assistant", "user", "assistant", "user"]
    assert found[2]["content"] == [{"type": "tool_result", "tool_use_id": "1"}]
    assert found[4]["content"][0]["content"] == [{"type": "image", "source": {"type": "url", "url": "https://a/b.png"}}]


def test_open_calls_at_the_end_are_answered_too() -> None:
    assert turns(text_message("user", "go"), text_message("assistant", call("1")))[-1]["content"][0]["content"] == UNANSWERED


def test_unanswered_calls_can_be_refused() -> None:
    with pytest.raises(Refused):
        turns(text_message("user", "go"), text_message("assistant", call("1")), text_message("user", "b"), unanswered="refuse")


def test_a_result_without_its_call_is_refused() -> None:
    with pytest.raises(Refused) as refused:
        turns(text_message("user", "go"), text_message("tool", ToolResult("1", ())))
    assert refused.value.param == "messages[1]"


@pytest.mark.parametrize("arguments", ["{", "[1]", '"x"'])
def test_arguments_that_are_no_object_are_shown_and_end_no_conversation(arguments: str) -> None:
    content = turns(text_message("user", "go"), text_message("assistant", call("1", arguments)))[1]
    assert content["content"][0]["input"] == {"unparsed_arguments": arguments}


def test_raw_input_is_wrapped_and_no_arguments_are_an_object() -> None:
    content = turns(text_message("user", "go"), text_message("assistant", ToolCall("1", "p", "raw", kind="custom"), call("2", ""), call("3", "null")))[1]
    assert [block["input"] for block in content["content"]] == [{"input": "raw"}, {}, {}]


def test_ids_that_the_api_would_refuse_are_replaced_alike_in_call_and_result() -> None:
    found = turns(
        text_message("user", "go"),
        text_message("assistant", call("functions.f:0"), call("functions.f.0")),
        text_message("tool", ToolResult("functions.f:0", ()), ToolResult("functions.f.0", ())),
    )
    ids = [block["id"] for block in found[1]["content"]]
    assert len(set(ids)) == 2 and all(re.fullmatch(r"[A-Za-z0-9_-]+", one) for one in ids)
    assert ids == [block["tool_use_id"] for block in found[2]["content"]]


def test_remembered_thoughts_stand_before_what_they_led_to() -> None:
    memory = Kept()
    thinking_memory.store(memory, "1", [Reasoning("first", signature="s1")])
    thinking_memory.store(memory, "2", [Reasoning("", redacted="x")])
    content = turns(text_message("user", "go"), text_message("assistant", "Text", call("1"), call("2")), memory=memory)[1]["content"]
    assert [block["type"] for block in content] == ["thinking", "text", "tool_use", "redacted_thinking", "tool_use"]


def test_the_clients_own_signed_thoughts_come_before_the_remembered() -> None:
    memory = Kept()
    thinking_memory.store(memory, "1", [Reasoning("old", signature="s1")])
    own = Reasoning("own", signature="s2")
    content = turns(text_message("user", "go"), text_message("assistant", own, call("1")), memory=memory)[1]["content"]
    assert content[0] == {"type": "thinking", "thinking": "own", "signature": "s2"} and len(content) == 2


def test_thoughts_that_nobody_signed_are_left_out_and_refusals_are_text() -> None:
    content = turns(text_message("user", "go"), text_message("assistant", Reasoning("Hm"), Refusal("No.")))[1]["content"]
    assert content == [text("No.")]


def test_images_and_documents_are_written() -> None:
    found = turns(text_message(
        "user", Image("data:image/jpg;base64,AAAA"), File("a.pdf", data="data:application/pdf;base64,JVBE"),
        File(url="https://a/b.pdf"), File("t.txt", data="data:text/plain;base64,aMOk"),
        File("p.png", data="data:image/png;base64,AAAA"),
    ))[0]["content"]  # fmt: skip
    assert found == [
        {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "AAAA"}},
        {"type": "document", "title": "a.pdf",
         "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}},
        {"type": "document", "source": {"type": "url", "url": "https://a/b.pdf"}},
        {"type": "document", "title": "t.txt", "source": {"type": "text", "media_type": "text/plain", "data": "hä"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
    ]  # fmt: skip


@pytest.mark.parametrize(
    "part",
    [Audio("AAAA", "wav"), File(file_id="file-1"), File(data="data:application/zip;base64,AAAA"), Image("ftp://a"),
     Image("data:image/png;base64,A*"), File(data="data:text/plain;base64,A")],
)  # fmt: skip
def test_what_cannot_be_carried_is_refused_with_its_message(part: Part) -> None:
    with pytest.raises(Refused) as refused:
        turns(text_message("user", part))
    assert refused.value.param == "messages[0]"


def loop(*messages: Message, memory: Kept | None = None) -> bool:
    history = History(memory or Kept(), "fill", last_calls(messages))
    for message in messages:
        history.add(message, "m")
    history.end()
    return history.loop_has_thoughts()


def test_whether_the_loop_has_thoughts() -> None:
    thought = Reasoning("Hm", signature="s")
    one, two = ToolResult("1", ()), ToolResult("2", ())
    assert loop(text_message("user", "go"))
    assert not loop(text_message("user", "go"), text_message("assistant", call("1")), text_message("tool", one))
    assert loop(text_message("user", "go"), text_message("assistant", thought, call("1")), text_message("tool", one))
    assert not loop(text_message("user", "go"), text_message("assistant", call("1")), text_message("tool", one),
                    text_message("assistant", thought, call("2")), text_message("tool", two))  # fmt: skip
    assert loop(text_message("user", "go"), text_message("assistant", call("1")), text_message("tool", one), text_message("assistant", "done"),
                text_message("user", "next"))  # fmt: skip


_parts = st.sampled_from([Text("a"), Text(""), Text(" "), Image("https://a/b.png"), Refusal("no")])
_messages = st.one_of(
    st.builds(Message, st.just("user"), st.lists(_parts, max_size=3).map(tuple)),
    st.builds(Message, st.sampled_from(["system", "developer"]), st.just((Text("s"),))),
    st.builds(Message, st.just("assistant"),
              st.lists(st.sampled_from([Text("a"), Text(" "), Reasoning("t", "s"), "call"]), max_size=3).map(tuple)),
    st.just("result"),
)  # fmt: skip


@given(st.lists(_messages, max_size=10))
def test_any_conversation_becomes_turns_that_the_api_takes(drawn: list[Any]) -> None:
    messages: list[Message] = []
    count, open_calls = 0, list[str]()
    for one in drawn:
        if one == "result":
            if open_calls:
                messages.append(Message("tool", (ToolResult(open_calls.pop(), (Text("r"),)),)))
            continue
        parts: list[Part] = []
        for part in one.parts:
            if part == "call":
                part = call(f"c{count}")
                count += 1
            parts.append(part)
        if any(isinstance(part, ToolCall) for part in parts):
            open_calls = [part.id for part in parts if isinstance(part, ToolCall)]
        elif one.role in ("user", "assistant"):
            open_calls = []
        messages.append(Message(one.role, tuple(parts)))
    found = turns(*messages)
    assert found[0]["role"] == "user"
    expected: list[str] = []
    for before, turn in zip([None, *found], found, strict=False):
        assert before is None or before["role"] != turn["role"]
        assert turn["content"]
        assert all(block["text"].strip() for block in turn["content"] if block["type"] == "text")
        if turn["role"] == "user":
            results = [block["tool_use_id"] for block in turn["content"] if block["type"] == "tool_result"]
            assert results == expected
            kinds = [block["type"] for block in turn["content"]]
            assert kinds[: len(results)] == ["tool_result"] * len(results)
        expected = [block["id"] for block in turn["content"] if block["type"] == "tool_use"]
    assert not expected
