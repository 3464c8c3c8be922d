"""The end of a translated response: complete, truncated, or longer than one turn of the loop."""

from __future__ import annotations

import json

import pytest

from relayd.plan.plan import Target
from relayd.protocols.anthropic_messages import DIALECT as MESSAGES
from relayd.protocols.openai_chat import DIALECT as CHAT
from relayd.proxy.ai_request import AiRequest
from relayd.proxy.filters.translate import Translate
from relayd.proxy.request_context import context_of
from relayd.stores.memory import Store
from relayd.wire.response import ResponseHead
from tests.unit.proxy.fakes import head_for, plan_of
from tests.unit.proxy.scripted_endpoints import DONE, completion, delta

PLAN = plan_of("""
listeners: {public: {address: "127.0.0.1:8282"}}
upstreams: {a: {protocol: openai_chat, endpoints: ["http://origin.example:9001"]}}
routes: [{name: all, protocol: anthropic_messages, upstream: a}]
""")
TARGET = Target(PLAN.upstreams["a"], dialect=CHAT)


def translate(is_stream: bool, holds: bool = False) -> tuple[Translate, AiRequest]:
    """The filter for a client of Messages before an endpoint of Chat Completions."""
    body = {"model": "m", "max_tokens": 9, "stream": is_stream, "messages": [{"role": "user", "content": "hi"}]}
    head = head_for("Content-Type: application/json", start="POST /v1/messages HTTP/1.1")
    memory = Store(10, 1000, 60.0).space("x")
    asked = AiRequest(MESSAGES, head, json.dumps(body).encode(), lambda: context_of(head, b"id", memory, b""))
    assert CHAT.reader is not None
    return Translate(asked, CHAT.reader(asked.request, TARGET.upstream.spec.dialect, memory), holds), asked


def processed(filter_: Translate, data: bytes) -> bytes:
    """The output for this data, in as many turns as it takes."""
    out = filter_.process(data)
    while filter_.unfinished:
        out += filter_.process(b"")
    return out


def rest_of(filter_: Translate) -> bytes:
    """Everything from `finish` on, called as an attempt calls it."""
    out = filter_.finish()
    while filter_.unfinished:
        out += processed(filter_, b"") + filter_.finish()
    return out


def test_a_stream_that_has_ended_has_nothing_more_to_say() -> None:
    filter_, _ = translate(is_stream=True)
    out = processed(filter_, delta(content="hello") + delta("stop") + DONE)
    out += rest_of(filter_)
    assert filter_.failure is None and b"hello" in out and out.count(b"event: message_stop") == 1


def test_a_stream_that_was_cut_behind_content_ends_with_an_error_and_never_cleanly() -> None:
    filter_, asked = translate(is_stream=True)
    out = processed(filter_, delta(content="hel")) + rest_of(filter_)
    assert filter_.failure is not None and filter_.failure.code == "upstream_cut" and asked.failure_rendered
    assert b"hel" in out and b"event: error" in out and b"message_stop" not in out


def test_a_stream_that_was_cut_before_content_shows_nothing_so_that_another_attempt_may_follow() -> None:
    filter_, asked = translate(is_stream=True, holds=True)
    assert processed(filter_, delta(role="assistant")) == b"" and rest_of(filter_) == b""
    assert filter_.failure is not None and filter_.failure.code == "upstream_cut"
    assert not asked.failure_rendered and not asked.content_rendered


@pytest.mark.parametrize("size", [5, 300_000])
def test_a_plain_response_is_rendered_at_its_end_with_its_own_head(size: int) -> None:
    filter_, _ = translate(is_stream=False)
    body = processed(filter_, json.dumps(completion("x" * size)).encode())
    assert body == b""
    body = rest_of(filter_)
    head = filter_.head(ResponseHead(200, b""))
    assert head.status == 200 and head.length == len(body)
    assert json.loads(body)["content"] == [{"type": "text", "text": "x" * size}] and filter_.finish_reason == "stop"


def test_a_plain_response_that_was_cut_is_a_failure_without_a_body() -> None:
    filter_, _ = translate(is_stream=False)
    body = processed(filter_, json.dumps(completion("hello")).encode()[:-9])
    assert body + rest_of(filter_) == b""
    assert filter_.failure is not None
