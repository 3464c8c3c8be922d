"""Which route takes a request, who is let in, what is changed on the way, and what a refusal looks like."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.message import Message, answer, request
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Upstream, saying, saying_then_close

TEAM, OTHER, HOUSE, NAMED, QUERY = "team-key-7f3a91", "other-key-55d1c2", "house-key-a1b2c3", "named-key-d4e5f6", "query-key-0a9b8c"


def CONFIG(folder: Path, url: str) -> dict[str, Any]:
    for name, key in (("team", TEAM), ("other", OTHER), ("house", HOUSE), ("named", NAMED), ("query", QUERY)):
        (folder / name).write_text(key + "\n")

    def secret(name: str) -> dict[str, str]:
        return {"file": str(folder / name)}

    return {
        "upstreams": {
            "up": {},
            "bearer": {"endpoints": [url], "auth": {"bearer": secret("house")}},
            "named": {"endpoints": [url], "auth": {"header": {"name": "x-api-key", "value": secret("named")}}},
            "query": {"endpoints": [url], "auth": {"query": {"name": "key", "value": secret("query")}}},
            "based": {"endpoints": [url + "/base/v1"]},
            "named_host": {"endpoints": [url], "host": "client"},
            "gone": {"endpoints": ["http://127.0.0.1:1"]},
            "ai": {"endpoints": ["http://127.0.0.1:1"], "protocol": "openai_chat"},
        },
        "consumers": {
            "team": {"bearer": secret("team")}, "other": {"header": {"name": "x-team-key", "value": secret("other")}},
        },
        "routes": [
            {"name": "exact", "match": {"path": "/exact"}, "respond": {"status": 201, "body": "exact", "headers": {"X-A": "b"}}},
            {"name": "regex", "match": {"regex": "/item/([0-9]+)"}, "upstream": "up", "rewrite": "/things/\\1.json"},
            {"name": "host", "match": {"host": ["*.apps.test", "One.test"]}, "respond": {"body": "host"}},
            {"name": "method", "match": {"prefix": "/by", "method": ["DELETE"]}, "respond": {"body": "method"}},
            {"name": "header", "match": {"prefix": "/by", "header": {"X-Kind": "blue"}}, "respond": {"body": "blue"}},
            {"name": "present", "match": {"prefix": "/by", "header": {"X-Kind": "*"}}, "respond": {"body": "present"}},
            {"name": "moved", "match": {"prefix": "/moved"}, "redirect": {"location": "https://{host}/new{path}{query}", "status": 307}},
            {"name": "strip", "match": {"prefix": "/strip/"}, "upstream": "up", "strip_prefix": "/strip"},
            {"name": "rewrite", "match": {"prefix": "/old/"}, "upstream": "up", "rewrite": "/new/path/"},
            {"name": "based", "match": {"prefix": "/based"}, "upstream": "based", "strip_prefix": "/based"},
            {"name": "edits", "match": {"prefix": "/edits"}, "upstream": "up",
             "request_headers": {"remove": ["X-Gone"], "set": {"X-Set": "new"}, "add": {"X-Add": "more"}},
             "response_headers": {"remove": ["Server"], "set": {"Cache-Control": "no-store"}, "add": {"X-Add": "out"}}},
            {"name": "team", "match": {"prefix": "/team"}, "upstream": "bearer", "allow": ["team"]},
            {"name": "both", "match": {"prefix": "/both"}, "upstream": "named", "allow": ["team", "other"]},
            {"name": "query", "match": {"prefix": "/query"}, "upstream": "query"},
            {"name": "through", "match": {"prefix": "/through"}, "upstream": "up", "pass_client_key": True, "allow": ["team"]},
            {"name": "open", "match": {"prefix": "/open"}, "upstream": "bearer"},
            {"name": "hosted", "match": {"prefix": "/hosted"}, "upstream": "named_host"},
            {"name": "cors", "match": {"prefix": "/cors"}, "upstream": "up",
             "cors": {"origins": ["https://app.test"], "credentials": True, "expose": ["X-Total"]}},
            {"name": "gone", "match": {"prefix": "/gone"}, "upstream": "gone"},
            {"name": "gone_text", "match": {"prefix": "/text-gone"}, "upstream": "gone", "errors": "text"},
            {"name": "ai", "match": {"prefix": "/ai"}, "upstream": "ai"},
            {"name": "only", "match": {"prefix": "/only/"}, "upstream": "up"},
            {"name": "secret-path", "match": {"prefix": "/private/"}, "upstream": "up", "allow": ["team"]},
        ],
    }


def ask(relay: Relay, target: bytes, *lines: bytes, **more: Any) -> Message:
    with relay.client() as client:
        return client.ask(request(target, *lines, **more))


def test_no_match_is_404(relay: Relay, upstream: Upstream) -> None:
    message = ask(relay, b"/nowhere")
    assert message.status == 404 and json.loads(message.body)["code"] == "no_route"
    assert upstream.nothing_came()


def test_a_fixed_answer_is_given_here(relay: Relay, upstream: Upstream) -> None:
    message = ask(relay, b"/exact")
    assert message.status == 201 and message.body == b"exact" and message.get("x-a") == b"b"
    assert ask(relay, b"/exact/").status == 404
    assert ask(relay, b"/exact?a=b").body == b"exact"
    assert ask(relay, b"/exact", method=b"HEAD").get("content-length") == b"5"
    assert upstream.nothing_came()


@pytest.mark.parametrize(("host", "status"), [(b"a.apps.test", 200), (b"A.b.Apps.Test:99", 200), (b"apps.test", 404), (b"ONE.test", 200), (b"two.test", 404)])
def test_host_names_choose(host: bytes, status: int, relay: Relay, upstream: Upstream) -> None:
    assert ask(relay, b"/by-host-only", host=host).status == status


def test_the_first_match_wins_over_method_and_header(relay: Relay, upstream: Upstream) -> None:
    assert ask(relay, b"/by", method=b"DELETE").body == b"method"
    assert ask(relay, b"/by", b"X-Kind: blue", method=b"DELETE").body == b"method"
    assert ask(relay, b"/by", b"x-kind: blue").body == b"blue"
    assert ask(relay, b"/by", b"X-Kind: red").body == b"present"
    assert ask(relay, b"/by").status == 404


def test_a_redirect_keeps_path_and_query(relay: Relay, upstream: Upstream) -> None:
    message = ask(relay, b"/moved/a%2fb?c=d", host=b"h.test")
    assert message.status == 307 and message.get("location") == b"https://h.test/new/moved/a%2fb?c=d"


@pytest.mark.parametrize(("target", "seen"), [
    (b"/strip/a%2Fb?c", b"/a%2Fb?c"), (b"/strip/", b"/"), (b"/old/x?y=z", b"/new/path/x?y=z"), (b"/item/42?a=b", b"/things/42.json?a=b"),
    (b"/based/models?x", b"/base/v1/models?x"),
])
def test_only_the_bytes_that_a_route_rewrites_change(target: bytes, seen: bytes, relay: Relay, upstream: Upstream) -> None:
    assert ask(relay, target).status == 200
    assert upstream.heads[-1].target == seen


def test_header_edits_work_both_ways(relay: Relay, upstream: Upstream) -> None:
    upstream.script = saying(answer(b"x", b"Server: s", b"cache-control: public", b"X-Add: in"))
    message = ask(relay, b"/edits", b"X-Gone: 1", b"x-set: old", b"X-Set: older", b"X-Add: mine")
    seen = upstream.heads[-1]
    assert seen.get("x-gone") is None and seen.get_all("x-set") == [b"new"] and seen.get_all("x-add") == [b"mine", b"more"]
    assert message.get("server") is None and message.get_all("cache-control") == [b"no-store"]
    assert message.get_all("x-add") == [b"in", b"out"]


@pytest.mark.parametrize("lines", [(), (b"Authorization: Bearer wrong",), (b"Authorization: Basic " + TEAM.encode(),), (b"Authorization: Bearer",),
                                   (b"Authorization: Bearer %s" % TEAM.encode(), b"Authorization: Bearer wrong")])
def test_who_has_no_valid_key_stays_out(lines: tuple[bytes, ...], relay: Relay, upstream: Upstream) -> None:
    message = ask(relay, b"/team", *lines, method=b"POST", body=b"{}")
    assert message.status in (400, 401)
    assert upstream.nothing_came()


def test_a_key_that_is_known_but_not_granted_is_403(relay: Relay, upstream: Upstream) -> None:
    message = ask(relay, b"/team", b"x-team-key: " + OTHER.encode())
    assert message.status == 403 and json.loads(message.body)["code"] == "forbidden"
    assert upstream.nothing_came()


def test_the_clients_key_stays_here_and_the_stored_key_goes_upstream(relay: Relay, upstream: Upstream) -> None:
    assert ask(relay, b"/team", b"Authorization: Bearer " + TEAM.encode()).status == 200
    assert upstream.heads[-1].get_all("authorization") == [b"Bearer " + HOUSE.encode()]
    assert ask(relay, b"/both", b"X-Team-Key: " + OTHER.encode(), b"x-api-key: mine").status == 200
    assert upstream.heads[-1].get_all("x-api-key") == [NAMED.encode()]
    assert upstream.heads[-1].get("x-team-key") is None and upstream.heads[-1].get("authorization") is None
    assert OTHER.encode() not in b"".join(value for _, value in upstream.heads[-1].fields)


def test_a_client_cannot_put_its_own_key_beside_the_stored_one(relay: Relay, upstream: Upstream) -> None:
    ask(relay, b"/open", b"Authorization: Bearer mine", b"authorization: Bearer mine2")
    assert upstream.heads[-1].get_all("authorization") == [b"Bearer " + HOUSE.encode()]


@pytest.mark.parametrize(("target", "seen"), [
    (b"/query", b"/query?key=KEY"), (b"/query?a=b", b"/query?a=b&key=KEY"), (b"/query?key=mine&a=b", b"/query?a=b&key=KEY"),
])
def test_a_key_in_the_query_is_added_last_and_displaces_the_clients(target: bytes, seen: bytes, relay: Relay, upstream: Upstream) -> None:
    assert ask(relay, target).status == 200
    assert upstream.heads[-1].target == seen.replace(b"KEY", QUERY.encode())


def test_a_route_may_pass_the_clients_key_through(relay: Relay, upstream: Upstream) -> None:
    assert ask(relay, b"/through", b"Authorization: Bearer " + TEAM.encode()).status == 200
    assert upstream.heads[-1].get_all("authorization") == [b"Bearer " + TEAM.encode()]


def test_the_host_may_be_the_clients(relay: Relay, upstream: Upstream) -> None:
    ask(relay, b"/hosted", host=b"asked.test:81")
    assert upstream.heads[-1].get_all("host") == [b"asked.test:81"]


@pytest.mark.parametrize("target", [b"/only/../private/x", b"/only/..%2fprivate/x", b"/only/%2e%2e/private/x", b"/only/%252e%252e/private/x", b"//private/x"])
def test_a_path_that_means_two_things_does_not_get_around_a_key(target: bytes, relay: Relay, upstream: Upstream) -> None:
    assert ask(relay, target).status in (400, 401, 404)
    assert upstream.nothing_came()


def test_a_preflight_is_answered_here(relay: Relay, upstream: Upstream) -> None:
    message = ask(relay, b"/cors", b"Origin: https://app.test", b"Access-Control-Request-Method: POST",
                  b"Access-Control-Request-Headers: authorization, content-type", method=b"OPTIONS")
    assert message.status in (200, 204) and upstream.nothing_came()
    assert message.get("access-control-allow-origin") == b"https://app.test"
    assert b"POST" in (message.get("access-control-allow-methods") or b"")
    assert b"authorization" in (message.get("access-control-allow-headers") or b"").lower()
    assert message.get("access-control-allow-credentials") == b"true"
    assert b"origin" in (message.get("vary") or b"").lower()


def test_a_foreign_origin_gets_no_permission(relay: Relay, upstream: Upstream) -> None:
    message = ask(relay, b"/cors", b"Origin: https://evil.test", b"Access-Control-Request-Method: POST", method=b"OPTIONS")
    assert message.get("access-control-allow-origin") is None
    assert ask(relay, b"/cors", b"Origin: https://evil.test").get("access-control-allow-origin") is None


def test_a_cross_origin_answer_carries_the_permission_once(relay: Relay, upstream: Upstream) -> None:
    upstream.script = saying(answer(b"x", b"Access-Control-Allow-Origin: *", b"X-Total: 1"))
    message = ask(relay, b"/cors", b"Origin: https://app.test")
    assert message.get_all("access-control-allow-origin") == [b"https://app.test"]
    assert message.get("access-control-expose-headers") == b"X-Total"


def test_errors_take_the_shape_of_the_route(relay: Relay, upstream: Upstream) -> None:
    problem = ask(relay, b"/gone")
    assert problem.status == 502 and (problem.get("content-type") or b"").startswith(b"application/problem+json")
    body = json.loads(problem.body)
    assert body["status"] == 502 and body["code"] == "connect_failed"
    ai = ask(relay, b"/ai/chat/completions", method=b"POST", body=b"{}")
    assert ai.status == 502 and json.loads(ai.body)["error"]["code"] == "connect_failed"
    assert {"message", "type", "param", "code"} <= set(json.loads(ai.body)["error"])
    text = ask(relay, b"/text-gone")
    assert (text.get("content-type") or b"").startswith(b"text/plain")
    assert (ask(relay, b"/gone", b"Accept: text/plain").get("content-type") or b"").startswith(b"text/plain")


def test_errors_carry_the_request_id_and_no_address(relay: Relay, upstream: Upstream) -> None:
    for target in (b"/gone", b"/ai/x", b"/text-gone", b"/nowhere"):
        message = ask(relay, target)
        assert message.get("x-request-id")
        assert b"127.0.0.1" not in message.body and b"curl" not in message.body.lower()


def test_an_error_on_head_has_no_body(relay: Relay, upstream: Upstream) -> None:
    with relay.client() as client:
        client.send(request(b"/nowhere", method=b"HEAD") + request(b"/exact"))
        assert client.answer(b"HEAD").status == 404
        assert client.answer().body == b"exact"


def test_an_error_before_the_body_was_read_does_not_take_the_body_for_a_request(relay: Relay, upstream: Upstream) -> None:
    inner = request(b"/exact")
    with relay.client() as client:
        client.send(request(b"/nowhere", method=b"POST", body=inner))
        client.finish()
        said = client.read_all()
    assert said.count(b"HTTP/1.1 ") == 1


def test_no_key_is_ever_written(relay: Relay, upstream: Upstream) -> None:
    answers = []
    for target in (b"/team?api_key=" + TEAM.encode(), b"/query?key=" + TEAM.encode(), b"/open?token=" + TEAM.encode(), b"/nowhere?key=" + TEAM.encode()):
        answers.append(ask(relay, target, b"Authorization: Bearer " + TEAM.encode(), b"x-api-key: " + NAMED.encode()))
    upstream.script = saying_then_close(b"garbage " + HOUSE.encode() + b"\r\n\r\n")
    answers.append(ask(relay, b"/open"))
    relay.record(path="/open", status=502)
    said = b"".join(message.start + message.body + repr(message.fields).encode() for message in answers)
    status = relay.admin("/status")[1] + relay.admin("/metrics")[1]
    for key in (TEAM, OTHER, HOUSE, NAMED, QUERY):
        for text in (said, status, relay.output()):
            assert key.encode() not in text
