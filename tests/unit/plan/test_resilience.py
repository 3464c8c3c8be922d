"""What a route needs beyond one plain attempt."""

from __future__ import annotations

import pytest

from relayd.config.load import load_text
from relayd.limits.gates import Gates
from relayd.plan.compile import compile_plan
from relayd.plan.plan import Plan, Resilience

WHOLE = """
listeners: {public: {address: "127.0.0.1:8282"}}
upstreams:
  plain: {endpoints: ["http://a.example"], PLAIN}
  other: {endpoints: ["http://b.example"]}
  chat: {protocol: openai_chat, endpoints: ["http://c.example/v1"], CHAT}
  gemini: {protocol: gemini, endpoints: ["http://d.example/v1beta"]}
models: {m: {upstream: chat, MODEL}}
routes: [{name: all, ROUTE}]
"""


def plan_of(route: str, plain: str = "", chat: str = "", model: str = "", gates: Gates | None = None) -> Plan:
    text = WHOLE
    for word, value in (("PLAIN", plain), ("CHAT", chat), ("MODEL", model), ("ROUTE", route)):
        text = text.replace(word, value)
    return compile_plan(load_text(text, "relayd.yaml").config, 1, gates=gates)


def made(route: str, plain: str = "", chat: str = "", model: str = "") -> Resilience | None:
    return plan_of(route, plain, chat, model).routes[0].resilience


def sure(route: str, plain: str = "", chat: str = "", model: str = "") -> Resilience:
    found = made(route, plain, chat, model)
    assert found is not None
    return found


@pytest.mark.parametrize("route", ["upstream: plain", "upstream: demo", "respond: 200", "upstream: admin"])
def test_a_route_that_needs_nothing_has_nothing(route: str) -> None:
    assert made(route) is None


@pytest.mark.parametrize("plain", [
    "limits: {requests: 1}", "retries: 2", "balance: consistent_hash",
])
def test_what_the_upstream_wants_needs_a_course(plain: str) -> None:
    found = sure("upstream: plain", plain=plain)
    assert found.dialect is None and [target.upstream.name for _, target in found.split] == ["plain"]


def test_gates_have_the_names_of_what_they_limit() -> None:
    gates = Gates()
    plan = plan_of("upstream: plain, limits: 3", plain="limits: {requests: 1, queue: 2, queue_timeout: 3s}", gates=gates)
    assert {name: (one.requests, one.queue) for name, one in plan.gate_limits.items()} == {
        "upstream plain": (1, 2), "route all": (3, 0)}
    found = plan.routes[0].resilience
    assert found is not None and found.gate is gates.get("route all")
    assert found.split[0][1].gate is gates.get("upstream plain")
    again = plan_of("upstream: plain, limits: 3", plain="limits: 9", gates=gates)
    assert again.routes[0].resilience is not None and again.routes[0].resilience.gate is found.gate


@pytest.mark.parametrize(("route", "reads"), [
    ("upstream: chat", False), ("upstream: chat, protocol: openai_responses", True), ("upstream: by_model", True),
    ("upstream: plain, fallbacks: [other]", True), ("upstream: plain, mirror: other", True),
    ("upstream: plain, limits: 1", False), ("upstream: plain, canary: {upstream: other, weight: 5}", False),
])
def test_a_body_is_read_where_it_decides_or_may_be_needed_again(route: str, reads: bool) -> None:
    assert sure(route).needs_body is reads


def test_a_prompt_that_chooses_the_endpoint_is_read_first() -> None:
    assert sure("upstream: plain", plain="balance: consistent_hash, hash: {by: [prompt]}").needs_body
    assert not sure("upstream: plain", plain="balance: consistent_hash, hash: {by: [client]}").needs_body


def test_targets_know_their_dialect_and_for_what_they_stand_in() -> None:
    found = sure("upstream: chat, protocol: anthropic_messages, fallbacks: [{upstream: gemini, model: g, on: [overloaded]}]")
    assert found.dialect is not None and found.dialect.name == "anthropic_messages"
    (fallback,) = found.fallbacks
    assert fallback.dialect is not None and fallback.dialect.name == "gemini"
    assert (fallback.model, fallback.on) == ("g", frozenset({"overloaded"}))


def test_comments_are_on_for_what_is_translated_and_off_for_what_passes() -> None:
    found = sure("upstream: chat")
    assert (found.keepalive_s, found.passthrough_keepalive_s) == (15.0, 0.0)
    found = sure("upstream: chat, keepalive: 3s")
    assert (found.keepalive_s, found.passthrough_keepalive_s) == (3.0, 3.0)
    found = sure("upstream: chat, keepalive: 0s")
    assert (found.keepalive_s, found.passthrough_keepalive_s) == (0.0, 0.0)


def test_only_dialects_that_are_spoken_are_loaded() -> None:
    assert set(plan_of("upstream: plain").dialects) == {"openai_chat", "gemini"}


def test_a_canary_takes_its_weight_from_the_route() -> None:
    found = sure("upstream: plain, canary: {upstream: other, weight: 5}")
    assert [(weight, target.upstream.name) for weight, target in found.split] == [(95.0, "plain"), (5.0, "other")]


def test_the_socket_of_the_responses_api_is_served_where_it_is_not_tunnelled() -> None:
    assert sure("upstream: chat, protocol: openai_responses").serves_websocket
    assert not sure("upstream: chat, protocol: openai_responses, upgrade: true").serves_websocket
    assert not sure("upstream: chat").serves_websocket
