"""The phase that finds the session of a request."""

from __future__ import annotations

from relayd.proxy.client_session import key_of
from tests.unit.proxy.fakes import Client, FakeGateway, head_for, plan_of, run_through_phases

PLAN = plan_of("""
listeners: {public: {address: "127.0.0.1:8282"}}
routes:
  - {name: document, match: {prefix: /api/session}, upstream: sessions}
  - {name: fixed, respond: {body: x}}
""")


def gateway_with(session_id: bytes) -> FakeGateway:
    gateway = FakeGateway()
    gateway.space("session:", 60.0).put(key_of(session_id), {"a": 1})
    return gateway


def test_a_known_session_is_found_and_recorded() -> None:
    gateway = gateway_with(b"abc")
    client, _, _ = run_through_phases(PLAN, head_for("X-Session-ID: abc", start="GET /api/session HTTP/1.1"), owner=gateway)
    assert client.status == 200 and client.body == b'{"a":1}'
    record = gateway.accounts[0]
    assert record.more == {"session": key_of(b"abc")[:16]} and b"Set-Cookie" not in client.head


def test_a_route_without_sessions_looks_for_none() -> None:
    gateway = gateway_with(b"abc")
    client, exchange, _ = run_through_phases(PLAN, head_for("X-Session-ID: abc"), owner=gateway)
    assert client.status == 200 and exchange.client_session is None and gateway.accounts[0].more is None


def test_an_id_that_cannot_be_verified_is_neither_adopted_nor_replaced() -> None:
    gateway = gateway_with(b"abc")
    gateway.degraded = True
    for method, body in (("GET", None), ("PUT", b"1"), ("DELETE", None)):
        fields = ["Cookie: relayd_session=unknown", *([f"Content-Length: {len(body)}"] if body else [])]
        client, _, _ = run_through_phases(PLAN, head_for(*fields, start=f"{method} /api/session HTTP/1.1"), owner=gateway, body=body)
        assert client.status == 503 and b"store_unavailable" in client.body and b"Set-Cookie" not in client.head
    client, _, _ = run_through_phases(PLAN, head_for("X-Session-ID: abc", start="GET /api/session HTTP/1.1"), owner=gateway)
    assert client.status == 200
    head = head_for("Content-Length: 1", start="PUT /api/session HTTP/1.1")
    assert run_through_phases(PLAN, head, owner=gateway, body=b"1")[0].status == 201  # a client without an id


def test_the_cookie_is_secure_over_tls_only() -> None:
    for tls in (False, True):
        head = head_for("Cookie: relayd_session=abc", start="GET /api/session HTTP/1.1")
        client, _, _ = run_through_phases(PLAN, head, Client(tls=tls), gateway_with(b"abc"))
        assert (b"; Secure" in client.head) is tls and b"Set-Cookie: relayd_session=abc; Path=/;" in client.head
    trusted = head_for("Cookie: relayd_session=abc", "X-Forwarded-Proto: https", "X-Forwarded-For: 198.51.100.1", start="GET /api/session HTTP/1.1")
    client, _, _ = run_through_phases(PLAN, trusted, Client(trusted=True), gateway_with(b"abc"))
    assert b"; Secure" in client.head
