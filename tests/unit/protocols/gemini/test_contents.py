"""Conversations as Gemini takes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from relayd.protocols.canon import Audio, File, Image, Message, Reasoning, Refusal, Request, Text, ToolCall, ToolResult
from relayd.protocols.dialect import Refused

PNG = "data:image/png;base64,QUJD"


def text_message(role: str, *texts: str) -> Message:
    return Message(role, tuple(Text(text) for text in texts))


def called(*calls: tuple[str, str, str], text: str = "") -> Message:
    parts = tuple(ToolCall(id=one[0], name=one[1], arguments=one[2]) for one in calls)
    return Message("assistant", ((Text(text),) if text else ()) + parts)


def answered(call_id: str, text: str, **members: bool) -> Message:
    return Message("tool", (ToolResult(call_id, (Text(text),), **members),))


def test_roles_in_a_row_are_one_content_and_system_stands_apart(context: Callable[..., Request], write: Callable[..., dict[str, Any]]) -> None:
    body = write(context(
        text_message("system", "Be", "kind"), text_message("user", "a"), text_message("user", "b"), text_message("developer", "and short"),
        text_message("assistant", "c"), text_message("assistant", "d"), text_message("user", "e"),
    ))  # fmt: skip
    assert body["systemInstruction"] == {"parts": [{"text": "Be"}, {"text": "kind"}, {"text": "and short"}]}
    assert body["contents"] == [
        {"role": "user", "parts": [{"text": "a"}, {"text": "b"}]},
        {"role": "model", "parts": [{"text": "c"}, {"text": "d"}]},
        {"role": "user", "parts": [{"text": "e"}]},
    ]


def test_a_conversation_of_instructions_alone_is_a_question(context: Callable[..., Request], write: Callable[..., dict[str, Any]]) -> None:
    assert write(context(text_message("system", "Say hi"))) == {"contents": [{"role": "user", "parts": [{"text": "Say hi"}]}]}
    with pytest.raises(Refused):
        write(context(text_message("system", "")))


def test_nothing_empty_is_sent(context: Callable[..., Request], write: Callable[..., dict[str, Any]]) -> None:
    body = write(context(text_message("user", "", "a"), text_message("assistant", ""), text_message("user", ""), text_message("assistant")))
    assert body["contents"] == [{"role": "user", "parts": [{"text": "a"}, {"text": " "}]}]


def test_answers_have_the_names_of_their_calls_and_stand_in_one_content(context: Callable[..., Request], write: Callable[..., dict[str, Any]]) -> None:
    body = write(context(
        text_message("user", "go"),
        called(("1", "look", '{"x": 1}'), ("2", "find", ""), text="Well,"),
        answered("2", "found"), answered("1", '{"seen": true}'),
        text_message("user", "and?"),
    ))  # fmt: skip
    calls, answers = body["contents"][1:3]
    assert calls["role"] == "model" and calls["parts"][0] == {"text": "Well,"}
    assert calls["parts"][1]["functionCall"] == {"name": "look", "args": {"x": 1}, "id": "1"}
    assert calls["parts"][2]["functionCall"] == {"name": "find", "args": {}, "id": "2"}
    assert answers == {
        "role": "user",
        "parts": [
            {"functionResponse": {"name": "look", "response": {"seen": True}, "id": "1"}},
            {"functionResponse": {"name": "find", "response": {"result": "found"}, "id": "2"}},
            {"text": "and?"},
        ],
    }


def test_models_before_3_get_no_ids(context: Callable[..., Request], write: Callable[..., dict[str, Any]]) -> None:
    body = write(context(called(("1", "look", "{}")), answered("1", "x"), model="gemini-2.5-flash"))
    assert body["contents"][0]["parts"] == [{"functionCall": {"name": "look", "args": {}}}]
    assert body["contents"][1]["parts"] == [{"functionResponse": {"name": "look", "response": {"result": "x"}}}]


def test_ids_that_an_endpoint_gives_again_and_again_find_their_own_answers(context: Callable[..., Request], write: Callable[..., dict[str, Any]]) -> None:
    body = write(context(
        called(("0", "a", "{}")), answered("0", "first"), called(("0", "b", "{}")), answered("0", "second"),
    ))  # fmt: skip
    found = [part["functionResponse"] for turn in body["contents"] if turn["role"] == "user" for part in turn["parts"]]
    assert [(one["name"], one["response"]["result"]) for one in found] == [("a", "first"), ("b", "second")]


def test_a_call_without_an_answer_gets_one_or_is_refused(context: Callable[..., Request], write: Callable[..., dict[str, Any]]) -> None:
    request = context(called(("1", "a", "{}"), ("2", "b", "{}")), answered("1", "x"), text_message("user", "go on"))
    parts = write(request)["contents"][1]["parts"]
    assert parts[1]["functionResponse"]["name"] == "b" and "error" in parts[1]["functionResponse"]["response"]
    with pytest.raises(Refused, match="'2'"):
        write(request, unanswered_calls="refuse")


def test_an_answer_without_a_call_is_refused(context: Callable[..., Request], write: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(Refused, match="'9'") as refused:
        write(context(text_message("user", "a"), answered("9", "x")))
    assert refused.value.param == "messages"


@pytest.mark.parametrize(
    ("text", "response"),
    [
        ("", {"result": ""}),
        ("[1]", {"result": "[1]"}),
        ('{"a": 1', {"result": '{"a": 1'}),
        ('{"a": NaN}', {"result": '{"a": NaN}'}),
        (' {"a": {}}', {"a": {}}),
        ('{"a":' * 80 + "1" + "}" * 80, {"result": '{"a":' * 80 + "1" + "}" * 80}),
    ],
)
def test_an_answer_is_an_object_or_wrapped_into_one(context: Callable[..., Request], write: Callable[..., dict[str, Any]], text: str, response: object) -> None:
    body = write(context(called(("1", "a", "{}")), answered("1", text)))
    assert body["contents"][1]["parts"][0]["functionResponse"]["response"] == response


def test_a_failed_tool_result_is_an_error(context: Callable[..., Request], write: Callable[..., dict[str, Any]]) -> None:
    body = write(context(called(("1", "a", "{}")), answered("1", '{"a":1}', is_error=True)))
    assert body["contents"][1]["parts"][0]["functionResponse"]["response"] == {"error": '{"a":1}'}


def test_images_of_answers_stand_behind_all_answers(context: Callable[..., Request], write: Callable[..., dict[str, Any]]) -> None:
    shot = Message("tool", (ToolResult("1", (Text("see"), Image(PNG))),))
    body = write(context(called(("1", "a", "{}"), ("2", "b", "{}")), shot, answered("2", "x")))
    first, second, image = body["contents"][1]["parts"]
    assert "functionResponse" in first and "functionResponse" in second
    assert image == {"inlineData": {"mimeType": "image/png", "data": "QUJD"}}


@pytest.mark.parametrize("arguments", ["[]", "{oops", '"x"', "null", "1", "{'a': 1}"])
def test_arguments_that_are_no_object_are_shown_and_end_no_conversation(context: Callable[..., Request], write: Callable[..., dict[str, Any]], arguments: str) -> None:
    body = write(context(text_message("user", "a"), called(("1", "a", arguments)), answered("1", "x")))
    shown = {} if arguments == "null" else {"unparsed_arguments": arguments}
    assert body["contents"][1]["parts"][0]["functionCall"]["args"] == shown


def test_a_custom_call_is_a_function_of_one_text(context: Callable[..., Request], write: Callable[..., dict[str, Any]]) -> None:
    message = Message("assistant", (ToolCall("1", "patch", "*** Begin", "custom"),))
    body = write(context(message, answered("1", "done")))
    assert body["contents"][0]["parts"][0]["functionCall"]["args"] == {"input": "*** Begin"}


def test_media_go_as_they_are_and_addresses_are_not_fetched(context: Callable[..., Request], write: Callable[..., dict[str, Any]]) -> None:
    message = Message("user", (
        Text("see"), Image(PNG), Image("https://example.org/cat.webp", "low"), Image("https://example.org/cat"),
        File("a.pdf", "data:application/pdf;base64,QQ=="), File(url="gs://bucket/a.pdf"), Audio("QQ==", "mp3"),
    ))  # fmt: skip
    assert write(context(message))["contents"][0]["parts"][1:] == [
        {"inlineData": {"mimeType": "image/png", "data": "QUJD"}},
        {"fileData": {"mimeType": "image/webp", "fileUri": "https://example.org/cat.webp"}},
        {"fileData": {"mimeType": "image/jpeg", "fileUri": "https://example.org/cat"}},
        {"inlineData": {"mimeType": "application/pdf", "data": "QQ=="}},
        {"fileData": {"mimeType": "application/pdf", "fileUri": "gs://bucket/a.pdf"}},
        {"inlineData": {"mimeType": "audio/mp3", "data": "QQ=="}},
    ]


@pytest.mark.parametrize("part", [Image("data:image/png;base64,%%%"), Image("file:///etc/passwd"), File(file_id="f-1")])
def test_unsupported_media_are_refused_with_their_path(context: Callable[..., Request], write: Callable[..., dict[str, Any]], part: Any) -> None:
    with pytest.raises(Refused) as refused:
        write(context(text_message("user", "a"), Message("user", (part,))))
    assert refused.value.param == "messages[1].content"


def test_a_system_message_takes_text_only(context: Callable[..., Request], write: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(Refused):
        write(context(Message("system", (Image(PNG),)), text_message("user", "a")))


def test_thoughts_of_the_history_stay_behind_and_refusals_are_text(context: Callable[..., Request], write: Callable[..., dict[str, Any]]) -> None:
    message = Message("assistant", (Reasoning("hm", "proof of another"), Refusal("I will not.")))
    body = write(context(text_message("user", "a"), message, text_message("user", "b")))
    assert body["contents"][1] == {"role": "model", "parts": [{"text": "I will not."}]}
