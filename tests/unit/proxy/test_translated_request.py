"""The translated request to an endpoint of another dialect."""

from __future__ import annotations

import pytest

from relayd.plan.plan import Plan
from relayd.protocols.dialect import EncodedRequest
from relayd.proxy.translated_request import client_key_field, translated_fields, translated_target
from tests.unit.proxy.fakes import head_for, plan_of

SENDING = EncodedRequest("/messages", b"{}", (("anthropic-version", "2023-06-01"),))


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setenv("UP", "sk-up")
    return plan_of("""
listeners: {public: {address: "127.0.0.1:8282"}}
upstreams:
  header: {protocol: anthropic_messages, endpoints: ["http://a.example/v1"], auth: {header: {name: x-api-key, value: {env: UP}}}}
  query: {protocol: gemini, endpoints: ["http://b.example/v1beta"], auth: {query: {name: key, value: {env: UP}}}}
  own: {protocol: anthropic_messages, endpoints: ["http://d.example/v1"]}
  keyless: {protocol: openai_chat, endpoints: ["http://e.example/v1"]}
  bearer: {protocol: openai_chat, endpoints: ["http://c.example/v1"], auth: {bearer: {env: UP}}, host: client}
routes:
  - {name: plain, match: {path: /a}, protocol: openai_chat, upstream: header}
  - name: edited
    protocol: openai_chat
    upstream: header
    request_headers: {set: {X-Team: blue, x-api-key: mine}, add: {X-More: "1"}}
  - {name: passing, match: {path: /b}, protocol: openai_chat, upstream: own, pass_client_key: true}
""".replace(", x-api-key: mine", ""))


def sent(plan: Plan, name: str, route: int = 0, stream: bool = False, encoded: EncodedRequest = SENDING) -> list[bytes]:
    upstream = plan.upstreams[name]
    head = head_for(
        "Authorization: Bearer sk-client", "x-api-key: sk-client", "Cookie: a=b", "User-Agent: agent/1", "OpenAI-Beta: x",
        "Accept-Encoding: gzip", "X-Stainless-Lang: js", start="POST /v1/chat/completions HTTP/1.1",
    )
    return translated_fields(
        plan.routes[route], plan.header_names, upstream.endpoints[0], upstream.spec, head, [b"X-Forwarded-For: 1"], b"id-1",
        encoded, upstream.spec.auth, stream,
    )


def test_nothing_of_the_clients_header_passes_but_its_name(plan: Plan) -> None:
    fields = sent(plan, "header")
    assert b"User-Agent: agent/1" in fields and not any(b"sk-client" in line or b"Cookie: a" in line for line in fields)
    assert not any(line.lower().startswith((b"x-stainless", b"openai-beta")) for line in fields)
    assert fields[0] == b"Host: a.example" and b"x-api-key: sk-up" in fields
    assert b"anthropic-version: 2023-06-01" in fields and b"X-Forwarded-For: 1" in fields
    assert b"X-Request-ID: id-1" in fields and b"Accept-Encoding: identity" in fields
    assert fields.count(b"Accept: application/json") == 1


def test_a_stream_asks_for_one(plan: Plan) -> None:
    assert b"Accept: text/event-stream" in sent(plan, "header", stream=True)


def test_the_routes_edits_hold_here_too(plan: Plan) -> None:
    fields = sent(plan, "header", 1)
    assert b"X-Team: blue" in fields and b"X-More: 1" in fields


def test_the_key_goes_where_the_upstream_wants_it(plan: Plan) -> None:
    assert b"Authorization: Bearer sk-up" in sent(plan, "bearer")
    assert sent(plan, "bearer")[0] == b"Host: relay.example"
    assert not any(b"sk-up" in line for line in sent(plan, "query"))
    upstream = plan.upstreams["query"]
    wire = translated_target(EncodedRequest("/models/m:streamGenerateContent?alt=sse", b""), upstream.endpoints[0], upstream.spec, upstream.spec.auth)
    assert wire == b"/v1beta/models/m:streamGenerateContent?alt=sse&key=sk-up"
    upstream = plan.upstreams["header"]
    assert translated_target(SENDING, upstream.endpoints[0], upstream.spec, upstream.spec.auth) == b"/v1/messages"


def test_a_clients_own_key_goes_on_only_where_the_route_says_so_and_as_the_endpoint_reads_it(plan: Plan) -> None:
    assert b"x-api-key: sk-client" in sent(plan, "own", 2) and not any(b"Authorization" in line for line in sent(plan, "own", 2))
    assert b"Authorization: Bearer sk-client" in sent(plan, "keyless", 2)
    assert not any(b"sk-client" in line for line in sent(plan, "own", 0))
    assert not any(b"sk-client" in line for line in sent(plan, "header", 2))  # an upstream's own key is never replaced


@pytest.mark.parametrize(("lines", "key"), [
    (("Authorization: Bearer a", "x-api-key: b"), b"a"), (("x-api-key: b",), b"b"), (("x-goog-api-key: c",), b"c"),
    (("Authorization: Basic a", "x-api-key: b"), b"b"), ((), None), (("Authorization: Bearer",), None),
])
def test_a_key_is_found_where_clients_put_it(lines: tuple[str, ...], key: bytes | None) -> None:
    found = client_key_field(head_for(*lines), "openai_chat")
    assert found == ([] if key is None else [b"Authorization: Bearer " + key])
