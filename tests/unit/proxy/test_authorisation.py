"""Who a client is, and which routes and models a consumer may use."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from relayd.plan.plan import Plan
from relayd.wire.forwarded import UNIX
from tests.aids.tokens import Signer
from tests.unit.proxy.fakes import Client, FakeGateway, head_for, plan_of, run_through_phases

CONFIG = """
listeners: {public: {address: "127.0.0.1:8282"}}
upstreams:
  a: {protocol: openai_chat, endpoints: ["http://a.example/v1"]}
  g: {protocol: gemini, endpoints: ["http://g.example"]}
  r: {protocol: openai_responses, endpoints: ["http://r.example/v1"]}
  p: {endpoints: ["http://p.example"]}
models: {"gpt-*": a, fast: {upstream: a, model: secret-model}, secret-model: a, other: a}
groups: {paying: {models: ["gpt-*", fast], routes: [granted]}}
consumers:
  team: {bearer: {env: TEAM}, models: ["gpt-*", fast]}
  member: {bearer: {env: MEMBER}, group: paying}
routes:
  - {name: closed, match: {path: /closed}, respond: 200, allow: [team]}
  - {name: granted, match: {path: /granted}, respond: 200, allow: [team]}
  - {name: grouped, match: {path: /grouped}, respond: 200, allow: [paying]}
  - {name: messages, match: {header: {x-front: messages}}, protocol: anthropic_messages, upstream: by_model}
  - {name: gemini, match: {prefix: /v1beta/}, upstream: g}
  - {name: by_model, match: {prefix: /by_model/}, protocol: openai_chat, upstream: by_model, strip_prefix: /by_model}
  - {name: tunnel, match: {header: {x-front: tunnel}}, upstream: r, upgrade: true}
  - {name: rule, match: {prefix: /rule/, model: ["*"]}, upstream: p}
  - {name: chat, match: {prefix: /v1/}, upstream: a}
"""
CHAT = "/v1/chat/completions"


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setenv("TEAM", "sk-team")
    monkeypatch.setenv("MEMBER", "sk-member")
    return plan_of(CONFIG)


def ask(
    plan: Plan, path: str, body: Any = None, *lines: str, key: str = "sk-team", kind: str = "application/json", method: str = ""
) -> tuple[Client, Any]:
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    more = [] if data is None else [f"Content-Length: {len(data)}", f"Content-Type: {kind}"]
    start = f"{method or ('GET' if data is None else 'POST')} {path} HTTP/1.1"
    client, exchange, _ = run_through_phases(plan, head_for(f"Authorization: Bearer {key}", *more, *lines, start=start), body=data)
    return client, exchange


def refusal_of(plan: Plan, *asked: Any, **words: Any) -> tuple[int, str]:
    client, exchange = ask(plan, *asked, **words)
    return (client.status, exchange.record.code) if client.sent else (0, "")


@pytest.mark.parametrize(("path", "team", "member"), [
    ("/closed", 200, 403), ("/granted", 200, 200), ("/grouped", 403, 403),
])
def test_routes_of_a_group_are_those_that_its_members_may_use(plan: Plan, path: str, team: int, member: int) -> None:
    assert ask(plan, path)[0].status == team
    assert ask(plan, path, key="sk-member")[0].status == member
    assert ask(plan, path, key="sk-nobody")[0].status == 401


def test_a_route_for_a_group_without_members_is_open_to_nobody() -> None:
    empty = plan_of(CONFIG.replace("  team: {bearer: {env: TEAM}, models: [\"gpt-*\", fast]}\n", "").replace(
        "  member: {bearer: {env: MEMBER}, group: paying}\n", "").replace("consumers:\n", "").replace("allow: [team]", "allow: [paying]"))
    assert not empty.consumers.names
    assert refusal_of(empty, "/grouped") == refusal_of(empty, "/closed") == (401, "unauthorized")


@pytest.mark.parametrize(("model", "allowed"), [
    ("gpt-5", True), ("fast", True), ("secret-model", False), ("other", False), ("unknown", False), ("GPT-5", True),
])
@pytest.mark.parametrize("path", [CHAT, "/by_model" + CHAT])
def test_the_name_that_the_client_uses_decides(plan: Plan, path: str, model: str, allowed: bool) -> None:
    found = refusal_of(plan, path, {"model": model, "messages": []})
    assert found != (403, "model_not_allowed") if allowed else found == (403, "model_not_allowed")


def test_the_refusal_has_the_shape_of_the_clients_dialect(plan: Plan) -> None:
    chat, _ = ask(plan, CHAT, {"model": "other", "messages": []})
    error = json.loads(chat.body)["error"]
    assert (error["type"], error["code"]) == ("permission_error", "model_not_allowed")
    messages, _ = ask(plan, "/v1/messages", {"model": "other", "max_tokens": 1, "messages": []}, "x-front: messages")
    found = json.loads(messages.body)
    assert (found["type"], found["error"]["type"]) == ("error", "permission_error") and messages.status == 403
    gemini, _ = ask(plan, "/v1beta/models/other:generateContent", {"contents": []})
    assert json.loads(gemini.body)["error"]["status"] == "PERMISSION_DENIED"


FORM = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nother\r\n--b--\r\n'
FORMS = "multipart/form-data; boundary=b"


@pytest.mark.parametrize(("path", "body", "kind", "code"), [
    ("/v1beta/models/other:generateContent", {"contents": []}, "", "model_not_allowed"),
    ("/v1beta/models/other:countTokens", {"contents": []}, "", "model_not_allowed"),
    ("/v1/embeddings", {"model": "other", "input": "x"}, "", "model_not_allowed"),
    ("/v1/audio/transcriptions", FORM, FORMS, "model_not_allowed"),
    ("/by_model/v1/audio/transcriptions", FORM, FORMS, "model_not_allowed"),
    ("/rule/anything", {"model": "other"}, "", "model_not_allowed"),
    (CHAT, b'{"model":"gpt-5","model":"other","messages":[]}', "", "ambiguous_body"),
    (CHAT, b'{"model":"gpt-5","MODEL":"other","messages":[]}', "", "ambiguous_body"),
    (CHAT, {"model": "gpt-5", "models": ["other"], "messages": []}, "", "ambiguous_body"),
    (CHAT + "?model=other", {"model": "gpt-5", "messages": []}, "", "ambiguous_body"),
    ("/v1/batches", {"input_file_id": "f"}, "", "ambiguous_body"),
])
def test_a_model_is_found_wherever_a_request_names_it(plan: Plan, path: str, body: Any, kind: str, code: str) -> None:
    assert refusal_of(plan, path, body, kind=kind or "application/json")[1] == code


def test_a_request_that_leaves_the_model_to_the_endpoint_is_refused(plan: Plan) -> None:
    assert refusal_of(plan, CHAT, {"messages": []})[0] in (400, 403)
    upgrade = ("x-front: tunnel", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
               "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
    assert refusal_of(plan, "/v1/realtime", None, *upgrade) == (403, "model_not_allowed")
    assert refusal_of(plan, "/v1/realtime?model=other", None, *upgrade) == (403, "model_not_allowed")
    assert refusal_of(plan, "/v1/responses?model=gpt-5", None, *upgrade) == (403, "model_not_allowed")


def test_model_lists_have_the_models_that_may_be_used(plan: Plan) -> None:
    client, _ = ask(plan, "/by_model/v1/models")
    assert [one["id"] for one in json.loads(client.body)["data"]] == ["fast"]
    client, _ = ask(plan, "/by_model/v1/models", key="nobody")
    assert [one["id"] for one in json.loads(client.body)["data"]] == ["fast", "secret-model", "other"]
    client, _ = ask(plan, "/by_model/v1/models/other")
    assert client.status == 404 and b"secret-model" not in client.body


def with_key(plan: Plan, key: str, owner: FakeGateway, peer: str) -> Client:
    client, _, _ = run_through_phases(plan, head_for(f"Authorization: Bearer {key}", start="GET /closed HTTP/1.1"), Client(peer), owner)
    return client


def test_an_address_with_many_wrong_keys_is_refused_with_a_right_one_too(plan: Plan) -> None:
    owner = FakeGateway()  # it permits three
    assert [with_key(plan, f"wrong-{number}", owner, "198.51.100.7").status for number in range(3)] == [401, 401, 401]
    refused = with_key(plan, "sk-team", owner, "198.51.100.7")
    assert refused.status == 429 and b"too_many_failed_keys" in refused.body
    assert 0 < int(refused.head.partition(b"\r\nRetry-After: ")[2].split()[0]) <= 60
    assert with_key(plan, "sk-team", owner, "198.51.100.8").status == 200


@pytest.mark.parametrize("peer", ["192.0.2.7", UNIX])
def test_an_address_that_may_be_that_of_many_clients_is_not_refused(plan: Plan, peer: str) -> None:
    owner = FakeGateway()
    assert {with_key(plan, f"wrong-{number}", owner, peer).status for number in range(9)} == {401}
    assert with_key(plan, "sk-team", owner, peer).status == 200


@pytest.mark.parametrize(("issuer", "status"), [("https://issuer.example", 503), ("https://other.example", 401)])
def test_a_token_is_refused_differently_while_no_key_of_its_issuer_is_known(issuer: str, status: int) -> None:
    pytest.importorskip("jwt", reason="needs python3-jwt")
    plan = plan_of("""
listeners: {public: {address: "127.0.0.1:8282"}}
consumers: {ci: {jwt: {issuer: "https://issuer.example", audience: relayd, jwks: {url: "https://issuer.example/keys"}}}}
routes: [{name: all, match: {path: /closed}, respond: 200, allow: [ci]}]
""")
    owner = FakeGateway()
    token = Signer().token({"iss": issuer, "aud": "relayd", "exp": int(time.time()) + 600})
    client = with_key(plan, token, owner, "198.51.100.7")
    assert client.status == status
    if status == 503:
        assert b"\r\nRetry-After: 1\r\n" in client.head and not owner.failed_keys, "it may be a good one"
    else:
        assert b'\r\nWWW-Authenticate: Bearer error="invalid_token"\r\n' in client.head
