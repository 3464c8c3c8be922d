"""The admin application over a route is the one of the admin socket: its live events, its actions, every method, each
behind `allow:`."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.client import Client
from tests.functional.harness.faults import until
from tests.functional.harness.message import chunk, request
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Upstream

KEY = b"sk-ops-0123456789abcdef"
AUTH = b"Authorization: Bearer " + KEY


def routes(*more: dict[str, Any]) -> dict[str, Any]:
    inside = {"upstream": "admin", "admin_prefix": "/in", "allow": ["ops"]}
    return {"routes": [
        {"name": "inside", "match": {"prefix": "/in/"}, "admin_write": True, **inside},
        {"name": "read", "match": {"prefix": "/read/"}, **inside, "admin_prefix": "/read"},
        *more,
        {"name": "all", "match": {"prefix": "/"}, "upstream": "up"},
    ]}


@pytest.fixture
def alone(upstream: Upstream, folder: Path) -> Iterator[Relay]:
    """A relayd of one test: it is changed and stopped."""
    (folder / "ops").write_bytes(KEY)
    change = {"consumers": {"ops": {"bearer": {"file": str(folder / "ops")}}}, "daemon": {"drain_timeout": "300s"}, **routes()}
    with Relay(folder, upstream.url, change) as running:
        yield running


def events(client: Client) -> tuple[str, dict[str, Any]]:
    """The next event of the stream: its name and its data."""
    size = int(client.take_until(b"\r\n"), 16)
    lines = client.take(size + 2).decode().split("\n")
    name, data = (next(line.partition(": ")[2] for line in lines if line.startswith(word)) for word in ("event:", "data:"))
    return name, json.loads(data)


def listening(relay: Relay, path: bytes = b"/in/events") -> Client:
    client = relay.client()
    client.send(request(path, AUTH))
    head = client.head_of_answer()
    assert head.status == 200 and head.get("content-type") == b"text/event-stream; charset=utf-8"
    return client


def state_of(relay: Relay) -> tuple[str, str]:
    """Address and state of the only endpoint."""
    (one,) = relay.status()["upstreams"][0]["endpoints"]
    return one["endpoint"], one["state"]


def test_live_events_come_over_a_route_and_show_what_is_under_way(alone: Relay) -> None:
    with listening(alone) as client, listening(alone, b"/read/events") as other:
        name, told = events(client)
        assert name == "status" and told["phase"] == "serving"
        name, told = events(client)
        assert {one["path"] for one in told["exchanges"]} == {"/in/events", "/read/events"}
        assert events(other)[0] == "status"


def test_a_client_that_leaves_the_events_is_gone_at_once(alone: Relay) -> None:
    with listening(alone) as client:
        events(client)
        assert alone.exchanges() == 1
    alone.wait_quiet()
    record = alone.record(path="/in/events")
    assert (record["status"], record["code"]) == (200, "client_gone")


def test_events_end_cleanly_when_a_newer_configuration_is_in_force(alone: Relay) -> None:
    with listening(alone) as client:
        events(client)
        alone.write(routes({"name": "new", "match": {"path": "/new"}, "respond": {"status": 200}}))
        with alone.client() as other:
            answer = other.ask(request(b"/in/reload", AUTH, method=b"POST"))
            assert answer.status == 200 and json.loads(answer.body)["accepted"] is True
        while (size := client.take_until(b"\r\n")) != b"0\r\n":
            client.take(int(size, 16) + 2)
        assert client.take(2) == b"\r\n"
        client.send(request(b"/in/events", AUTH))  # a browser opens it anew, on the same connection
        assert client.head_of_answer().status == 200


def test_a_drain_does_not_wait_for_those_who_read_the_events(alone: Relay) -> None:
    with listening(alone) as client:
        events(client)
        assert alone.stop(timeout_s=60) == 0  # not after drain_timeout, which is longer
        assert client.read_all().endswith(b"0\r\n\r\n")


def test_a_reload_over_a_route_tells_what_became_of_it(alone: Relay) -> None:
    alone.write({"routes": [{"name": "bad", "match": {"prefix": "/"}, "upstream": "nobody"}]})
    with alone.client() as client:
        answer = client.ask(request(b"/in/reload", AUTH, method=b"POST"))
        assert answer.status == 422 and "nobody" in json.loads(answer.body)["findings"][0]
        answer = client.ask(request(b"/in/diff", AUTH, method=b"POST"))
        assert answer.status == 422 and "nobody" in json.loads(answer.body)["findings"][0]
        assert client.ask(request(b"/read/reload", AUTH, method=b"POST")).status == 403


def test_an_action_with_a_body_is_done_when_its_request_is_whole(alone: Relay) -> None:
    address, state = state_of(alone)
    assert state == "enabled"
    path = b"/in/upstreams/up/endpoints/" + address.replace(":", "%3A").replace("/", "%2F").encode() + b"/drain"
    chunked = request(path, AUTH, b"Transfer-Encoding: chunked", method=b"POST")
    with alone.client() as cut:
        cut.send(chunked + chunk(b"{"))
        until(lambda: alone.exchanges() == 1)
        assert state_of(alone)[1] == "enabled"
        cut.sock.shutdown(socket.SHUT_RDWR)
    alone.wait_quiet()
    assert state_of(alone)[1] == "enabled"
    with alone.client() as client:
        answer = client.ask(chunked + chunk(b"{") + chunk(b"}") + chunk(b""))
        assert answer.status == 200 and json.loads(answer.body)["endpoint"]["state"] == "draining"
        assert state_of(alone)[1] == "draining"
        client.send(request(path, AUTH, b"Content-Length: 100000", method=b"POST") + bytes(66_000))
        assert client.answer(b"POST").status == 413


@pytest.mark.parametrize("over_the_socket", [False, True])
def test_every_method_is_answered_with_those_that_a_path_has(alone: Relay, over_the_socket: bool) -> None:
    address = alone.admin_path if over_the_socket else alone.address
    before = b"" if over_the_socket else b"/in"
    for method in (b"PUT", b"PATCH", b"DELETE", b"OPTIONS"):
        for path, allow in ((b"/status", b"GET, HEAD"), (b"/events", b"GET, HEAD"), (b"/reload", b"POST")):
            with Client(address) as client:
                answer = client.ask(request(before + path, AUTH, b"Content-Length: 2", method=method) + b"{}")
                assert (answer.status, answer.get("allow")) == (405, allow)
    with Client(address) as client:
        answer = client.ask(request(before + b"/events", AUTH, method=b"HEAD"))
        assert answer.status == 200 and answer.get("content-length") is None


def test_allow_stands_before_all_of_it(alone: Relay) -> None:
    for method, path in ((b"GET", b"/in/events"), (b"POST", b"/in/reload"), (b"PUT", b"/in/x"), (b"GET", b"/read/status")):
        with alone.client() as client:
            assert client.ask(request(path, method=method)).status == 401


def test_a_page_of_another_site_cannot_request_an_action(alone: Relay) -> None:
    """A proxy before relayd may add the key to the requests of a browser, or the browser sends a client certificate."""
    target = request(b"/in/reload", AUTH, b"Connection: close", method=b"POST", host=b"relayd.test")
    for fields, status in (
        (b"Origin: https://evil.test", 403), (b"Origin: null", 403), (b"Sec-Fetch-Site: cross-site", 403),
        (b"Origin: http://relayd.test", 200), (b"Sec-Fetch-Site: same-origin\r\nOrigin: https://public.test", 200),
    ):
        with alone.client() as client:
            message = client.ask(target.replace(AUTH, AUTH + b"\r\n" + fields))
            assert message.status == status, (fields, message.body)
            assert (json.loads(message.body).get("error", {}).get("code") == "cross_site") is (status == 403)
