"""What relayd answers itself: HEAD, and the estimate of tokens."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relayd.protocols.anthropic_messages.local import local
from relayd.protocols.dialect import EncodedResponse
from tests.unit.protocols.anthropic_messages.grammar import context


def count(**members: Any) -> int:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello, world"}]} | members
    answer = local(context(path="/v1/messages/count_tokens"), json.dumps(body).encode())
    assert answer is not None and answer.status == 200
    value = json.loads(answer.body)
    assert value.keys() == {"input_tokens"}
    return int(value["input_tokens"])


@pytest.mark.parametrize("path", ["/", "/v1/messages", "/v1/messages/count_tokens", "/team/v1/messages", "/v1"])
def test_head_is_answered_at_once(path: str) -> None:
    assert local(context("HEAD", path), b"") == EncodedResponse(200, b"")


def test_everything_else_goes_on() -> None:
    assert local(context("POST", "/v1/messages"), b"{}") is None
    assert local(context("GET", "/"), b"") is None
    assert local(context("HEAD", "/index.html"), b"") is None


def test_a_short_text_counts_a_token_for_four_letters() -> None:
    assert count() == 4 + 3


def test_more_is_never_less() -> None:
    schema = {"type": "object", "properties": {"path": {"type": "string"}}}
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 40}}
    document = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "A" * 400_000}}
    assert count(system="You are brief.") > count()
    assert count(tools=[{"name": "read", "input_schema": schema}]) >= count() + 15
    assert count(messages=[{"role": "user", "content": [image]}]) > 1000
    assert count(messages=[{"role": "user", "content": [document]}]) > 10_000
    assert count(messages=[{"role": "user", "content": "日本語のテキスト"}]) >= 4 + 6


def test_tool_loops_are_counted() -> None:
    call = {"type": "tool_use", "id": "a", "name": "f", "input": {"x": "y" * 400}}
    result = {"type": "tool_result", "tool_use_id": "a", "content": "z" * 400}
    turns = [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
    assert 200 < count(messages=turns) < 250


def test_an_invalid_request_is_refused_with_the_dialects_error() -> None:
    answer = local(context(path="/v1/messages/count_tokens"), b'{"model":"m"}')
    assert answer is not None and answer.status == 400
    error = json.loads(answer.body)
    assert error["error"]["type"] == "invalid_request_error" and "messages" in error["error"]["message"]
    assert error["request_id"] == "req_1"
