"""Compaction: a long conversation is summarised, sealed, and continued."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from relayd.protocols.canon import Begin, End, Event, Failure, Finish, Request, Text, TextDelta, Usage
from relayd.protocols.dialect import EncodedResponse, Refused, RequestContext
from relayd.protocols.openai_responses import DIALECT
from relayd.protocols.openai_responses.compaction import MAX_RETAINED_USER_BYTES
from tests.aids.memories import Kept
from tests.unit.protocols.openai_responses.harness import HELLO, make_context, plain, read, refusal

SUMMARY: list[Event] = [Begin(), TextDelta("They spoke "), TextDelta("of cats."), Finish("stop"), Usage(9, 4), End()]
HISTORY = [
    {"role": "developer", "content": "rules"},
    {"role": "user", "content": [{"type": "input_text", "text": "hi"}, {"type": "input_image", "image_url": "data:x"}]},
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
    {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"at":"cat"}'},
    {"type": "function_call_output", "call_id": "c1", "output": "a cat"},
    {"role": "assistant", "content": "It is a cat."},
    {"role": "user", "content": "and now?"},
]


def compact(events: list[Event], context: RequestContext | None = None, **members: Any) -> tuple[Request, EncodedResponse]:
    context = context or make_context("/v1/responses/compact")
    request = read(context, **members)
    assert DIALECT.renderer is not None
    renderer = DIALECT.renderer(request, context)
    assert renderer.render(events) == b"" and renderer.keepalive() == b""
    return request, renderer.response()


def test_the_conversation_is_shown_as_one_text_without_tools() -> None:
    request, _ = compact(SUMMARY, input=HISTORY, instructions="be brief")
    assert [message.role for message in request.messages] == ["system", "user"] and not request.tools
    assert not request.stream
    [shown] = request.messages[1].parts
    assert isinstance(shown, Text)
    for text in ("be brief", "rules", "hi", "(an image)", "hm", 'look {"at":"cat"}', "a cat", "It is a cat.", "and now?"):
        assert text in shown.text


def test_the_answer_retains_instructions_and_user_messages_and_seals_the_summary() -> None:
    _, answer = compact(SUMMARY, input=HISTORY)
    body = json.loads(answer.body)
    assert answer.status == 200 and body["object"] == "response.compaction" and body["id"] and body["created_at"]
    assert [(item["type"], item.get("role")) for item in body["output"]] == [
        ("message", "developer"), ("message", "user"), ("message", "user"), ("compaction", None)]  # fmt: skip
    assert body["usage"] == {
        "input_tokens": 9, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0}, "output_tokens": 4,
        "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 13,
    }  # fmt: skip
    assert b"cats" not in answer.body and all(item["id"] for item in body["output"])


def test_the_output_can_be_sent_as_input() -> None:
    _, answer = compact(SUMMARY, input=HISTORY)
    output = json.loads(answer.body)["output"]
    for context in (make_context(), make_context(socket=Kept())):
        messages = read(context, input=[*output, {"role": "user", "content": "go on"}]).messages
        assert [message.role for message in messages] == ["developer", "user", "user", "user", "user"]
        [summary] = messages[3].parts
        assert isinstance(summary, Text) and summary.text.endswith("They spoke of cats.")


def test_a_compacted_conversation_can_be_compacted_again() -> None:
    _, answer = compact(SUMMARY, input=HISTORY)
    request, again = compact(SUMMARY, input=json.loads(answer.body)["output"])
    [shown] = request.messages[1].parts
    assert isinstance(shown, Text) and "They spoke of cats." in shown.text
    assert [item["type"] for item in json.loads(again.body)["output"]].count("compaction") == 1


def test_a_stored_response_can_be_compacted_without_input() -> None:
    memory = Kept()
    first = plain(HELLO, make_context(memory=memory), input="one")
    context = make_context("/v1/responses/compact", memory=memory)
    request, answer = compact(SUMMARY, context, input=..., previous_response_id=first["id"])
    assert answer.status == 200 and "one" in str(request.messages[1].parts) and "Hello" in str(request.messages[1].parts)


def test_the_oldest_user_messages_are_dropped() -> None:
    long = [{"role": "user", "content": f"{number} " + "x" * 10_000} for number in range(10)]
    _, answer = compact(SUMMARY, input=long)
    messages = [item for item in json.loads(answer.body)["output"] if item["type"] == "message"]
    assert [item["content"][0]["text"][0] for item in messages] == ["7", "8", "9"]
    assert sum(len(item["content"][0]["text"]) for item in messages) < MAX_RETAINED_USER_BYTES


@pytest.mark.parametrize(("members", "param"), [({"model": ...}, "model"), ({"input": ...}, "input"), ({"input": []}, "input"),
                                                ({"previous_response_id": "none"}, "previous_response_id")])  # fmt: skip
def test_invalid_compaction_requests_are_refused(members: dict[str, Any], param: str) -> None:
    assert refusal(make_context("/v1/responses/compact"), **members).param == param


def test_without_a_key_there_is_no_compaction() -> None:
    context = dataclasses.replace(make_context("/v1/responses/compact"), seal_key=b"")
    with pytest.raises(Refused):
        read(context)


@pytest.mark.parametrize("change", [lambda text: text[:-4] + "AAAA", lambda text: "gAAAAAB" + text, lambda text: ""])
def test_a_foreign_or_damaged_item_is_refused_with_a_reason(change: Any) -> None:
    _, answer = compact(SUMMARY, input=HISTORY)
    item = json.loads(answer.body)["output"][-1]
    refused = refusal(input=[item | {"encrypted_content": change(item["encrypted_content"])}])
    assert refused.param == "input[0].encrypted_content" and "cannot be decrypted" in refused.message


def test_another_servers_item_is_refused() -> None:
    _, answer = compact(SUMMARY, input=HISTORY)
    other = dataclasses.replace(make_context(), seal_key=b"another key of enough bytes")
    assert refusal(other, input=json.loads(answer.body)["output"]).code == "invalid_compaction"


def test_a_failure_is_an_error_answer() -> None:
    _, answer = compact([Begin(), TextDelta("half"), Failure(429, "Slow.", retry_after_s=2)], input="x")
    assert answer.status == 429 and ("Retry-After", "2") in answer.headers


def test_an_empty_summary_is_a_failure() -> None:
    _, answer = compact([Begin(), TextDelta(" "), End()], input="x")
    assert answer.status == 502
