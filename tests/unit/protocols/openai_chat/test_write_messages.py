"""Canonical messages in the order that strict endpoints demand, whatever order they came in."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.protocols import _json
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
from relayd.protocols.dialect import Options, Refused
from relayd.protocols.openai_chat.write_messages import RESULT_FOLLOWS, UNANSWERED, write_messages
from tests.aids.memories import Kept
from tests.unit.protocols.openai_chat.strict import offences


def text_message(role: str, *parts: Part | str) -> Message:
    return Message(role, tuple(Text(part) if isinstance(part, str) else part for part in parts))


def call(identity: str, name: str = "f", arguments: str = "{}", kind: str = "function") -> Message:
    return text_message("assistant", ToolCall(identity, name, arguments, kind))


def answer(identity: str, *parts: Any) -> Message:
    return Message("tool", (ToolResult(identity, tuple(Text(p) if isinstance(p, str) else p for p in parts)),))


def written(*messages: Message, memory: Kept | None = None, **options: Any) -> list[dict[str, Any]]:
    found = write_messages(messages, Options(**options), memory or Kept())
    assert offences(_json.write({"messages": found}), options.get("developer_role", False)) == []
    return found


def entry(identity: str, name: str = "f", arguments: str = "{}") -> dict[str, Any]:
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


USER = {"role": "user", "content": "u"}


def test_an_agents_items_become_turns() -> None:
    assert written(
        text_message("system", "s"), text_message("developer", "d"), text_message("user", "u", "v"), text_message("assistant", Reasoning("hm")),
        text_message("assistant", "I look"), call("a"), call("b", "g", ""), answer("a", "ra"), answer("b"), text_message("assistant", "done"),
    ) == [
        {"role": "system", "content": "s"}, {"role": "system", "content": "d"}, {"role": "user", "content": "u\nv"},
        {"role": "assistant", "content": "I look", "tool_calls": [entry("a"), entry("b", "g")]},
        {"role": "tool", "tool_call_id": "a", "content": "ra"}, {"role": "tool", "tool_call_id": "b", "content": ""},
        {"role": "assistant", "content": "done"},
    ]  # fmt: skip


def test_calls_and_answers_that_take_turns_stay_pairs() -> None:
    found = written(text_message("user", "u"), call("a"), answer("a", "1"), call("b"), answer("b", "2"))
    assert [one["role"] for one in found] == ["user", "assistant", "tool", "assistant", "tool"]


def test_an_answer_is_brought_behind_its_call() -> None:
    found = written(call("a"), text_message("user", "u"), answer("a", "late"))
    assert found == [{"role": "assistant", "tool_calls": [entry("a")]}, {"role": "tool", "tool_call_id": "a", "content": "late"}, USER]
    swapped = written(call("a"), call("b"), answer("b", "2"), answer("a", "1"))
    assert [one.get("content") for one in swapped[1:]] == ["1", "2"]


def test_ids_that_come_again_in_a_later_turn_find_their_own_answers() -> None:
    found = written(call("a"), answer("a", "1"), text_message("user", "u"), call("a"), answer("a", "2"))
    assert [one["content"] for one in found if one["role"] == "tool"] == ["1", "2"]


def test_a_call_without_a_result_is_filled_in_or_refused() -> None:
    for tail in ([], [text_message("user", "u")], [call("b"), answer("b")]):
        assert {"role": "tool", "tool_call_id": "a", "content": UNANSWERED} in written(text_message("user", "u"), call("a"), *tail)
    with pytest.raises(Refused, match="'a' has no result"):
        written(call("a"), text_message("user", "u"), unanswered_calls="refuse")


@pytest.mark.parametrize(
    "messages",
    [
        (text_message("user", "u"), answer("a")),
        (answer("a"), call("a")),
        (call("a"), answer("a"), answer("a")),
        (call("a"), answer("b")),
    ],
)
def test_a_result_without_a_call_is_refused(messages: tuple[Message, ...]) -> None:
    with pytest.raises(Refused, match="has no tool call before it"):
        written(*messages)


def test_images_of_tools_come_in_a_user_message_behind_the_block() -> None:
    image = Image("data:image/png;base64,AA", "low")
    found = written(call("a"), call("b"), answer("a", image), answer("b", "t", File("n", "data:a/b,", None, None)), text_message("user", "u"))
    assert [one["role"] for one in found] == ["assistant", "tool", "tool", "user", "user"]
    assert found[1]["content"] == RESULT_FOLLOWS and found[2]["content"] == "t"
    assert [part["type"] for part in found[3]["content"]] == ["text", "image_url", "text", "file"]
    assert found[3]["content"][1] == {"type": "image_url", "image_url": {"url": image.url, "detail": "low"}}


def test_a_refusal_stays_an_assistants_turn() -> None:
    assert written(text_message("user", "u"), text_message("assistant", Refusal("no")), text_message("user", "u"))[1] == {
        "role": "assistant", "refusal": "no",
    }  # fmt: skip


def test_a_custom_call_is_wrapped_as_its_tool_was() -> None:
    found = written(call("a", "patch", "*** Begin\n", "custom"), answer("a"))
    assert found[0]["tool_calls"] == [entry("a", "patch", '{"input":"*** Begin\\n"}')]


def test_thoughts_go_where_the_options_say() -> None:
    messages = (text_message("assistant", Reasoning("hm")), text_message("assistant", Reasoning("ha"), "x"), text_message("user", "u"))
    assert written(*messages)[0] == {"role": "assistant", "content": "x"}
    assert written(*messages, reasoning_history="reasoning_content")[0]["reasoning_content"] == "hm\n\nha"
    assert written(text_message("user", "u"), text_message("assistant", Reasoning("hm")), reasoning_history="reasoning_content") == [USER]


def test_the_developer_keeps_the_role_where_the_endpoint_knows_it() -> None:
    assert written(text_message("developer", "d"), developer_role=True) == [{"role": "developer", "content": "d"}]


def test_what_is_empty_is_left_out() -> None:
    assert written(text_message("system", ""), text_message("user", "u"), text_message("assistant", " "), text_message("assistant")) == [USER]
    with pytest.raises(Refused):
        written(text_message("system", ""))


def test_two_assistant_texts_are_one_turn() -> None:
    assert written(text_message("assistant", "a"), text_message("assistant", "b"))[0]["content"] == "a\n\nb"


def test_media_of_users_are_parts() -> None:
    [found] = written(text_message("user", "t", "", Image("u"), Audio("AA", "wav"), File("n", None, None, "f-1")))
    assert found["content"] == [
        {"type": "text", "text": "t"}, {"type": "image_url", "image_url": {"url": "u"}},
        {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}, {"type": "file", "file": {"filename": "n", "file_id": "f-1"}},
    ]  # fmt: skip


@pytest.mark.parametrize(
    "message", [text_message("user", File("n", None, "https://x/y.pdf")), text_message("system", Image("u")), text_message("user", Refusal("x")), text_message("boss", "x")]
)
def test_what_cannot_be_carried_is_refused(message: Message) -> None:
    with pytest.raises(Refused):
        written(message)


def test_a_signature_comes_from_the_call_or_from_memory() -> None:
    memory = Kept()
    memory.put("thought_signature:a", "remembered")
    found = written(
        text_message("assistant", ToolCall("a", "f", "{}"), ToolCall("b", "f", "{}", signature="own")), answer("a"), answer("b"), memory=memory
    )
    assert [one["extra_content"]["google"]["thought_signature"] for one in found[0]["tool_calls"]] == ["remembered", "own"]


IDS = st.sampled_from("abc")
TURN = st.one_of(
    st.builds(lambda text: text_message("user", text), st.text(max_size=2)),
    st.builds(lambda url: text_message("user", Image(url), ""), st.just("u")),
    st.builds(lambda text: text_message("system", text), st.text(max_size=2)),
    st.builds(lambda text: text_message("developer", text), st.text(max_size=2)),
    st.builds(lambda text: text_message("assistant", text), st.text(max_size=2)),
    st.just(text_message("assistant", Reasoning("hm"))),
    st.just(text_message("assistant", Refusal("no"))),
    st.just(text_message("assistant")),
    st.builds(call, IDS, st.just("f"), st.sampled_from(["", "{}", "x"]), st.sampled_from(["function", "custom"])),
    st.builds(lambda one, two: text_message("assistant", ToolCall(one, "f", "{}"), "t", ToolCall(two + "2", "g", "")), IDS, IDS),
    st.builds(lambda one: answer(one, "r"), IDS),
    st.builds(lambda one: answer(one + "2", Image("u")), IDS),
)


@settings(max_examples=500)
@given(st.lists(TURN, max_size=10), st.booleans(), st.sampled_from(["drop", "reasoning_content"]))
def test_no_order_of_turns_gives_what_a_strict_endpoint_refuses(turns: list[Message], developer: bool, history: str) -> None:
    options = Options(developer_role=developer, reasoning_history=history)
    try:
        found = write_messages(turns, options, Kept())
    except Refused:
        return
    for message in found:
        message.pop("reasoning_content", None)
    assert offences(_json.write({"messages": found}), developer) == []
    calls = [part.id for turn in turns for part in turn.parts if isinstance(part, ToolCall)]
    assert [entry["id"] for message in found for entry in message.get("tool_calls", ())] == calls


@pytest.mark.parametrize(("arguments", "sent"), [("null", "{}"), ("", "{}"), ('{"a":"half', '{"unparsed_arguments":"{\\"a\\":\\"half"}'), ('{ "a":1}', '{ "a":1}')])
def test_arguments_that_no_endpoint_could_read_end_no_conversation(arguments: str, sent: str) -> None:
    messages = written(text_message("user", "go"), call("c1", arguments=arguments), answer("c1", "r"))
    assert messages[1]["tool_calls"] == [entry("c1", arguments=sent)]
