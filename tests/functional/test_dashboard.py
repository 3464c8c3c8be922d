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

from relayd.cli.top.live_state import LiveState
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


def test_event_streams_are_bounded_for_each_session_each_consumer_and_in_total(upstream: Upstream, folder: Path) -> None:
    keys = [b"sk-%d-0123456789abcdef" % number for number in range(4)]
    for number, key in enumerate(keys):
        (folder / f"key-{number}").write_bytes(key)
    names = [f"ops-{number}" for number in range(4)]
    change = {
        "consumers": {name: {"key": {"file": str(folder / f"key-{number}")}} for number, name in enumerate(names)},
        "routes": [
            {"name": "pages", "match": {"prefix": "/dashboard/"}, "upstream": "admin", "allow": names},
            {"name": "all", "match": {"prefix": "/"}, "upstream": "up"},
        ],
    }
    with Relay(folder, upstream.url, change) as relay, contextlib.ExitStack() as stack:
        sessions = [cookie(sign_in(relay, keys[0])) for _ in range(4)]
        for mine, count in zip(sessions, (6, 6, 6, 2), strict=True):
            for _ in range(count):
                stack.enter_context(listening(relay, mine))
        for mine in (sessions[0], sessions[3]):  # the bound of a session, and that of a consumer
            refused = ask(relay, "/dashboard/events", mine)
            assert (refused.status, refused.get("retry-after")) == (429, b"10")
        for key, count in ((keys[1], 20), (keys[2], 5)):  # other consumers have places, until there are none
            for _ in range(count):
                stack.enter_context(listening(relay, b"X-API-Key: " + key))
        late = ask(relay, "/dashboard/events", b"X-API-Key: " + keys[3])
        assert (late.status, json.loads(late.body)["error"]["code"]) == (503, "too_many_streams")
        with Client(relay.admin_path) as local:  # the socket has places of its own
            local.send(request(b"/dashboard/events", host=b"localhost"))
            assert local.head_of_answer().status == 200
        assert ask(relay, "/still-served").status == 200
        stack.close()
        until(lambda: relay.exchanges() == 0)
        with listening(relay, sessions[0]) as client:
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
        for _ in range(20):
            stack.enter_context(listening(alone, key))
        with alone.client() as client:
            for _ in range(980):
                assert client.ask(request(b"/dashboard/events", key)).status == 429
        assert ask(alone, "/still-served").status == 200
        assert alone.exchanges() == 20
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
        with listening(relay, mine) as client, listening(relay, b"Authorization: Bearer " + key) as with_key:
            for one in (client, with_key):
                assert events(one)[0] == "state"
            keys("revoke", "alice")
            for one in (client, with_key):
                while (size := one.take_until(b"\r\n")) != b"0\r\n":
                    one.take(int(size, 16) + 2)
        assert ask(relay, "/dashboard/session", mine).status == 401
        assert ask(relay, "/dashboard/actions/reload", mine, method=b"POST").status == 401
        assert sign_in(relay, key).status == 401


def test_two_requests_with_the_same_id_are_two_rows_and_each_is_cancelled_by_its_number(upstream: Upstream, folder: Path) -> None:
    change = {
        "listeners": {"public": {"trusted_proxies": ["127.0.0.1"]}},
        "routes": [{"name": "pages", "match": {"prefix": "/dashboard/"}, "upstream": "admin"}],
    }
    with Relay(folder, upstream.url, change) as relay, contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(listening(relay, b"X-Request-ID: mine")) for _ in range(2))
        live = LiveState()
        while len(rows := {one["key"]: one["id"] for one in live.rows("streams")}) < 2:
            name, data, _ = events(first)
            live.replace(data) if name == "state" else live.change(data)
        assert set(rows.values()) == {"mine"}
        status, body = relay.admin("/streams/mine/cancel", "POST")
        assert status == 409 and set(rows) == set(json.loads(body)["error"]["message"].rpartition(": ")[2].strip(".").split(", "))
        older = json.loads(relay.admin("/streams")[1])["streams"][0]["number"]
        assert older in rows and relay.admin(f"/streams/{older}/cancel", "POST")[0] == 200
        first.read_all()
        until(lambda: relay.exchanges() == 1)
        events(second)


HOST_OF_PAGE = (b"Accept-Language: en", b"User-Agent: Mozilla/5.0")


@pytest.fixture
def by_address(upstream: Upstream, folder: Path) -> Iterator[Relay]:
    """A relayd whose operators are known by their address, and whose other pages are for everybody."""
    (folder / "ops").write_bytes(KEY)
    admin = {"upstream": "admin", "allow": ["lan", "ops"], "admin_write": True}
    change = {
        "consumers": {"lan": {"addresses": ["127.0.0.1"]}, "ops": {"key": {"file": str(folder / "ops")}}},
        "routes": [
            {"name": "named", "match": {"prefix": "/named/", "host": "relayd.test"}, "admin_prefix": "/named", **admin},
            {"name": "inside", "match": {"prefix": "/in/"}, "admin_prefix": "/in", **admin},
            {"name": "open", "match": {"prefix": "/open/"}, "upstream": "admin", "admin_prefix": "/open"},
        ],
    }
    with Relay(folder, upstream.url, change) as relay:
        yield relay


def test_a_page_under_a_foreign_name_does_nothing_with_the_address_of_its_browser(by_address: Relay) -> None:
    def status(path: bytes, *fields: bytes, method: bytes = b"GET", host: bytes = b"evil.test:8080") -> tuple[int, str]:
        with by_address.client() as client:
            answer = client.ask(request(path, *fields, b"Connection: close", method=method, host=host))
        found = json.loads(answer.body) if answer.status == 403 else {}
        return answer.status, found.get("error", {}).get("code", "")

    rebound = (*HOST_OF_PAGE, b"Origin: http://evil.test:8080", b"Sec-Fetch-Site: same-origin")
    for path, method in ((b"/in/status", b"GET"), (b"/in/dashboard/", b"GET"), (b"/in/events", b"GET"), (b"/in/reload", b"POST")):
        assert status(path, *rebound, method=method) == (403, "wrong_host"), path
    assert status(b"/in/reload", b"Origin: http://evil.test:8080", method=b"POST") == (403, "wrong_host")
    assert status(b"/in/status", *rebound, b"Authorization: Bearer sk-guess")[0] == 401
    # Its own pages, under an address, as localhost, or under a name that the route states:
    for host in (b"127.0.0.1:8080", b"localhost:8080", b"[::1]:8080"):
        own = (*HOST_OF_PAGE, b"Origin: http://" + host, b"Sec-Fetch-Site: same-origin")
        assert status(b"/in/reload", *own, method=b"POST", host=host) == (200, "")
    named = (*HOST_OF_PAGE, b"Origin: http://relayd.test")
    assert status(b"/named/reload", *named, method=b"POST", host=b"relayd.test") == (200, "")
    # A known key, programs, and pages for everybody:
    assert status(b"/in/status", *rebound, b"X-API-Key: " + KEY) == (200, "")
    assert status(b"/in/status", b"User-Agent: curl/8.0") == (200, "")
    assert status(b"/in/reload", b"User-Agent: curl/8.0", method=b"POST") == (200, "")
    assert status(b"/open/status", *rebound) == (200, "")


def test_a_page_of_another_site_reads_nothing_and_an_action_needs_the_name_of_its_site(by_address: Relay) -> None:
    def status(path: bytes, *fields: bytes, method: bytes = b"GET") -> int:
        with by_address.client() as client:
            return int(client.ask(request(path, *HOST_OF_PAGE, *fields, b"Connection: close", method=method, host=b"127.0.0.1")).status)

    other = (b"Sec-Fetch-Site: cross-site", b"Origin: https://evil.test")
    assert status(b"/in/events", *other, b"Sec-Fetch-Mode: cors") == 403
    assert status(b"/in/status", b"Origin: https://evil.test") == 403
    assert status(b"/in/reload", *other, method=b"POST") == 403
    assert status(b"/in/reload", method=b"POST") == 403  # a browser that names no site
    assert status(b"/in/dashboard/", b"Sec-Fetch-Site: cross-site", b"Sec-Fetch-Mode: navigate") == 200  # a link
    assert status(b"/in/status", b"Sec-Fetch-Site: none") == 200


def test_a_generation_is_rolled_back_and_the_next_reload_uses_the_files_again(upstream: Upstream, folder: Path) -> None:
    routes: list[dict[str, Any]] = [
        {"name": "pages", "match": {"prefix": "/dashboard/"}, "upstream": "admin", "allow": ["ops"], "admin_write": True},
        {"name": "all", "match": {"prefix": "/"}, "respond": {"status": 200, "body": "old"}},
    ]
    (folder / "ops").write_bytes(KEY)
    change = {"consumers": {"ops": {"key": {"file": str(folder / "ops")}}}, "routes": routes}
    with Relay(folder, upstream.url, change, environment={"STATE_DIRECTORY": str(folder / "state")}) as relay:
        mine = cookie(sign_in(relay))
        token = b"X-Relayd-Token: " + session(relay, mine)["token"].encode()

        def act(path: str, *fields: bytes) -> tuple[int, dict[str, Any]]:
            message = ask(relay, f"/dashboard/actions/generations/{path}", mine, *fields, method=b"POST")
            return message.status, json.loads(message.body)

        relay.write({"routes": [routes[0], {**routes[1], "respond": {"status": 200, "body": "new"}}]})
        assert relay.admin("/reload", "POST")[0] == 200 and ask(relay, "/x").body == b"new"
        with listening(relay, mine) as client:
            tables = events(client)[1]["tables"]
        assert set(tables["generations"]) == {"1", "2"} and tables["process"]["rollback"] == [True]
        status, data = act("1/compare", token)
        assert status == 200 and any("respond" in line for line in data["changes"]) and ask(relay, "/x").body == b"new"
        assert act("1/restore")[0] == 403  # without the token
        status, data = act("9/restore", token)
        assert (status, data["error"]["message"]) == (404, "No saved generation has this number.")
        assert act("x/restore", token)[0] == 404 and act("1/other", token)[0] == 404
        status, data = act("1/restore", token)
        assert (status, data["accepted"], data["generation"]) == (200, True, 3) and ask(relay, "/x").body == b"old"
        assert any("generation 1 was restored" in warning for warning in relay.status()["config"]["warnings"])
        status, data = act("1/restore", token)
        assert (status, data["changes"], data["generation"]) == (200, [], 3)
        assert b'"new"' in relay.file.read_bytes()
        assert relay.admin("/reload", "POST")[0] == 200 and ask(relay, "/x").body == b"new"
        assert not any("restored" in warning for warning in relay.status()["config"]["warnings"])
    change["routes"] = relay.config["routes"]
    with Relay(folder, upstream.url, change, environment={"STATE_DIRECTORY": str(folder / "state")}) as relay:  # another port
        with listening(relay, cookie(sign_in(relay))) as client:  # those before this process can be restored, too
            rows = events(client)[1]["tables"]["generations"]
        assert [rows[number][1] for number in sorted(rows)] == [None, None, None, None, []]
