"""What counts as a difference of two responses, by media type and dialect."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relayd.cli.replay_difference import COMPARED, Difference


def document(body: bytes, *fields: str, status: int = 200, dialect: str = "", **members: Any) -> dict[str, Any]:
    kept = {"size": len(body), "missing": 0, "masked": False, "pieces": [], "pieces_omitted": 0, "text": body.decode()} | members
    record = {"upstream": "up", "first_byte_ms": 1.0, "total_ms": 2.0}
    return {"record": record, "request": {"dialect": dialect},
            "response": {"status": status, "fields": list(fields), "body": kept}}


JSON = "Content-Type: application/json"


@pytest.mark.parametrize(("first", "second", "same"), [
    (document(b'{"a":1,"b":2}', JSON), document(b'{"b": 2, "a": 1}', JSON), True),
    (document(b'{"a":1}', JSON), document(b'{"a":2}', JSON), False),
    (document(b"text", "Content-Type: text/plain"), document(b"text", "content-type: text/plain; charset=x"), True),
    (document(b"text", "Content-Type: text/plain"), document(b"text", "Content-Type: text/html"), False),
    (document(b"x"), document(b"x", status=500), False), (document(b""), document(b""), True),
    (document(b"x", "X-A: 1", "Date: now"), document(b"x", "X-A: 2", "Date: then"), True),
])
def test_status_media_type_and_content_decide(first: dict[str, Any], second: dict[str, Any], same: bool) -> None:
    assert Difference(first, second).is_same is same
    assert ("the same" in "\n".join(Difference(first, second).lines())) is same


def test_fields_are_shown_except_those_that_always_differ() -> None:
    found = list(Difference(document(b"", "X-A: 1", "Date: a", "Only: x"), document(b"", "X-A: 2", "Date: b")).fields())
    assert found == [("only", "x", ""), ("x-a", "1", "2")]


def chat(text: str, identity: str, finish: str = "stop", **message: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
    return json.dumps({"id": identity, "created": 1, "model": "m", "object": "chat.completion", "choices": [choice]}).encode()


def test_ai_responses_are_compared_by_what_they_say() -> None:
    def compared(first: bytes, second: bytes) -> Difference:
        return Difference(*(document(one, JSON, dialect="openai_chat") for one in (first, second)))

    assert compared(chat("hi", "1"), chat("hi", "2")).is_same
    assert not compared(chat("hi", "1"), chat("ho", "1")).is_same
    assert not compared(chat("hi", "1"), chat("hi", "1", "length")).is_same
    call = {"tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}]}
    other = {"tool_calls": [{"id": "d", "type": "function", "function": {"name": "f", "arguments": '{"a":2}'}}]}
    assert not compared(chat("", "1", "tool_calls", **call), chat("", "1", "tool_calls", **other)).is_same
    assert "+ho" in compared(chat("hi", "1"), chat("ho", "1")).body_diff()


def test_of_very_long_contents_the_first_lines_are_shown_and_all_count() -> None:
    lines = [str(number) for number in range(COMPARED)]
    first, second = (document("\n".join([*lines, end]).encode()) for end in ("a", "b"))
    found = Difference(first, second)
    assert not found.is_same and found.body_diff() == [f"... lines after the first {COMPARED} are not shown; they count for the result"]
    same = Difference(first, first)
    assert same.is_same and same.body_diff() == []


def test_a_body_that_was_cut_is_not_compared() -> None:
    found = Difference(document(b"x", size=100, missing=99), document(b"x"))
    assert found.incomplete == "99 of 100 bytes of the captured response were not kept"
