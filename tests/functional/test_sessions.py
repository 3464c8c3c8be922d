"""Sessions: the cookie as a browser keeps it, documents of one consumer only, concurrent writers, endpoints that stay, and
what survives a restart and an upgrade."""

from __future__ import annotations

import http.cookiejar
import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.client import Client
from tests.functional.harness.faults import until
from tests.functional.harness.message import Message, request
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Peer, Upstream

KEYS = {"team": "team-0123456789abcdef", "other": "other-0123456789abcdef"}
DATA = "/api/session"


def naming(name: str) -> Any:
    """A script that answers with a name, and sets a cookie of its own."""
    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(b"HTTP/1.1 200 OK\r\nSet-Cookie: app=1\r\nContent-Length: %d\r\n\r\n%b" % (len(name), name.encode()))
    return script


class Browser:
    """A client with a cookie jar and the key of a consumer; an empty name is a client without a key."""

    def __init__(self, relay: Relay, consumer: str = "team") -> None:
        self.base, self.consumer = f"http://127.0.0.1:{relay.port}", consumer
        self.jar = http.cookiejar.CookieJar()
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.jar))

    def ask(self, method: str, path: str = DATA, document: Any = None, **fields: str) -> tuple[int, Any, Any]:
        """The status, the fields and the body."""
        data = None if document is None else json.dumps(document).encode()
        asked = urllib.request.Request(self.base + path, data, method=method)
        if self.consumer:
            asked.add_header("Authorization", f"Bearer {KEYS[self.consumer]}")
        asked.add_header("Content-Type", "application/json")
        for name, value in fields.items():
            asked.add_header(name.replace("_", "-"), value)
        try:
            with self.opener.open(asked, timeout=60) as response:
                body = response.read()
                return response.status, response.headers, json.loads(body) if path.endswith("session") and body else body
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()

    @property
    def session_id(self) -> str:
        return next((str(cookie.value) for cookie in self.jar if cookie.name == "relayd_session"), "")


@pytest.fixture(scope="module")
def backends() -> Iterator[dict[str, Upstream]]:
    with Upstream() as one, Upstream() as two:
        one.script, two.script = naming("one"), naming("two")
        yield {"one": one, "two": two}


def config(folder: Path, urls: list[str], **sessions: Any) -> dict[str, Any]:
    for name, key in KEYS.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(key)
        file.chmod(0o600)
    return {
        "upstreams": {"up": {"endpoints": urls, "affinity": "session"}},
        "consumers": {name: {"key": {"file": str(folder / name)}} for name in KEYS},
        "sessions": {"cookie": "relayd_session", "header": "X-Session-ID", "ttl": "2h", "size": "64KiB", **sessions},
        "store": {"kind": "sqlite", "path": str(folder / "store.sqlite"), "ttl": "60s"},
        "routes": [
            {"name": "session-data", "match": {"prefix": DATA}, "upstream": "sessions", "allow": ["team", "other"]},
            {"name": "open-data", "match": {"path": "/open/session"}, "upstream": "sessions"},
            {"name": "plain", "match": {"prefix": "/plain"}, "upstream": "up"},
            {"name": "web", "match": {"prefix": "/"}, "upstream": "up", "session": True},
        ],
    }


@pytest.fixture(scope="module")
def relay(backends: dict[str, Upstream], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    folder = tmp_path_factory.mktemp("relay")
    with Relay(folder, "", config(folder, [one.url for one in backends.values()])) as made:
        yield made


def test_a_browser_keeps_its_session(relay: Relay) -> None:
    browser = Browser(relay)
    assert browser.ask("GET")[0] == 404 and not browser.session_id
    status, fields, document = browser.ask("PUT", document={"cart": [1]})
    assert status == 201 and document == {"cart": [1]}
    cookie = fields["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie and "Path=/" in cookie and "Max-Age=7200" in cookie and "Secure" not in cookie
    assert fields["X-Session-ID"] == browser.session_id and len(browser.session_id) >= 22
    assert browser.ask("PATCH", document={"user": {"name": "é"}, "cart": None})[2] == {"user": {"name": "é"}}
    status, fields, document = browser.ask("GET")
    assert (status, document) == (200, {"user": {"name": "é"}}) and "Max-Age=7200" in fields["Set-Cookie"]
    assert browser.ask("DELETE")[0] == 204 and not browser.session_id
    assert browser.ask("GET")[0] == 404


def test_a_forged_id_is_never_adopted(relay: Relay) -> None:
    for name, value in (("X_Session_ID", "forged-by-somebody"), ("Cookie", "relayd_session=forged-by-somebody")):
        _, fields, _ = Browser(relay).ask("PUT", document=1, **{name: value})
        assert "forged" not in str(fields) and fields["X-Session-ID"]
        status, fields, _ = Browser(relay, "").ask("GET", "/x", **{name: value})
        assert status == 200 and "forged" not in str(fields) and fields["X-Session-ID"]


def test_a_consumer_never_sees_the_session_of_another(relay: Relay) -> None:
    browser = Browser(relay)
    browser.ask("PUT", document={"secret": 1})
    for stranger, path in (("other", DATA), ("", "/open/session")):
        other = Browser(relay, stranger)
        assert other.ask("GET", path, X_Session_ID=browser.session_id)[0] == 404
        assert other.ask("DELETE", path, X_Session_ID=browser.session_id)[0] == 404
        status, fields, _ = other.ask("PUT", path, {"mine": 1}, X_Session_ID=browser.session_id)
        assert status == 201 and fields["X-Session-ID"] != browser.session_id
    assert Browser(relay, "").ask("GET", DATA, X_Session_ID=browser.session_id)[0] == 401
    assert browser.ask("GET")[2] == {"secret": 1}


@pytest.mark.parametrize("cookie", [
    b"relayd_session", b"relayd_session=", b"relayd_session=\xff\xfe\x80", b'relayd_session="quoted"', b"relayd_session=" + b"x" * 4000,
    b"=;;relayd_session=a b;=", b"relayd_session=../../etc/passwd%00", b"relayd_session=*?[", b"\tRELAYD_SESSION=x; $Path=/",
])
def test_odd_cookies_are_no_session(relay: Relay, cookie: bytes) -> None:
    key = b"Authorization: Bearer " + KEYS["team"].encode()
    with Client(relay.address) as client:
        assert client.ask(request(DATA.encode(), key, b"Cookie: " + cookie)).status in (400, 404)
    with Client(relay.address) as client:
        answer = client.ask(request(b"/x", key, b"Cookie: " + cookie))
        sent = b" ".join(answer.get_all("set-cookie"))
        assert answer.status == 400 or (answer.status == 200 and b"relayd_session=" in sent and b"x" * 100 not in sent)


def test_of_many_writers_with_one_tag_one_wins(relay: Relay) -> None:
    browser = Browser(relay)
    browser.ask("PUT", document={})
    session_id = browser.session_id

    def change(number: int) -> int:
        """With If-Match, again until it is done; counts its own refusals."""
        mine, refused = Browser(relay), 0
        while True:
            tag = mine.ask("GET", X_Session_ID=session_id)[1]["ETag"]
            status, _, _ = mine.ask("PATCH", document={f"w{number}": number}, X_Session_ID=session_id, If_Match=tag)
            if status == 200:
                return refused
            assert status == 412
            refused += 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(change, range(16)))
    assert browser.ask("GET")[2] == {f"w{number}": number for number in range(16)}

    tag = browser.ask("GET")[1]["ETag"]
    with ThreadPoolExecutor(8) as pool:
        tries = [pool.submit(Browser(relay).ask, "PATCH", DATA, {"last": one}, X_Session_ID=session_id, If_Match=tag) for one in range(8)]
    assert sorted(one.result()[0] for one in tries) == [200] + [412] * 7


def test_writers_without_a_tag_lose_nothing(relay: Relay) -> None:
    browser = Browser(relay)
    browser.ask("PUT", document={})
    with ThreadPoolExecutor(8) as pool:
        tries = [pool.submit(Browser(relay).ask, "PATCH", DATA, {f"w{one}": one}, X_Session_ID=browser.session_id) for one in range(24)]
    assert {one.result()[0] for one in tries} == {200}
    assert browser.ask("GET")[2] == {f"w{one}": one for one in range(24)}


@pytest.mark.parametrize("with_tag", [False, True])
def test_a_change_made_while_a_body_arrives_is_not_overwritten(relay: Relay, with_tag: bool) -> None:
    browser = Browser(relay)
    tag = browser.ask("PUT", document={"a": 1})[1]["ETag"].encode()
    fields = [b"Authorization: Bearer " + KEYS["team"].encode(), b"X-Session-ID: " + browser.session_id.encode()]
    sent = request(DATA.encode(), *fields, *([b"If-Match: " + tag] if with_tag else []), method=b"PATCH", body=b'{"slow":1}')
    with Client(relay.address) as slow:
        slow.send(sent[:-1])
        until(lambda: relay.exchanges() == 1)  # the session was looked up
        assert browser.ask("PATCH", document={"quick": 1})[0] == 200
        slow.send(sent[-1:])
        assert slow.answer().status == (412 if with_tag else 200)
    assert browser.ask("GET")[2] == {"a": 1, "quick": 1, **({} if with_tag else {"slow": 1})}


def test_bounds(relay: Relay) -> None:
    browser = Browser(relay)
    assert browser.ask("PUT", document="x" * 65536)[0] == 413
    assert browser.ask("PUT", document="x" * 65534)[0] == 201
    assert browser.ask("GET")[2] == "x" * 65534
    with Client(relay.address) as client:
        key = b"Authorization: Bearer " + KEYS["team"].encode()
        assert client.ask(request(DATA.encode(), key, method=b"PUT", body=b"{nonsense")).status == 400


def test_the_endpoint_stays_and_the_id_is_not_forwarded(relay: Relay, backends: dict[str, Upstream]) -> None:
    chosen = []
    for _ in range(6):
        browser = Browser(relay)
        first = browser.ask("GET", "/x")[2]
        assert browser.session_id and {browser.ask("GET", "/x")[2] for _ in range(6)} == {first}
        chosen.append(first)
    assert set(chosen) == {b"one", b"two"}
    assert {Browser(relay).ask("GET", "/plain")[2] for _ in range(6)} == {b"one", b"two"}
    for name, backend in backends.items():
        backend.fresh()
        backend.script = naming(name)
    status, _, _ = browser.ask("GET", "/y", Cookie=f"a=1; relayd_session={browser.session_id}; b=2", X_Session_ID=browser.session_id)
    assert status == 200
    seen = next(one for one in backends.values() if not one.nothing_came()).request()
    assert browser.session_id.encode() not in b"".join(value for _, value in seen.fields) and seen.get("cookie") == b"a=1; b=2"


def test_no_id_is_written_anywhere(relay: Relay) -> None:
    browser = Browser(relay)
    browser.ask("PUT", document={"a": 1})
    browser.ask("GET", "/x")
    record = relay.record(path="/x", consumer="team")
    assert len(record["session"]) == 16
    pages = b"".join(relay.admin(path)[1] for path in ("/status", "/streams", "/metrics", "/upstreams"))
    written = pages + b"".join(file.read_bytes() for file in relay.folder.iterdir() if file.is_file())
    assert browser.session_id.encode() not in written and record["session"].encode() in written


def test_a_session_and_its_endpoint_survive_a_restart_and_a_new_endpoint(backends: dict[str, Upstream], folder: Path) -> None:
    change = config(folder, [one.url for one in backends.values()])
    with Relay(folder, "", change) as relay:
        browsers = [Browser(relay) for _ in range(4)]
        firsts = [browser.ask("GET", "/x")[2] for browser in browsers]
        for number, browser in enumerate(browsers):
            assert browser.ask("PUT", document=number)[0] == 200  # the same session
        assert relay.stop() == 0
        with Upstream() as third:
            third.script = naming("three")
            change["upstreams"]["up"]["endpoints"] = [third.url, *(one.url for one in backends.values())]
            relay.config = {**relay.config, **change}
            relay.start()
            for number, browser in enumerate(browsers):
                assert browser.ask("GET")[2] == number
                assert {browser.ask("GET", "/x")[2] for _ in range(4)} == {firsts[number]}
            change["upstreams"]["up"]["endpoints"] = [third.url]  # the others are gone: the session moves, and stays there
            relay.config = {**relay.config, **change}
            relay.write()
            relay.hup()
            until(lambda: browsers[0].ask("GET", "/x")[2] == b"three")
            assert browsers[0].ask("GET")[2] == 0


def test_a_session_survives_an_upgrade(backends: dict[str, Upstream], folder: Path) -> None:
    with Relay(folder, "", config(folder, [backends["one"].url]), verb="keep") as relay:
        browser = Browser(relay)
        assert browser.ask("PUT", document={"a": 1})[0] == 201
        before = relay.status()["pid"]
        os.kill(relay.pid, signal.SIGUSR2)
        relay.wait_replaced(before)
        assert browser.ask("PATCH", document={"b": 2})[2] == {"a": 1, "b": 2}


def test_thousands_of_sessions_are_bounded(backends: dict[str, Upstream], folder: Path) -> None:
    change = config(folder, [backends["one"].url])
    change["store"] = {"kind": "memory", "entries": 500}
    with Relay(folder, "", change) as relay:
        key = b"Authorization: Bearer " + KEYS["team"].encode()
        ids = []
        for start in range(0, 3000, 100):
            with Client(relay.address) as client:
                client.send(request(DATA.encode(), key, method=b"PUT", body=b"1") * 100)
                ids += [client.answer().get("x-session-id") for _ in range(100)]
            assert len(ids) == start + 100
        assert len(set(ids)) == 3000 and None not in ids
        with Client(relay.address) as client:
            found = [client.ask(request(DATA.encode(), key, b"X-Session-ID: " + (one or b""))).status for one in (*ids[:50], *ids[-50:])]
        assert found == [404] * 50 + [200] * 50  # the oldest go first
