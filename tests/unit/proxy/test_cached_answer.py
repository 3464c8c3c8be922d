"""The form of answers in the store, and which answers are complete."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.protocols import registry
from relayd.protocols.dialect import run_steps
from relayd.proxy.cached_answer import PIECE_BYTES, CachedAnswer, from_json, is_complete_steps, to_json
from relayd.usage import Usage
from relayd.wire.json_steps import parse_text_steps, write_ascii_steps

ANSWER = CachedAnswer(1000.5, "application/json", (2, 3), b"abcde", Usage(5, 4, 3, 2, 1), "m")


def stored(found: CachedAnswer) -> Any:
    """The value as a store gives it back."""
    return run_steps(parse_text_steps(run_steps(write_ascii_steps(to_json(found)))))


@given(st.lists(st.binary(min_size=1, max_size=9), max_size=9), st.binary(min_size=1, max_size=9))
def test_every_body_comes_back_in_its_pieces(pieces: list[bytes], rest: bytes) -> None:
    found = CachedAnswer(1.0, "text/event-stream", tuple(map(len, pieces)), b"".join(pieces) + rest)
    back = from_json(stored(found))
    assert back == found and list(back.pieces()) == [*pieces, rest]


def test_usage_and_model_come_back_and_a_long_rest_is_cut() -> None:
    assert from_json(stored(ANSWER)) == ANSWER
    long = CachedAnswer(1.0, "text/event-stream", (1,), b"x" * (2 * PIECE_BYTES + 2))
    assert [len(piece) for piece in long.pieces()] == [1, PIECE_BYTES, PIECE_BYTES, 1]


@pytest.mark.parametrize("change", [
    {"version": 2}, {"at": "1"}, {"type": None}, {"type": "a\r\nX: y"}, {"type": "é"}, {"sizes": [9]}, {"sizes": [0]}, {"sizes": ["1"]}, {"sizes": None},
    {"body": None}, {"body": "\ud800"}, {"body": ""}, {"type": ""}, {"at": float("nan")}, {"at": float("inf")}, {"at": 10**400}, {"at": -1.0},
], ids=repr)  # fmt: skip
def test_a_value_that_somebody_else_wrote_is_no_answer(change: dict[str, Any]) -> None:
    assert from_json(to_json(ANSWER) | change) is None
    assert from_json([]) is None and from_json(None) is None


@pytest.mark.parametrize("usage", [{"input": -1}, {"input": "1"}, {"input": 10**40}, 5, {}], ids=str)
def test_a_usage_of_another_form_is_none(usage: object) -> None:
    found = from_json(to_json(ANSWER) | {"usage": usage})
    assert found is not None and found.usage is None


def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def frames(*chunks: Any, done: bool = True) -> bytes:
    return b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in chunks) + (b"data: [DONE]\n\n" if done else b"")


def whole(finish: str = "stop", **message: Any) -> bytes:
    return json.dumps({"id": "c", "object": "chat.completion", "model": "m", "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "x"} | message, "finish_reason": finish}]}).encode()


CALL = [{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
GOOD = {
    "stream": (frames(chunk(role="assistant"), chunk(content="x"), chunk("stop")), True),
    "calls": (frames(chunk(tool_calls=CALL), chunk("tool_calls")), True),
    "length": (frames(chunk(content="x" * 9000), chunk("length")), True),
    "plain": (whole(), False),
}
BAD = {
    "cut": (frames(chunk(content="x"), done=False), True), "in the middle of a frame": (GOOD["stream"][0][:-30], True),
    "filtered": (frames(chunk(content="x"), chunk("content_filter")), True), "empty": (frames(chunk("stop")), True),
    "an error": (frames(chunk(content="x"), {"error": {"message": "overloaded"}}), True), "filtered plain": (whole("content_filter"), False),
    "no content": (whole(content=""), False), "an error object": (b'{"error": {"message": "x"}}', False), "a page": (b"<html>", False), "nothing": (b"", False),
    "cut plain": (whole()[:-9], False),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_complete_answers(name: str) -> None:
    body, stream = GOOD[name]
    assert run_steps(is_complete_steps(registry.load("openai_chat"), body, stream)) is True


@pytest.mark.parametrize("name", BAD)
def test_answers_that_are_not_kept(name: str) -> None:
    body, stream = BAD[name]
    assert run_steps(is_complete_steps(registry.load("openai_chat"), body, stream)) is False


def test_every_beginning_of_a_stream_is_incomplete() -> None:
    body = GOOD["stream"][0]
    last = body.rindex(b'"finish_reason": "stop"')
    complete = [cut for cut in range(len(body)) if run_steps(is_complete_steps(registry.load("openai_chat"), body[:cut], True))]
    assert all(cut > last for cut in complete)
