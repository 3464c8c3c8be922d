"""The request for each target."""

from __future__ import annotations

import json

import pytest

from relayd import clock
from relayd.errors import ExchangeError
from relayd.plan.plan import Target
from relayd.proxy.ai_request import AiRequest
from relayd.proxy.exchange import Exchange
from relayd.proxy.message import message_for
from relayd.proxy.request_context import context_of
from relayd.stores.memory import Store
from relayd.upstream.lease import Lease
from tests.unit.proxy.fakes import Client, FakeGateway, head_for, plan_of

PLAN = plan_of("""
listeners: {public: {address: "127.0.0.1:8282"}}
upstreams:
  chat: {protocol: openai_chat, endpoints: ["http://a.example/v1"]}
  messages: {protocol: anthropic_messages, endpoints: ["http://c.example/v1"]}
routes: [{name: all, protocol: openai_chat, upstream: chat}]
""")
BODY = b'{"model":"m", "messages":[{"role":"user","content":"hi"}]}'


def made(*lines: str) -> tuple[Exchange, AiRequest]:
    head = head_for(*lines, start="POST /v1/chat/completions?a=1 HTTP/1.1")
    exchange = Exchange(FakeGateway(), PLAN, Client(), head, clock.monotonic())
    exchange.request_id = b"id-1"
    memory = Store(1, 100000, 1.0).space("a")
    return exchange, AiRequest(PLAN.dialects["openai_chat"], head, BODY, lambda: context_of(head, b"id-1", memory, b""))


def test_the_same_dialect_passes_with_its_path_and_fields() -> None:
    exchange, ai_request = made("X-Own: 1")
    upstream = PLAN.upstreams["chat"]
    target = Target(upstream, "there", dialect=PLAN.dialects["openai_chat"])
    wire, fields, body, request = message_for(exchange, PLAN.routes[0], target, Lease(upstream, upstream.endpoints[0], None, 0), ai_request, BODY)
    assert wire == b"/v1/chat/completions?a=1" and b"X-Own: 1" in fields and request is None
    assert body == BODY.replace(b'"m"', b'"there"') and exchange.record.client == "192.0.2.7"


def test_another_dialect_gets_a_request_of_its_own() -> None:
    exchange, ai_request = made("X-Own: 1")
    upstream = PLAN.upstreams["messages"]
    target = Target(upstream, None, dialect=PLAN.dialects["anthropic_messages"])
    wire, fields, body, request = message_for(exchange, PLAN.routes[0], target, Lease(upstream, upstream.endpoints[0], None, 0), ai_request, BODY)
    assert wire == b"/v1/messages" and b"X-Own: 1" not in fields and request is not None and body is not None
    assert json.loads(body)["messages"] == [{"role": "user", "content": [{"type": "text", "text": "hi"}]}] or (
        json.loads(body)["messages"][0]["content"] == "hi")


def test_a_loop_is_found_here_too() -> None:
    exchange, ai_request = made("Via: 1.1 relayd")
    upstream = PLAN.upstreams["chat"]
    with pytest.raises(ExchangeError, match="loop_detected"):
        message_for(exchange, PLAN.routes[0], Target(upstream), Lease(upstream, upstream.endpoints[0], None, 0), ai_request, BODY)


@pytest.mark.parametrize(("sent", "seen"), [
    ("br", "identity"), ("gzip, br;q=0.5, deflate", "gzip, deflate"), ("GZIP", "GZIP"), ("*;q=0", "identity"), ("zstd, x-gzip ; q=1", "x-gzip ; q=1"),
])  # fmt: skip
def test_an_endpoint_is_offered_the_codings_that_relayd_reads(sent: str, seen: str) -> None:
    exchange, ai_request = made(f"accept-encoding: {sent}", "Accept-Encodings: br")
    upstream = PLAN.upstreams["chat"]
    lease = Lease(upstream, upstream.endpoints[0], None, 0)
    _, fields, _, _ = message_for(exchange, PLAN.routes[0], Target(upstream, dialect=PLAN.dialects["openai_chat"]), lease, ai_request, BODY)
    assert f"accept-encoding: {seen}".encode() in fields and b"Accept-Encodings: br" in fields
    _, fields, _, _ = message_for(exchange, PLAN.routes[0], Target(upstream), lease, None, BODY)
    assert f"accept-encoding: {sent}".encode() in fields
