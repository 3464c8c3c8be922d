"""Redirects of an application that believes that its own address is the one its users know."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional.harness.message import answer, request
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Upstream, saying


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[Relay]:
    change = {
        "upstreams": {
            "base": {"endpoints": [f"{upstream.url}/base"]}, "as-it-is": {"endpoints": [upstream.url], "rewrite_location": False},
            "again": {"endpoints": [upstream.url], "retries": {"attempts": 2, "backoff": "1ms"}},
            "client": {"endpoints": [upstream.url], "host": "client"}, "chat": {"endpoints": [upstream.url], "protocol": "openai_chat"},
        },
        "routes": [
            {"name": "app", "match": {"prefix": "/app"}, "strip_prefix": "/app", "upstream": "up"},
            {"name": "old", "match": {"prefix": "/old/"}, "rewrite": "/new/", "upstream": "up"},
            {"name": "exact", "match": {"path": "/exact"}, "rewrite": "/other", "upstream": "up"},
            {"name": "regex", "match": {"regex": "/r/([0-9]+)"}, "rewrite": "/number/\\1", "upstream": "up"},
            {"name": "base", "match": {"prefix": "/b/"}, "strip_prefix": "/b", "upstream": "base"},
            {"name": "as-it-is", "match": {"prefix": "/as-it-is"}, "upstream": "as-it-is"},
            {"name": "client", "match": {"prefix": "/client"}, "upstream": "client"},
            {"name": "chat", "match": {"prefix": "/chat"}, "upstream": "chat"},
            {"name": "ws", "match": {"prefix": "/ws"}, "upstream": "up", "upgrade": True},
            {"name": "tried", "match": {"prefix": "/tried"}, "upstream": "up", "tells_attempts": True},
            {"name": "again", "match": {"prefix": "/again"}, "strip_prefix": "/again", "upstream": "again"},
            {"name": "all", "match": {"prefix": "/"}, "upstream": "up"},
        ],
    }
    with Relay(tmp_path_factory.mktemp("r"), upstream.url, change) as relay:
        yield relay


def seen(relay: Relay, upstream: Upstream, path: str, url: str, name: str = "Location", *lines: bytes, status: bytes = b"302 Found") -> str:
    """What the client gets where the endpoint says `url`, in which OWN is its address."""
    said = url.replace("OWN", f"127.0.0.1:{upstream.port}")
    upstream.script = saying(answer(b"", f"{name}: {said}".encode(), status=status))
    with relay.client() as client:
        message = client.ask(request(path.encode(), *lines))
    return (message.get(name.lower()) or b"").decode().replace(f"127.0.0.1:{upstream.port}", "OWN")


@pytest.mark.parametrize(("path", "url", "wanted"), [
    ("/x", "http://OWN/login?to=%2Fx#top", "/login?to=%2Fx#top"), ("/x", "HTTP://OWN", "/"), ("/x", "http://OWN?q", "/?q"), ("/x", "//OWN/y", "/y"),
    ("/x", "https://OWN/y", "/y"),  # it believes X-Forwarded-Proto
    ("/app/x", "http://OWN/login", "/app/login"), ("/app/x", "http://OWN/", "/app/"), ("/app", "http://OWN/login", "/app/login"),
    ("/old/x", "http://OWN/new/y", "/old/y"), ("/old/x", "http://OWN/new/", "/old/"), ("/exact", "http://OWN/other?again", "/exact?again"),
    ("/b/x", "http://OWN/base/y", "/b/y"), ("/b/x", "http://OWN/base", "/b/"), ("/tried", "http://OWN/y", "/y"),
    ("/x", "http://OWN//evil.example/x", "/evil.example/x"), ("/app/x", "http://OWN//evil.example/x", "/app//evil.example/x"),
])
def test_a_location_that_names_the_endpoint_is_the_clients_path(relay: Relay, upstream: Upstream, path: str, url: str, wanted: str) -> None:
    for _ in range(3):  # a head that was met often is read in another way
        assert seen(relay, upstream, path, url) == wanted


@pytest.mark.parametrize(("path", "url"), [
    ("/x", "http://elsewhere.example/x"), ("/x", "http://127.0.0.1:1/x"), ("/x", "http://127.0.0.1/x"), ("/x", "http://user@OWN/x"), ("/x", "/relative"),
    ("/x", "http://OWN.evil.example/x"), ("/x", "ftp://OWN/x"), ("/x", "http://OWN/a/../b"), ("/x", "http://OWN\\@evil.example/"),
    ("/old/x", "http://OWN/login"), ("/old/x", "http://OWN/newer"), ("/exact", "http://OWN/other2"), ("/r/1", "http://OWN/number/2"), ("/b/x", "http://OWN/login"),
    ("/b/x", "http://OWN/basement"), ("/as-it-is", "http://OWN/y"), ("/client", "http://OWN/y"), ("/chat/x", "http://OWN/y"),
])
def test_what_names_another_place_or_none_that_the_route_reaches_stays(relay: Relay, upstream: Upstream, path: str, url: str) -> None:
    assert seen(relay, upstream, path, url) == url


@pytest.mark.parametrize(("name", "value", "wanted", "status"), [
    ("Location", "http://OWN/made/1", "/app/made/1", b"201 Created"), ("Content-Location", "http://OWN/y.en", "/app/y.en", b"200 OK"),
    ("Refresh", "5; url=http://OWN/y", "5; url=/app/y", b"200 OK"), ("Refresh", "0;URL='http://OWN/y'", "0;URL='/app/y'", b"200 OK"), ("Refresh", "30", "30", b"200 OK"),
    ("Link", "<http://OWN/y?page=2>; rel=next, <http://OWN/y>; rel=first; title=\"a, <http://OWN/t>\"", "</app/y?page=2>; rel=next, </app/y>; rel=first; title=\"a, <http://OWN/t>\"", b"200 OK"),
    ("X-Place", "http://OWN/y", "http://OWN/y", b"200 OK"),
])
def test_other_fields_and_statuses_that_name_a_place(relay: Relay, upstream: Upstream, name: str, value: str, wanted: str, status: bytes) -> None:
    assert seen(relay, upstream, "/app/x", value, name, status=status) == wanted


def test_early_hints_too(relay: Relay, upstream: Upstream) -> None:
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: <http://127.0.0.1:%d/s.css>; rel=preload\r\n\r\n" % upstream.port
    upstream.script = saying(hint + answer(b"x"))
    with relay.client() as client:
        client.send(request(b"/app/x"))
        (interim,) = client.head_of_answer().interim
        assert interim.status == 103 and interim.get("link") == b"</app/s.css>; rel=preload"


def test_the_answer_to_a_refused_upgrade_too(relay: Relay, upstream: Upstream) -> None:
    ask = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", b"Sec-WebSocket-Version: 13")
    assert seen(relay, upstream, "/ws", "http://OWN/login", "Location", *ask) == "/login"


@pytest.mark.parametrize("status", [b"503 Unavailable", b"502 Bad", b"500 Broken"])
@pytest.mark.parametrize(("name", "url", "wanted"), [
    ("Location", "http://OWN/login", "/again/login"), ("Link", "<http://OWN/status>; rel=help", "</again/status>; rel=help"),
    ("Content-Location", "http://OWN/busy", "/again/busy"), ("Refresh", "5;url=http://OWN/x", "5;url=/again/x"),
])  # fmt: skip
def test_an_error_that_could_have_led_to_a_retry_too(relay: Relay, upstream: Upstream, status: bytes, name: str, url: str, wanted: str) -> None:
    """Its body is read before it is forwarded. A POST is not sent again."""
    own = f"127.0.0.1:{upstream.port}"
    upstream.script = saying(answer(b"later", f"{name}: {url.replace('OWN', own)}".encode(), status=status))
    with relay.client() as client:
        message = client.ask(request(b"/again/x", method=b"POST", body=b"{}"))
    assert message.get(name.lower()) == wanted.encode() and message.body == b"later"


def test_an_endpoint_at_a_default_port_is_known_with_and_without_it(tmp_path: Path) -> None:
    unix = str(tmp_path / "app.sock")  # its Host is localhost, at port 80
    with Upstream(unix=unix) as upstream, Relay(tmp_path / "r", f"unix:{unix}") as relay:
        for url, wanted in (("http://localhost/y", "/y"), ("http://localhost:80/y", "/y"), ("http://LocalHost/y", "/y"), ("https://localhost/y", "https://localhost/y")):
            upstream.script = saying(answer(b"", b"Location: " + url.encode(), status=b"302 Found"))
            with relay.client() as client:
                assert client.ask(request()).get("location") == wanted.encode()
