"""The pipeline: the decision of each phase."""

from __future__ import annotations

import pytest

from relayd.plan.plan import Plan
from relayd.proxy.exchange import Exchange
from tests.unit.proxy.fakes import PLAIN, UPSTREAM, Client, FakeGateway, head_for, plan_of, run_through_phases

ROUTES = UPSTREAM + """
consumers:
  alice: {bearer: {env: ALICE}}
  bob: {header: {name: X-Key, value: {env: BOB}}}
routes:
  - {name: fixed, match: {prefix: /fixed}, respond: {status: 200, body: hallo}}
  - {name: secret, match: {prefix: /secret}, respond: {status: 200, body: gold}, allow: [alice]}
  - {name: away, match: {path: /away}, redirect: {location: "https://{host}/x", status: 308}}
  - {name: inside, match: {prefix: /inside/}, upstream: admin, admin_prefix: /inside, admin_write: true, allow: [alice]}
  - {name: small, match: {path: /small}, respond: {status: 200}, body_limit: 10}
  - name: shared
    match: {path: /shared}
    respond: {status: 200, body: shared}
    allow: [alice]
    cors: {origins: ["https://app.example"], credentials: true}
"""


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setenv("ALICE", "sk-alice")
    monkeypatch.setenv("BOB", "sk-bob")
    return plan_of(ROUTES)


def get(plan: Plan, path: str, *lines: str, method: str = "GET", owner: FakeGateway | None = None) -> tuple[Client, Exchange, FakeGateway]:
    made = run_through_phases(plan, head_for(*lines, start=f"{method} {path} HTTP/1.1"), owner=owner)
    assert len(made[2].accounts) == 1 and not made[2].exchanges
    return made


def test_a_fixed_response_is_given_and_the_connection_kept(plan: Plan) -> None:
    client, exchange, _ = get(plan, "/fixed/x?a=1")
    assert (client.status, client.body, client.ended) == (200, b"hallo", ["keep"])
    record = exchange.record
    assert (record.route, record.status, record.code, record.ended_by, record.bytes_out) == ("fixed", 200, "", "relayd", 5)
    assert (record.method, record.path, record.query, record.host) == ("GET", "/fixed/x", "?a=1", "relay.example")
    assert record.outcome == "complete" and record.total_s >= 0


def test_head_has_the_length_and_no_body(plan: Plan) -> None:
    client, _, _ = get(plan, "/fixed", method="HEAD")
    assert b"Content-Length: 5\r\n" in client.head and client.body == b""


def test_a_redirect_route_sends_the_client_away(plan: Plan) -> None:
    client, _, _ = get(plan, "/away")
    assert client.status == 308 and b"Location: https://relay.example/x\r\n" in client.head


def test_no_route_is_404(plan: Plan) -> None:
    client, exchange, _ = get(plan, "/nowhere")
    assert client.status == 404 and exchange.record.outcome == "client.match" and client.ended == ["keep"]


@pytest.mark.parametrize("path", ["/fixed/../secret", "/fixed/%2e%2e/secret", "/fixed//../../secret", "/fixed/..%2fsecret"])
def test_a_path_that_would_choose_another_route_when_normalised_is_refused(plan: Plan, path: str) -> None:
    client, exchange, _ = get(plan, path)
    assert client.status == 400 and exchange.record.code == "ambiguous_path"


def test_a_path_that_stays_with_its_route_is_not(plan: Plan) -> None:
    assert get(plan, "/fixed/a/../b")[0].status == 200


# ---- keys


def test_without_a_key_a_guarded_route_answers_401(plan: Plan) -> None:
    client, exchange, _ = get(plan, "/secret")
    assert client.status == 401 and b"WWW-Authenticate: Bearer\r\n" in client.head
    assert exchange.record.outcome == "client.authorise"


@pytest.mark.parametrize("line", ["Authorization: Bearer wrong", "X-Key: wrong", "Authorization: Basic sk-alice"])
def test_a_wrong_key_is_no_key(plan: Plan, line: str) -> None:
    client, exchange, _ = get(plan, "/secret", line)
    assert client.status == 401 and exchange.record.consumer == ""
    assert b"wrong" not in client.sent


def test_a_key_that_is_not_granted_is_forbidden(plan: Plan) -> None:
    client, exchange, _ = get(plan, "/secret", "X-Key: sk-bob")
    assert client.status == 403 and exchange.record.consumer == "bob" and b"bob" not in client.sent


def test_the_right_key_opens(plan: Plan) -> None:
    client, exchange, _ = get(plan, "/secret", "Authorization: Bearer sk-alice")
    assert client.body == b"gold" and exchange.record.consumer == "alice"


def test_a_key_on_an_open_route_is_known_all_the_same(plan: Plan) -> None:
    assert get(plan, "/fixed", "Authorization: Bearer sk-alice")[1].record.consumer == "alice"


# ---- OPTIONS


@pytest.mark.parametrize(("start", "lines"), [
    ("OPTIONS * HTTP/1.1", ()), ("OPTIONS /secret HTTP/1.1", ("Max-Forwards: 0",)), ("OPTIONS /nowhere HTTP/1.1", ("Max-Forwards: 00",)),
])
def test_options_that_go_no_further_are_answered_here(plan: Plan, start: str, lines: tuple[str, ...]) -> None:
    client, _, owner = run_through_phases(plan, head_for(*lines, start=start))
    assert client.status == 200 and b"Allow: GET" in client.head and len(owner.accounts) == 1


# ---- ACME challenges and redirects to HTTPS

@pytest.fixture(scope="module")
def redirecting() -> Plan:
    return plan_of("""
listeners:
  public: {address: "127.0.0.1:80", https_redirect: true}
  tls: {address: "127.0.0.1:8443", tls: {acme: {domains: [a.example], email: a@b.example}}}
routes:
  - {name: fixed, match: {prefix: /}, respond: 204}
""")


def test_a_pending_challenge_is_answered_before_everything_else(redirecting: Plan) -> None:
    owner = FakeGateway()
    owner.challenge_response = {b"/.well-known/acme-challenge/abc": b"abc.thumb"}.get
    client, _, _ = run_through_phases(redirecting, head_for(start="GET /.well-known/acme-challenge/abc HTTP/1.1"), owner=owner)
    assert client.status == 200 and client.sent.endswith(b"\r\n\r\nabc.thumb")
    for start in ("GET /.well-known/acme-challenge/other HTTP/1.1", "POST /.well-known/acme-challenge/abc HTTP/1.1"):
        client, _, _ = run_through_phases(redirecting, head_for(start=start), owner=owner)
        assert client.status == 308


@pytest.mark.parametrize(("start", "host", "location"), [
    ("GET /a?b=%2F HTTP/1.1", "A.example:80", b"https://A.example:8443/a?b=%2F"), ("POST / HTTP/1.1", "[::1]:80", b"https://[::1]:8443/"),
    ("GET http://b.example//x/ HTTP/1.1", "b.example", b"https://b.example:8443//x/"),
])
def test_a_listener_sends_its_clients_to_https(redirecting: Plan, start: str, host: str, location: bytes) -> None:
    client, _, _ = run_through_phases(redirecting, head_for(start=start, host=host))
    assert client.status == 308 and b"Location: " + location + b"\r\n" in client.head


def test_a_request_that_a_trusted_proxy_received_over_https_stays(redirecting: Plan) -> None:
    for proto, status in (("https", 204), ("http", 308)):
        client = Client("10.0.0.1", trusted=True)
        run_through_phases(redirecting, head_for(f"X-Forwarded-Proto: {proto}"), client)
        assert client.status == status


def test_a_redirect_needs_a_host_and_options_of_the_server_none(redirecting: Plan) -> None:
    client, _, _ = run_through_phases(redirecting, head_for(start="GET / HTTP/1.0", host=None))
    assert client.status == 400
    client, _, _ = run_through_phases(redirecting, head_for(start="OPTIONS * HTTP/1.1"))
    assert client.status == 200


def test_max_forwards_counts_down(plan: Plan) -> None:
    _, exchange, _ = get(plan, "/fixed", "Max-Forwards: 10", method="OPTIONS")
    assert b"Max-Forwards: 9" in exchange.head.keep
    _, exchange, _ = get(plan, "/fixed", "Max-Forwards: 10")
    assert b"Max-Forwards: 10" in exchange.head.keep


# ---- CORS

ASK = ("Origin: https://app.example", "Access-Control-Request-Method: POST")


def test_a_preflight_is_answered_without_a_key(plan: Plan) -> None:
    client, exchange, _ = get(plan, "/shared", *ASK, "Access-Control-Request-Headers: x-a", method="OPTIONS")
    assert client.status == 204 and exchange.record.outcome == "complete"
    assert client.head.count(b"Access-Control-Allow-Origin: https://app.example\r\n") == 1
    assert b"Access-Control-Allow-Credentials: true\r\n" in client.head


def test_a_preflight_of_another_origin_is_refused_without_fields(plan: Plan) -> None:
    client, _, _ = get(plan, "/shared", "Origin: https://evil.example", ASK[1], method="OPTIONS")
    assert client.status == 403 and b"Access-Control-Allow-Origin" not in client.head


def test_options_that_is_no_preflight_needs_its_key(plan: Plan) -> None:
    assert get(plan, "/shared", ASK[0], method="OPTIONS")[0].status == 401


def test_an_error_too_can_be_read_across_origins(plan: Plan) -> None:
    client, _, _ = get(plan, "/shared", ASK[0])
    assert client.status == 401 and b"Access-Control-Allow-Origin: https://app.example\r\n" in client.head
    other, _, _ = get(plan, "/shared", "Origin: https://evil.example")
    assert b"Access-Control-Allow-Origin" not in other.head


# ---- capacity, the admin application, routes not in force


def test_a_declared_length_above_the_limit_is_refused_before_a_byte_is_read(plan: Plan) -> None:
    owner, client = FakeGateway(), Client()
    client.whole = False
    run_through_phases(plan, head_for("Content-Length: 11", start="POST /small HTTP/1.1"), client, owner)
    assert client.status == 413 and client.ended == ["close"] and b"Connection: close\r\n" in client.head
    assert get(plan, "/small", "Content-Length: 10", method="POST")[0].status == 200


def test_an_answer_before_the_whole_body_ends_the_connection(plan: Plan) -> None:
    client = Client()
    client.whole = False
    run_through_phases(plan, head_for("Content-Length: 10", start="POST /fixed HTTP/1.1"), client)
    assert client.status == 200 and client.ended == ["close"]


def test_while_draining_nothing_new_is_taken(plan: Plan) -> None:
    owner = FakeGateway()
    owner.draining = True
    client, exchange, _ = get(plan, "/fixed", owner=owner)
    assert client.status == 503 and b"Retry-After: 1\r\n" in client.head and client.ended == ["close"]
    assert exchange.record.code == "draining"


def test_the_admin_application_is_asked_below_its_prefix(plan: Plan) -> None:
    client, _, owner = get(plan, "/inside/status", "Authorization: Bearer sk-alice")
    assert owner.asked == [("GET", "/status", True)] and client.body == b"{}"
    client, _, owner = get(plan, "/inside/status", "Authorization: Bearer sk-alice", method="HEAD")
    assert owner.asked == [("HEAD", "/status", True)] and client.body == b""
    assert get(plan, "/inside/status")[2].asked == []


def test_when_all_endpoints_are_full_the_client_may_come_again() -> None:
    plan = plan_of(PLAIN.replace("endpoints:", "pool: {max_connections: 1}, endpoints:"))
    upstream = plan.upstreams["web"]
    taken = upstream.acquire()
    client, exchange, _ = get(plan, "/x")
    assert client.status == 503 and exchange.record.code == "no_endpoint" and b"Retry-After: 1\r\n" in client.head
    assert taken is not None and upstream.in_flight == 1
    taken.release(None)


def test_a_loop_is_refused_with_no_endpoint_taken() -> None:
    plan = plan_of(PLAIN)
    client, exchange, _ = get(plan, "/x", "Via: 1.1 relayd")
    assert client.status == 508 and exchange.record.code == "loop_detected"
    assert plan.upstreams["web"].in_flight == 0


def test_a_well_formed_request_id_of_a_trusted_peer_names_the_exchange(plan: Plan) -> None:
    client, exchange, _ = run_through_phases(plan, head_for("X-Request-ID: theirs-1", start="GET /fixed HTTP/1.1"), Client(trusted=True))
    assert exchange.record.id == "theirs-1" and b"X-Request-ID: theirs-1\r\n" in client.head
    _, other, _ = run_through_phases(plan, head_for("X-Request-ID: theirs-1", start="GET /fixed HTTP/1.1"))
    assert other.record.id != "theirs-1" and len(other.record.id) == 32
