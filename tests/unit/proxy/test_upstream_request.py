"""The passthrough request to the endpoint."""

from __future__ import annotations

import pytest

from relayd.errors import ExchangeError
from relayd.plan.plan import Plan
from relayd.proxy.upstream_request import (
    fields_of,
    forwarding_of,
    origin_for,
    request_id_of,
    strips_client_keys,
    target_of,
)
from relayd.wire.http1 import RequestHead
from tests.unit.proxy.fakes import PLAIN, UPSTREAM, Client, head_for, plan_of, route_of

KEYED = """
listeners: {public: {address: "127.0.0.1:8282"}}
upstreams: {web: {endpoints: ["http://origin.example:9001/base"], auth: AUTH}}
routes: [{name: all, upstream: web}]
"""


@pytest.fixture(autouse=True)
def the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSTREAM_KEY", "sk-relay")
    monkeypatch.setenv("CLIENT_KEY", "sk-client")


def keyed(auth: str) -> Plan:
    return plan_of(KEYED.replace("AUTH", auth))


BEARER = "{bearer: {env: UPSTREAM_KEY}}"
HEADER = "{header: {name: X-Api-Key, value: {env: UPSTREAM_KEY}}}"
QUERY = "{query: {name: key, value: {env: UPSTREAM_KEY}}}"


def sent(plan: Plan, head: RequestHead, client: Client | None = None, consumer: str | None = None) -> tuple[bytes, list[bytes]]:
    """Target and fields, without those that suppress libcurl's defaults."""
    client, route = client or Client(), route_of(plan, head)
    assert route.upstream is not None
    upstream = route.upstream
    endpoint = upstream.endpoints[0]
    forwarding = forwarding_of(plan.header_names, client, head, origin_for(client, head))
    strip = strips_client_keys(route, upstream.spec, plan.consumers.is_used or consumer is not None)
    fields = fields_of(
        route, plan.header_names, endpoint, upstream.spec, head, forwarding, b"id-1", strip, plan.key_fields
    )
    quiet = (b"Expect:", b"User-Agent:", b"Accept:", b"Content-Type:")
    return target_of(route, endpoint, upstream.spec, head, strip=strip), [line for line in fields if line not in quiet]


def values(fields: list[bytes], name: bytes) -> list[bytes]:
    return [line.partition(b":")[2].strip() for line in fields if line.partition(b":")[0].lower() == name.lower()]


# ---- end-to-end fields


def test_other_fields_keep_their_case_order_duplicates_and_bytes() -> None:
    lines = ["x-oDd: 1", "B:  two  words ", "X-Odd: 2", "Cookie: a=\xe9", "x-odd: 3"]
    _, fields = sent(plan_of(PLAIN), head_for(*lines))
    forwarded = [line for line in fields if line.partition(b":")[0].lower() in (b"x-odd", b"b", b"cookie")]
    assert forwarded == [line.encode("latin-1") for line in lines]


def test_what_belongs_to_one_hop_stays_there() -> None:
    head = head_for(
        "Connection: close, X-Private", "X-Private: 1", "Keep-Alive: 5", "TE: trailers", "Proxy-Authorization: x",
        "Upgrade: h2c", "HTTP2-Settings: AAA", "Content-Length: 3", "Trailer: X", "X_Forwarded_For: 6.6.6.6",
        start="POST / HTTP/1.1",
    )
    _, fields = sent(plan_of(PLAIN), head)
    names = {line.partition(b":")[0].lower() for line in fields}
    assert not names & {b"connection", b"x-private", b"keep-alive", b"te", b"proxy-authorization", b"upgrade",
                        b"http2-settings", b"content-length", b"trailer", b"x_forwarded_for"}


def test_an_empty_field_reaches_the_endpoint_empty() -> None:
    _, fields = sent(plan_of(PLAIN), head_for("X-Empty:", "X-Blank:  ", "X-Full: 1"))
    assert b"X-Empty;" in fields and b"X-Blank;" in fields and b"X-Full: 1" in fields


@pytest.mark.parametrize(("lines", "quiet"), [
    ((), {b"Expect:", b"User-Agent:", b"Accept:", b"Content-Type:"}),
    (("User-Agent: a", "Accept: b", "Content-Type: c"), {b"Expect:"}),
    (("Accept: b",), {b"Expect:", b"User-Agent:", b"Content-Type:"}),
])
def test_nothing_is_invented_for_the_client(lines: tuple[str, ...], quiet: set[bytes]) -> None:
    plan, head = plan_of(PLAIN), head_for(*lines)
    route = route_of(plan, head)
    assert route.upstream is not None
    fields = fields_of(route, plan.header_names, route.upstream.endpoints[0], route.upstream.spec, head, [], b"i", False)
    assert {line for line in fields if line.endswith(b":")} == quiet


def test_the_host_is_the_endpoints_or_the_clients_by_choice() -> None:
    assert sent(plan_of(PLAIN), head_for())[1][0] == b"Host: origin.example:9001"
    theirs = plan_of(PLAIN.replace("endpoints:", "host: client, endpoints:"))
    assert sent(theirs, head_for(host="Relay.example:81"))[1][0] == b"Host: Relay.example:81"
    assert sent(theirs, head_for(start="GET / HTTP/1.0", host=None))[1][0] == b"Host: origin.example:9001"


def test_edits_of_the_route_remove_set_and_add() -> None:
    text = UPSTREAM + """
routes:
  - name: all
    upstream: web
    request_headers: {remove: [Cookie], set: {X-Team: blue, User-Agent: mine}, add: {X-Seen: relayd}}
"""
    _, fields = sent(plan_of(text), head_for("Cookie: a", "x-team: red", "X-Team: green", "X-Seen: other", "Accept: a"))
    assert values(fields, b"cookie") == []
    assert values(fields, b"x-team") == [b"blue"]
    assert values(fields, b"user-agent") == [b"mine"]
    assert values(fields, b"x-seen") == [b"other", b"relayd"]


# ---- credentials


@pytest.mark.parametrize("name", ["Authorization: Bearer sk-client", "x-api-key: sk-client", "api-key: sk-client",
                                  "X-Goog-Api-Key: sk-client"])
def test_a_clients_key_goes_on_only_where_relayd_has_no_part_in_keys(name: str) -> None:
    assert name.encode() in sent(plan_of(PLAIN), head_for(name))[1]
    assert not any(b"sk-client" in line for line in sent(keyed(BEARER), head_for(name))[1])
    assert not any(b"sk-client" in line for line in sent(plan_of(PLAIN), head_for(name), consumer="alice")[1])


CONSUMERS = "consumers: {alice: {header: {name: X-Team-Key, value: {env: CLIENT_KEY}}}}\n"


@pytest.mark.parametrize("name", ["Authorization: Bearer sk-who", "x-api-key: sk-who", "api-key: sk-who", "X-Goog-Api-Key: sk-who", "X-Team-Key: sk-who"])
def test_a_key_that_nobody_identified_does_not_reach_an_open_route(name: str) -> None:
    assert not any(b"sk-who" in line for line in sent(plan_of(PLAIN + CONSUMERS), head_for(name))[1])
    passing = plan_of(PLAIN.replace("upstream: web}", "upstream: web, pass_client_key: true}") + CONSUMERS)
    assert name.encode() in sent(passing, head_for(name))[1]


@pytest.mark.parametrize(("target", "goes"), [
    ("/v1beta/models/m:generateContent?key=K", "/v1beta/models/m:generateContent"),
    ("/v1beta/models?key=K&pageSize=5", "/v1beta/models?pageSize=5"),
    ("/v1/models/m:streamGenerateContent?alt=sse&%6bey=K", "/v1/models/m:streamGenerateContent?alt=sse"),
    ("/x?api_key=K&a=%2F&APIKEY=K", "/x?a=%2F"), ("/x?x-goog-api-key=K&api-key=K&access_token=K", "/x"),
    ("/x?key=a-page", "/x?key=a-page"), ("/x?", "/x?"), ("/x?a=1&&b", "/x?a=1&&b"),
])
def test_a_clients_key_in_the_query_stays_here_too(target: str, goes: str) -> None:
    head = head_for(start=f"GET {target} HTTP/1.1")
    assert sent(plan_of(PLAIN + CONSUMERS), head)[0] == goes.encode()
    assert sent(plan_of(PLAIN), head)[0] == target.encode()


@pytest.mark.parametrize(("offered", "goes"), [
    ("realtime, openai-insecure-api-key.sk-who, openai-beta.realtime-v1", b"realtime, openai-beta.realtime-v1"),
    ("base64url.bearer.authorization.k8s.io.c2std2hv,v4.channel.k8s.io", b"v4.channel.k8s.io"), ("openai-insecure-api-key.sk-who", b""),
    ("graphql-ws,ocpp1.6", b"graphql-ws,ocpp1.6"),
])
def test_a_clients_key_in_a_subprotocol_stays_here_too(offered: str, goes: bytes) -> None:
    head = head_for("Connection: Upgrade", "Upgrade: websocket", f"Sec-WebSocket-Protocol: {offered}")
    lines = sent(plan_of(PLAIN + CONSUMERS), head)[1]
    assert [line.partition(b": ")[2] for line in lines if line.startswith(b"Sec-WebSocket-Protocol")] == ([goes] if goes else [])
    assert f"Sec-WebSocket-Protocol: {offered}".encode() in sent(plan_of(PLAIN), head)[1]


def test_before_an_ai_upstream_key_is_a_key_on_every_path() -> None:
    plan = plan_of(PLAIN.replace("web: {", "web: {protocol: openai_chat, ") + CONSUMERS)
    assert sent(plan, head_for(start="POST /v1/chat/completions?key=K HTTP/1.1"))[0] == b"/chat/completions"


def test_a_route_may_pass_the_clients_key_on() -> None:
    plan = plan_of(PLAIN.replace("upstream: web}", "upstream: web, pass_client_key: true}"))
    assert b"Authorization: Bearer k" in sent(plan, head_for("Authorization: Bearer k"), consumer="alice")[1]


def test_a_key_in_a_field_of_its_own_name_stays_here_too() -> None:
    text = PLAIN + "consumers: {alice: {header: {name: X-Team-Key, value: {env: CLIENT_KEY}}}}\n"
    plan = plan_of(text)
    _, fields = sent(plan, head_for("X-Team-Key: sk-client", "X-Other: 1"), consumer="alice")
    assert values(fields, b"x-team-key") == [] and values(fields, b"x-other") == [b"1"]


@pytest.mark.parametrize(("auth", "name", "value"), [
    (BEARER, b"authorization", b"Bearer sk-relay"), (HEADER, b"x-api-key", b"sk-relay"),
])
def test_the_upstreams_key_comes_last_and_alone(auth: str, name: bytes, value: bytes) -> None:
    low, high = name.decode(), name.decode().upper()
    _, fields = sent(keyed(auth), head_for(f"{low}: mine", f"{high}: mine", f"Connection: {low}", "X-Last: 1"))
    assert values(fields, name) == [value]
    assert fields[-1].lower() == name + b": " + value.lower()


def test_the_upstreams_key_stands_in_the_query_alone() -> None:
    plan = keyed(QUERY)
    assert sent(plan, head_for(start="GET /x HTTP/1.1"))[0] == b"/base/x?key=sk-relay"
    assert sent(plan, head_for(start="GET /x? HTTP/1.1"))[0] == b"/base/x?key=sk-relay"
    assert sent(plan, head_for(start="GET /x?a=1&key=mine&b=%2F&KEY=m HTTP/1.1"))[0] == b"/base/x?a=1&b=%2F&key=sk-relay"


@pytest.mark.parametrize("spelling", ["%6bey", "k%65y", "%6B%65%79", "K%45y"])
def test_an_encoded_spelling_does_not_displace_the_upstreams_key(spelling: str) -> None:
    target, _ = sent(keyed(QUERY), head_for(start=f"GET /x?{spelling}=mine&a=%6bey HTTP/1.1"))
    assert target == b"/base/x?a=%6bey&key=sk-relay"


def test_a_key_is_encoded_for_the_query(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSTREAM_KEY", "a&b=c/d e")
    assert sent(keyed(QUERY), head_for(start="GET / HTTP/1.1"))[0] == b"/base/?key=a%26b%3Dc%2Fd%20e"


# ---- the target


@pytest.mark.parametrize("target", ["/a/../b", "/a%2fb", "/%2e%2e/x", "//a//b", "/a?", "/?a=1&a=2&&=", "/%zz%00", "/a;b=c"])
def test_a_target_goes_on_to_the_byte(target: str) -> None:
    assert sent(plan_of(PLAIN), head_for(start=f"GET {target} HTTP/1.1"))[0] == target.encode()


@pytest.mark.parametrize(("settings", "target", "goes"), [
    ('match: {prefix: "/api/"}, strip_prefix: "/api"', "/api/a%2Fb?x=", "/a%2Fb?x="),
    ('match: {prefix: "/api/"}, strip_prefix: "/api/"', "/api/a", "/a"),
    ('match: {prefix: "/api/"}, rewrite: "/v2/"', "/api/a/api/?q", "/v2/a/api/?q"),
    ('match: {path: "/one"}, rewrite: "/two"', "/one?q=1", "/two?q=1"),
    ('match: {regex: "/u/([0-9]+)/(.*)"}, rewrite: "/users/\\\\1/\\\\2"', "/u/7/a%20b?c", "/users/7/a%20b?c"),
])
def test_only_the_named_bytes_of_a_path_change(settings: str, target: str, goes: str) -> None:
    plan = plan_of(UPSTREAM + f"routes: [{{name: all, upstream: web, {settings.replace(chr(92) * 2, chr(92) * 2)}}}]\n")
    assert sent(plan, head_for(start=f"GET {target} HTTP/1.1"))[0] == goes.encode()


def test_a_version_in_base_and_path_is_sent_once() -> None:
    plan = plan_of("""
listeners: {public: {address: "127.0.0.1:8282"}}
upstreams: {llm: {protocol: openai_chat, endpoints: ["http://llm.example/v1"]}}
routes: [{name: all, upstream: llm}]
""")
    assert sent(plan, head_for(start="POST /v1/chat/completions HTTP/1.1"))[0] == b"/v1/chat/completions"
    assert sent(plan, head_for(start="GET /health HTTP/1.1"))[0] == b"/v1/health"


# ---- forwarding fields


def test_a_strangers_forwarding_fields_are_replaced() -> None:
    head = head_for("X-Forwarded-For: 6.6.6.6", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil.example",
                    "X-Real-IP: 6.6.6.6", "Forwarded: for=6.6.6.6", "X-Forwarded-Port: 1", "X-Request-ID: theirs")
    _, fields = sent(plan_of(PLAIN), head)
    assert values(fields, b"x-forwarded-for") == [b"192.0.2.7"]
    assert values(fields, b"x-forwarded-proto") == [b"http"]
    assert values(fields, b"x-forwarded-host") == [b"relay.example"]
    assert values(fields, b"x-real-ip") == [b"192.0.2.7"]
    assert values(fields, b"forwarded") == [b"for=192.0.2.7;host=relay.example;proto=http"] or (
        b"6.6.6.6" not in b"".join(fields) and len(values(fields, b"forwarded")) == 1)
    assert values(fields, b"x-forwarded-port") == []
    assert values(fields, b"x-request-id") == [b"id-1"]


def test_a_trusted_proxy_is_believed_and_put_behind_its_client() -> None:
    plan, client = plan_of(PLAIN), Client(trusted=True)
    head = head_for("X-Forwarded-For: 6.6.6.6, 203.0.113.9, 10.1.1.1", "X-Forwarded-Proto: https",
                    "X-Forwarded-Host: www.example", "Forwarded: for=203.0.113.9")
    origin = origin_for(client, head)
    _, fields = sent(plan, head, client)
    assert origin is not None and origin.client == "203.0.113.9"
    assert values(fields, b"x-real-ip") == [b"203.0.113.9"]
    assert values(fields, b"x-forwarded-for")[0].endswith(b"203.0.113.9, 10.1.1.1, 192.0.2.7")
    assert values(fields, b"x-forwarded-proto") == [b"https"]
    assert values(fields, b"x-forwarded-host") == [b"www.example"]
    assert values(fields, b"forwarded")[0].startswith(b"for=203.0.113.9, for=192.0.2.7")


def test_tls_is_in_the_forwarding_fields() -> None:
    assert values(sent(plan_of(PLAIN), head_for(), Client(tls=True))[1], b"x-forwarded-proto") == [b"https"]


def test_the_lines_of_a_connection_are_made_anew_for_another_host() -> None:
    plan, client = plan_of(PLAIN), Client()
    for host in ("a.example", "a.example", "b.example"):
        assert values(sent(plan, head_for(host=host), client)[1], b"x-forwarded-host") == [host.encode()]
    other = plan_of(PLAIN + "headers: {forwarded_host: X-Asked}\n")
    assert values(sent(other, head_for(host="b.example"), client)[1], b"x-asked") == [b"b.example"]


def test_the_names_of_own_fields_can_be_changed_and_switched_off() -> None:
    plan = plan_of(PLAIN + "headers: {real_ip: X-Client, forwarded_for: off, forwarded: off, via: off, request_id: off}\n")
    _, fields = sent(plan, head_for("X-Client: spoof", "X-Forwarded-For: spoof", "X-Request-ID: spoof"))
    assert values(fields, b"x-client") == [b"192.0.2.7"]
    assert b"spoof" not in b"".join(fields)
    assert not values(fields, b"forwarded") and not values(fields, b"via") and not values(fields, b"x-request-id")


def test_via_is_appended_to_and_has_the_version() -> None:
    plan = plan_of(PLAIN)
    assert values(sent(plan, head_for())[1], b"via") == [b"1.1 relayd"]
    assert values(sent(plan, head_for("Via: 1.1 a", "Via: 1.0 b"))[1], b"via") == [b"1.1 a, 1.0 b, 1.1 relayd"]
    assert values(sent(plan, head_for(start="GET / HTTP/1.0"))[1], b"via") == [b"1.0 relayd"]


@pytest.mark.parametrize("via", ["1.1 relayd", "1.1 a, 1.1 relayd (x)", "1.1 a,1.0 relayd"])
def test_an_own_name_in_via_is_a_loop(via: str) -> None:
    with pytest.raises(ExchangeError) as caught:
        sent(plan_of(PLAIN), head_for(f"Via: {via}"))
    assert caught.value.kind.status == 508


def test_a_longer_name_in_via_is_no_loop() -> None:
    assert sent(plan_of(PLAIN), head_for("Via: 1.1 relayd2, 1.1 xrelayd"))


@pytest.mark.parametrize(("value", "trusted", "forwarded"), [
    ("abc-1.2_X", True, True), ("abc", False, False), ("a" * 128, True, True), ("a" * 129, True, False), ("", True, False),
    ("a b", True, False), ("a\xe9", True, False), ("a;b", True, False),
])
def test_a_request_id_is_kept_if_well_formed_and_from_a_trusted_peer(value: str, trusted: bool, forwarded: bool) -> None:
    found = request_id_of(plan_of(PLAIN).header_names, Client(trusted=trusted), head_for(f"X-Request-ID: {value}"))
    assert found == (value.encode() if forwarded else None)


def test_without_a_name_there_is_no_request_id_to_keep() -> None:
    header_names = plan_of(PLAIN + "headers: {request_id: off}\n").header_names
    assert request_id_of(header_names, Client(trusted=True), head_for("X-Request-ID: a")) is None
