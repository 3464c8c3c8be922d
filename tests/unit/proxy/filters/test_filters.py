"""Single filters: the data they hold, the results they report, and their order."""

from __future__ import annotations

from typing import Any

import pytest

from relayd import clock
from relayd.plan.plan import Target
from relayd.protocols import _chat_usage
from relayd.protocols.openai_chat import DIALECT
from relayd.proxy.ai_request import AiRequest
from relayd.proxy.filters import hold_first_content
from relayd.proxy.filters.chain import chain_for, invalid_answer
from relayd.proxy.filters.drop_usage_chunk import DropUsageChunk
from relayd.proxy.filters.hold_first_content import HoldFirstContent
from relayd.proxy.filters.keepalive import KeepAlive
from relayd.proxy.filters.tap_usage import TapUsage
from relayd.proxy.request_context import context_of
from relayd.stores.memory import Store
from relayd.wire.response import ResponseHead
from tests.unit.proxy.fakes import head_for, plan_of
from tests.unit.proxy.scripted_endpoints import DONE, chunk, delta

PLAN = plan_of("""
listeners: {public: {address: "127.0.0.1:8282"}}
upstreams: {a: {protocol: openai_chat, endpoints: ["http://origin.example:9001"]}}
routes: [{name: all, upstream: a}]
""")
BODY = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}'


def ai_request(body: bytes = BODY) -> AiRequest:
    head = head_for("Content-Type: application/json", start="POST /v1/chat/completions HTTP/1.1")
    memory = Store(10, 1000, 60.0).space("x")
    return AiRequest(DIALECT, head, body, lambda: context_of(head, b"id", memory, b""))


def response(kind: str = "text/event-stream", **members: Any) -> ResponseHead:
    made = ResponseHead(200, b"")
    made.type_line = f"Content-Type: {kind}\r\n".encode()
    for name, value in members.items():
        setattr(made, name, value)
    return made


def target() -> Target:
    return Target(PLAN.upstreams["a"], dialect=DIALECT)


def holding() -> HoldFirstContent:
    asked = ai_request()
    assert DIALECT.reader is not None
    return HoldFirstContent(DIALECT.reader(asked.request, target().upstream.spec.dialect, asked.context.memory))


def test_the_order_is_stated_once() -> None:
    asked = ai_request()
    asked.requests_usage = True
    asked.keepalive = KeepAlive(5.0)
    kinds = [type(one) for one in chain_for(asked, target(), None, response(), True)]
    assert kinds == [TapUsage, DropUsageChunk, HoldFirstContent, KeepAlive]


def test_a_stream_that_nothing_can_replace_is_not_held() -> None:
    assert [type(one) for one in chain_for(ai_request(), target(), None, response(), False)] == [TapUsage]


def test_a_stream_is_held_until_its_first_content() -> None:
    held = holding()
    role = delta(role="assistant")
    assert held.process(role) == b"" and held.holds
    frame = delta(content="x")
    assert held.process(frame) == role + frame and not held.holds
    assert held.process(DONE) == DONE


def test_an_error_before_the_first_content_is_reported_and_nothing_shown() -> None:
    held = holding()
    assert held.process(b'data: {"error":{"message":"busy","code":"overloaded"}}\n\n') == b""
    assert held.failure is not None and "busy" in held.failure.message


def test_what_is_held_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hold_first_content, "MAX_HELD_BYTES", 100)
    held = holding()
    noise = b": noise\n\n" * 12
    assert held.process(noise) == noise


def test_a_stream_that_ends_with_its_connection_needs_its_final_event() -> None:
    assert DIALECT.tap is not None
    tap = TapUsage(ai_request(), DIALECT.tap, response())
    tap.process(delta(content="x"))
    tap.finish()
    assert tap.failure is not None and tap.failure.code == "upstream_cut"
    whole = TapUsage(ai_request(), DIALECT.tap, response())
    whole.process(delta(content="x"))
    whole.process(DONE)
    whole.finish()
    assert whole.failure is None


def test_the_marker_of_the_end_may_come_in_pieces() -> None:
    for cut in range(1, len(DONE)):
        whole = TapUsage(ai_request(), _chat_usage.TAP, response())
        for piece in (delta(content="x"), DONE[:cut], DONE[cut:]):
            whole.process(piece)
        whole.finish()
        assert whole.failure is None, cut


def test_the_chunk_that_only_relayd_asked_for_is_removed_and_no_length_promised() -> None:
    head = response(length=99)
    drop = DropUsageChunk(head)
    assert head.length is None
    usage = chunk(choices=[], usage={"prompt_tokens": 1, "completion_tokens": 2})
    assert drop.process(delta(content="x") + usage + DONE) + drop.finish() == delta(content="x") + DONE


@pytest.mark.parametrize(("head", "wrong"), [
    (response("text/html"), True), (response("application/json"), False), (response(""), False),
    (response("application/json", length=0), True), (response("application/problem+json"), False),
])
def test_a_page_or_nothing_is_no_answer_of_an_api(head: ResponseHead, wrong: bool) -> None:
    assert (invalid_answer(ai_request(), head) is not None) is wrong


def test_a_comment_is_due_after_silence_and_between_frames_only() -> None:
    alive = KeepAlive(5.0)
    now = clock.monotonic()
    assert not alive.is_due(now + 1) and alive.is_due(now + 6) and not alive.is_due(now + 7)
    alive.process(b'data: {"half')
    assert not alive.is_due(now + 60)
    alive.process(b'"}\n\n')
    assert alive.is_due(now + 60)
    alive.every_s = 0.0
    assert not alive.is_due(now + 999)
