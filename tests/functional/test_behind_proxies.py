"""Clients behind a trusted proxy are told apart everywhere: stored responses, affinity, queues, logs, redirects."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.client import Client
from tests.functional.harness.dialects.gateway import gateway
from tests.functional.harness.dialects.said import Asked, Reply, Say
from tests.functional.harness.faults import get, label, says, silent, until
from tests.functional.harness.message import request
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Peer, Upstream

TRUSTING = {"listeners": {"public": {"trusted_proxies": ["127.0.0.1", "10.0.0.0/8"]}}}
FORMS = {
    "x_forwarded_for": b"X-Forwarded-For: %b, 10.0.0.9",
    "forwarded": b"Forwarded: for=%b;proto=https, for=10.0.0.9",
}


def client_line(form: str, number: int) -> bytes:
    return FORMS[form] % (b"203.0.113.%d" % number)


@pytest.mark.parametrize("form", FORMS)
def test_a_stored_response_belongs_to_the_client_and_not_to_the_proxy(form: str, folder: Path) -> None:
    with gateway(folder, TRUSTING) as running:
        def brain(asked: Asked) -> Reply:
            return Say(("hello",))

        running.backs["openai_chat"].brain = brain
        body = {"model": "openai_chat", "input": "mine"}
        made = running.post("/v1/responses", body, client_line(form, 1))
        path = f"/v1/responses/{json.loads(made.body)['id']}"
        assert running.send("GET", path, None, client_line(form, 1)).status == 200
        assert running.send("GET", path, None, client_line(form, 2)).status == 404
        assert running.send("GET", path, None).status == 404
        assert running.send("DELETE", path, None, client_line(form, 2)).status == 404
        more = {**body, "previous_response_id": json.loads(made.body)["id"]}
        assert running.post("/v1/responses", more, client_line(form, 2)).status in (400, 404)
        assert running.post("/v1/responses", more, client_line(form, 1)).status == 200


@pytest.mark.parametrize("form", FORMS)
def test_what_is_hashed_by_client_is_spread_over_the_endpoints(form: str, folder: Path) -> None:
    with ExitStack() as stack:
        four = [stack.enter_context(Upstream()) for _ in range(4)]
        for name, one in zip((b"a", b"b", b"c", b"d"), four, strict=True):
            one.script = says(name)
        change = {**TRUSTING, "upstreams": {"up": {
            "endpoints": [one.url for one in four], "balance": "consistent_hash", "hash": {"by": ["client"]},
        }}}  # fmt: skip
        with Relay(folder, four[0].url, change) as relay:
            homes = [{get(relay, b"/x", client_line(form, number)).body for _ in range(3)} for number in range(120)]
            assert all(len(home) == 1 for home in homes)
            assert len(set().union(*homes)) == 4


def test_those_who_wait_are_named_and_served_by_client(folder: Path, upstream: Upstream) -> None:
    served: list[bytes] = []

    def script(peer: Peer, message: Any) -> None:
        peer.whole(message)
        served.append(message.get("x-real-ip") or b"")
        says(b"ok")(peer, message)

    upstream.script = silent
    change = {**TRUSTING, "upstreams": {"up": {"limits": {"requests": 1, "queue": 8, "queue_timeout": "60s"}}}}
    with Relay(folder, upstream.url, change) as relay, ExitStack() as stack:
        first = relay.client()
        first.send(request(b"/first", client_line("x_forwarded_for", 9)))
        until(lambda: len(upstream.heads) == 1, what="the first request")
        waiters = []
        for number in (1, 1, 1, 2):  # the last one comes behind three of another client
            client = stack.enter_context(Client(relay.address))
            client.send(request(b"/x", client_line("x_forwarded_for", number)))
            waiters.append(client)
            until(lambda: len(json.loads(relay.admin("/queue")[1])["waiting"]) == len(waiters), what="the queue")
        waiting = json.loads(relay.admin("/queue")[1])["waiting"]
        assert [one["consumer"] for one in waiting] == ["203.0.113.1", "203.0.113.2", "203.0.113.1", "203.0.113.1"]
        upstream.script = script
        first.close()
        for client in waiters:
            assert client.answer().status == 200
        assert served == [b"203.0.113.1", b"203.0.113.2", b"203.0.113.1", b"203.0.113.1"]


def test_also_what_is_refused_or_answered_here_is_logged_under_its_client(folder: Path, upstream: Upstream) -> None:
    routes = [
        {"name": "away", "match": {"prefix": "/away"}, "redirect": {"status": 308, "location": "https://{host}/new{query}"}},
        {"name": "shut", "match": {"prefix": "/shut"}, "upstream": "up", "allow": ["team"]},
    ]
    (folder / "team").write_text("team-key-0123456789")
    (folder / "team").chmod(0o600)
    change = {**TRUSTING, "routes": routes, "consumers": {"team": {"bearer": {"file": str(folder / "team")}}}}
    with Relay(folder, upstream.url, change) as relay:
        lines = [
            b"X-Forwarded-For: 203.0.113.7", b"X-Forwarded-Proto: https", b"X-Forwarded-Host: www.example:8443",
        ]
        moved = get(relay, b"/away?a=1", *lines)
        assert moved.get("location") == b"https://www.example:8443/new?a=1"
        assert get(relay, b"/shut", *lines).status == 401 and get(relay, b"/none", *lines).status == 404
        for route in ("away", "shut", ""):
            record = relay.record(route=route)
            assert (record["peer"], record["client"]) == ("127.0.0.1", "203.0.113.7")


HOPS: dict[str, tuple[list[bytes], dict[str, bytes]]] = {
    "x_forwarded": (
        [b"X-Forwarded-For: 203.0.113.7, 10.0.0.9", b"X-Forwarded-Proto: https", b"X-Forwarded-Host: www.example"],
        {
            "x-forwarded-for": b"203.0.113.7, 10.0.0.9, 127.0.0.1", "x-forwarded-proto": b"https", "x-real-ip": b"203.0.113.7",
            "forwarded": b"for=203.0.113.7;host=www.example;proto=https, for=10.0.0.9, for=127.0.0.1;host=relay.test;proto=http",
        },
    ),
    "forwarded": (
        [b'Forwarded: for="[2001:db8::7]:4711";proto=https;host="www.example:8443", for=10.0.0.9;proto=http'],
        {
            "x-forwarded-for": b"2001:db8::7, 10.0.0.9, 127.0.0.1", "x-forwarded-proto": b"https", "x-real-ip": b"2001:db8::7",
            "x-forwarded-host": b"www.example:8443",
            "forwarded": b'for="[2001:db8::7]:4711";proto=https;host="www.example:8443", for=10.0.0.9;proto=http, '
                         b"for=127.0.0.1;host=relay.test;proto=http",
        },
    ),
    "both": (
        [b"X-Forwarded-For: 203.0.113.7", b"Forwarded: for=6.6.6.6;proto=http", b"X-Forwarded-Proto: https"],
        {
            "x-forwarded-for": b"203.0.113.7, 127.0.0.1", "x-forwarded-proto": b"https", "x-real-ip": b"203.0.113.7",
            "forwarded": b"for=203.0.113.7;proto=https, for=127.0.0.1;host=relay.test;proto=http",
        },
    ),
    "hidden": (
        [b"Forwarded: for=_SEVKISEK;proto=https"],
        {
            "x-forwarded-for": b"127.0.0.1", "x-forwarded-proto": b"https", "x-real-ip": b"127.0.0.1",
            "forwarded": b"for=_SEVKISEK;proto=https, for=127.0.0.1;host=relay.test;proto=http",
        },
    ),
    "malformed": (
        [b"Forwarded: for=\"203.0.113.7"],
        {"x-forwarded-for": b"127.0.0.1", "x-forwarded-proto": b"http", "forwarded": b"for=127.0.0.1;host=relay.test;proto=http"},
    ),
}


@pytest.mark.parametrize("name", HOPS)
def test_all_forwarding_fields_say_the_same(name: str, folder: Path, upstream: Upstream) -> None:
    lines, expected = HOPS[name]
    with Relay(folder, upstream.url, TRUSTING) as relay, relay.client() as client:
        assert client.ask(request(b"/", *lines, host=b"relay.test")).status == 200
        seen = upstream.heads[-1]
        assert {field: seen.get(field) for field in expected} == expected
        assert label(relay.record(path="/")["client"]) == expected.get("x-real-ip", b"127.0.0.1").decode()
