"""The dashboard over a route: sign-in with a key, sessions and their ends, tokens of actions, the event stream."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.client import Client
from tests.functional.harness.faults import until
from tests.functional.harness.message import Message, request
from tests.functional.harness.relay import ROOT, Relay
from tests.functional.harness.upstream import Upstream

KEY = b"sk-ops-0123456789abcdef"
OTHER = b"sk-other-0123456789abcdef"
FORM = b"Content-Type: application/x-www-form-urlencoded"
HOST = b"relayd.test"


@pytest.fixture
def alone(upstream: Upstream, folder: Path) -> Iterator[Relay]:
    """A relayd of one test: its configuration is changed."""
    for name, key in (("ops", KEY), ("other", OTHER)):
        (folder / name).write_bytes(key)
    change = {
        "consumers": {name: {"key": {"file": str(folder / name)}} for name in ("ops", "other")},
        "routes": [
            {"name": "pages", "match": {"prefix": "/dashboard/"}, "upstream": "admin", "allow": ["ops"], "admin_write": True},
            {"name": "all", "match": {"prefix": "/"}, "upstream": "up"},
        ],
    }
    with Relay(folder, upstream.url, change) as running:
        yield running


def ask(relay: Relay, path: str, *fields: bytes, method: bytes = b"GET", body: bytes | None = None) -> Message:
    with relay.client() as client:
        return client.ask(request(path.encode(), *fields, b"Connection: close", method=method, body=body))


def sign_in(relay: Relay, key: bytes = KEY, *fields: bytes) -> Message:
    return ask(relay, "/dashboard/sign-in", FORM, *fields, method=b"POST", body=b"key=" + key)


def cookie(message: Message) -> bytes:
    field = message.get("set-cookie")
    assert field is not None
    return b"Cookie: other=1; " + field.partition(b";")[0]


def session(relay: Relay, mine: bytes) -> dict[str, Any]:
    message = ask(relay, "/dashboard/session", mine)
    assert message.status == 200
    found: dict[str, Any] = json.loads(message.body)
    return found


def events(client: Client) -> tuple[str, dict[str, Any], bytes]:
    """The next event: its name, its data and its id."""
    while True:
        size = int(client.take_until(b"\r\n"), 16)
        fields = dict(line.split(": ", 1) for line in client.take(size + 2).decode().strip().split("\n") if ": " in line)
        if "event" in fields:
            return fields["event"], json.loads(fields["data"]), fields["id"].encode()


@contextlib.contextmanager
def listening(relay: Relay, *fields: bytes) -> Iterator[Client]:
    with relay.client() as client:
        client.send(request(b"/dashboard/events", *fields))
        head = client.head_of_answer()
        assert head.status == 200 and head.get("content-type") == b"text/event-stream; charset=utf-8"
        yield client


def test_a_browser_signs_in_once_and_acts_with_the_token_of_its_session(alone: Relay) -> None:
    page = ask(alone, "/dashboard/")
    assert page.status == 200 and b'name="key"' in page.body
    policy = page.get("content-security-policy") or b""
    assert b"default-src 'none'" in policy and b"unsafe" not in policy
    assert ask(alone, "/dashboard/static/page.css").status == 200
    for path in ("/dashboard/session", "/dashboard/events", "/dashboard/actions/reload", "/dashboard/../status"):
        assert ask(alone, path).status in (400, 401), path
    answer = sign_in(alone)
    field = answer.get("set-cookie") or b""
    assert answer.status == 303 and b"HttpOnly" in field and b"SameSite=Strict" in field and b"Max-Age=28800" in field
    mine = cookie(answer)
    assert b"main.js" in ask(alone, "/dashboard/", mine).body
    token = session(alone, mine)["token"].encode()
    assert ask(alone, "/dashboard/actions/reload", mine, method=b"POST").status == 403
    assert ask(alone, "/dashboard/actions/reload", mine, b"X-Relayd-Token: x" + token, method=b"POST").status == 403
    right = (mine, b"X-Relayd-Token: " + token)
    for origin in (b"Origin: https://evil.test", b"Origin: null", b"Sec-Fetch-Site: cross-site"):
        refused = ask(alone, "/dashboard/actions/reload", *right, origin, method=b"POST")
        assert (refused.status, json.loads(refused.body)["error"]["code"]) == (403, "cross_site")
        assert sign_in(alone, KEY, origin).status == 403
    assert ask(alone, "/dashboard/actions/reload", *right, b"Origin: http://" + HOST, method=b"POST").status == 200
    assert ask(alone, "/dashboard/actions/status", mine).status == 404  # actions only
    assert KEY not in alone.output() and token not in alone.output()
    assert ask(alone, "/dashboard/sign-out", mine, method=b"POST").status == 403
    assert ask(alone, "/dashboard/sign-out", *right, method=b"POST").status == 303
    assert ask(alone, "/dashboard/session", mine).status == 401


def test_wrong_keys_are_refused_and_counted_and_forbidden_ones_see_nothing(alone: Relay) -> None:
    answer = sign_in(alone, b"sk-wrong%3Cscript%3E")
    assert answer.status == 401 and b"not known" in answer.body and b"<script>" not in answer.body
    assert answer.get("set-cookie") is None and answer.get("www-authenticate") is None
    assert sign_in(alone, OTHER).status == 403
    assert sign_in(alone, b"").status == 401
    assert sign_in(alone, bytes(9000)).status == 413
    statuses = [sign_in(alone, b"sk-%d" % number).status for number in range(105)]
    assert statuses[0] == 401 and statuses[-1] == 429
    assert sign_in(alone).status == 429  # also the right one, so that the answer tells nothing


def test_a_session_ends_with_its_consumer_and_so_does_its_event_stream(alone: Relay, folder: Path) -> None:
    mine = cookie(sign_in(alone))
    (folder / "ops").write_bytes(b"sk-new-0123456789abcdef")
    with listening(alone, mine) as client:
        assert events(client)[0] == "state"
        assert alone.admin("/reload", "POST")[0] == 200
        while (size := client.take_until(b"\r\n")) != b"0\r\n":
            client.take(int(size, 16) + 2)
    assert ask(alone, "/dashboard/session", mine).status == 401
    assert b'name="key"' in ask(alone, "/dashboard/", mine).body
    mine = cookie(sign_in(alone, b"sk-new-0123456789abcdef"))
    assert session(alone, mine)["consumer"] == "ops"


def test_the_stream_sends_the_state_once_and_then_changes_and_resumes(alone: Relay) -> None:
    mine = cookie(sign_in(alone))
    with listening(alone, mine) as client:
        name, data, _ = events(client)
        assert name == "state" and data["columns"]["streams"][2] == "method"
        assert [row[3] for row in data["tables"]["streams"].values()] == ["/dashboard/events"]
        assert ask(alone, "/something").status == 200
        requests = 0
        while not requests:
            name, data, last = events(client)
            assert name == "change" and "columns" not in data
            requests = "history" in data
    with listening(alone, mine, b"Last-Event-ID: " + last) as client:
        assert events(client)[0] == "change"
    with listening(alone, mine, b"Last-Event-ID: 00000000-1") as client:
        assert events(client)[0] == "state"


def test_event_streams_are_bounded_for_each_session_and_in_total(alone: Relay) -> None:
    with contextlib.ExitStack() as stack:
        sessions = [cookie(sign_in(alone)) for _ in range(9)]
        for mine in sessions[:8]:
            for _ in range(6):
                stack.enter_context(listening(alone, mine))
        seventh = ask(alone, "/dashboard/events", sessions[0])
        assert (seventh.status, seventh.get("retry-after")) == (429, b"10")
        for _ in range(2):
            stack.enter_context(listening(alone, sessions[8]))
        late = ask(alone, "/dashboard/events", sessions[8])
        assert (late.status, json.loads(late.body)["error"]["code"]) == (503, "too_many_streams")
        assert ask(alone, "/still-served").status == 200
    until(lambda: alone.exchanges() == 0)
    with listening(alone, sessions[0]) as client:
        assert events(client)[0] == "state"


def test_the_socket_serves_browsers_behind_a_forwarded_port_only(alone: Relay) -> None:
    def over(data: bytes) -> Message:
        with Client(alone.admin_path) as client:
            return client.ask(data)

    local, evil = b"localhost:8080", b"Origin: http://evil.test"
    assert b"main.js" in over(request(b"/dashboard/", host=local)).body
    assert over(request(b"/dashboard/session", host=b"evil.test")).status == 403
    assert over(request(b"/reload", evil, method=b"POST", host=b"evil.test")).status == 403
    # A script may set User-Agent in Firefox, and a GET of the same origin has no Origin.
    script = (b"User-Agent: curl/8.0", b"Accept-Language: ")
    assert over(request(b"/status", *script, host=b"evil.test:8080")).status == 403
    assert over(request(b"/status", *script, host=local)).status == 200
    for host in (b"relayd", b"x", b"relay.example:9100", b"192.0.2.1:9100"):
        for path, agent in ((b"/metrics", b"Prometheus/3.5.0"), (b"/health", b"curl/8.0"), (b"/status", b"Go-http-client/1.1")):
            assert over(request(path, b"User-Agent: " + agent, host=host)).status == 200
    answer = over(request(b"/reload", evil, method=b"POST", host=local))
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (403, "cross_site")
    assert over(request(b"/reload", b"Origin: http://" + local, method=b"POST", host=local)).status == 200


def test_a_stream_is_cancelled_by_its_id(alone: Relay) -> None:
    right = b"X-API-Key: " + KEY
    mine = cookie(sign_in(alone))
    with listening(alone, mine) as client:
        events(client)
        (one,) = alone.status()["exchanges"]
        answer = ask(alone, f"/dashboard/actions/streams/{one['id']}/cancel", right, method=b"POST")
        assert answer.status == 200 and json.loads(answer.body)["cancelled"]["id"] == one["id"]
        client.read_all()
    assert alone.record(id=one["id"])["code"] == "stopped"
    assert ask(alone, f"/dashboard/actions/streams/{one['id']}/cancel", right, method=b"POST").status == 404


def test_a_thousand_clients_of_the_event_stream_are_answered_and_others_served(alone: Relay) -> None:
    key = b"X-API-Key: " + KEY
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(listening(alone, key))
        with alone.client() as client:
            for _ in range(950):
                assert client.ask(request(b"/dashboard/events", key)).status == 503
        assert ask(alone, "/still-served").status == 200
        assert alone.exchanges() == 50
    alone.wait_quiet()


def test_a_revoked_key_ends_its_session_and_its_event_stream(upstream: Upstream, folder: Path) -> None:
    change = {
        "groups": {"admins": {}},
        "routes": [{"name": "pages", "match": {"prefix": "/dashboard/"}, "upstream": "admin", "allow": ["admins"], "admin_write": True}],
    }
    environment = {"STATE_DIRECTORY": f"{folder}/state:{folder}/keys"}
    with Relay(folder, upstream.url, change, environment=environment) as relay:

        def keys(*words: str) -> str:
            command = [sys.executable, "-m", "relayd", "keys", *words, "--state", str(folder), "-c", str(relay.file)]
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True
            )
            return done.stdout.strip()

        key = keys("create", "alice", "--group", "admins").encode()
        mine = cookie(sign_in(relay, key))
        assert session(relay, mine)["consumer"] == "alice"
        with listening(relay, mine) as client:
            assert events(client)[0] == "state"
            keys("revoke", "alice")
            while (size := client.take_until(b"\r\n")) != b"0\r\n":
                client.take(int(size, 16) + 2)
        assert ask(relay, "/dashboard/session", mine).status == 401
        assert ask(relay, "/dashboard/actions/reload", mine, method=b"POST").status == 401
        assert sign_in(relay, key).status == 401
