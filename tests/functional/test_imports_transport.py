"""`relayd import` beside the original: what concerns the way to the back-end. TLS and its verification, Upgrade, and when
a failing back-end is left alone are compared over the wire with nginx, HAProxy and Caddy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.aids.certificates import Pair, made
from tests.aids.ports import free_port
from tests.functional.harness.client import Client
from tests.functional.harness.message import Message, answer, request
from tests.functional.harness.upstream import Peer, Upstream
from tests.functional.test_imports import PROGRAMS, imported, program, relay_of

Address = tuple[str, int] | str
HOST = "ai.example.org"
KINDS = ("nginx", "haproxy", "caddyfile")
UPGRADE = (b"Connection: Upgrade", b"Upgrade: echo")
TLS = {
    "nginx": lambda port, back, ca: f"location / {{ proxy_pass https://{back}; proxy_ssl_name backend.example.org; " + (
        f"proxy_ssl_verify on; proxy_ssl_trusted_certificate {ca}; }}" if ca else "proxy_ssl_verify off; }"),
    "haproxy": lambda port, back, ca: _haproxy(port, f"server one {back} ssl " + (f"verify required ca-file {ca}" if ca else "verify none")),
    "caddyfile": lambda port, back, ca: f"http://{HOST}:{port} {{\n reverse_proxy https://{back} {{\n  transport http {{\n   " + (
        f"tls_trusted_ca_certs {ca}" if ca else "tls_insecure_skip_verify") + "\n  }\n }\n}\n",
}
PLAIN = {
    "nginx": lambda port, back: f"location / {{ proxy_pass http://{back}; proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection \"Upgrade\"; }}",
    "haproxy": lambda port, back: _haproxy(port, f"server one {back}"),
    "caddyfile": lambda port, back: f"http://{HOST}:{port} {{\n reverse_proxy {back}\n}}\n",
}
BREAKER = {
    "nginx": lambda port, bad, good: f"""events {{}}
http {{
  upstream pair {{ server {bad} max_fails=1 fail_timeout=60s; server {good} max_fails=1 fail_timeout=60s; }}
  server {{ listen 127.0.0.1:{port}; server_name {HOST}; location / {{ proxy_pass http://pair; proxy_next_upstream error; }} }}
}}""",
    "haproxy": lambda port, bad, good: _haproxy(port, f"server one {bad}\n  server two {good}", "retries 2\n  option redispatch 1"),
    "caddyfile": lambda port, bad, good: (
        f"http://{HOST}:{port} {{\n reverse_proxy {bad} {good} {{\n  lb_policy round_robin\n  lb_retries 2\n  fail_duration 60s\n  max_fails 1\n }}\n}}\n"),
}


def _haproxy(port: int, servers: str, further: str = "") -> str:
    return f"""defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  timeout tunnel 30s
  {further}
frontend f
  bind 127.0.0.1:{port}
  default_backend b
backend b
  {servers}
"""


@contextmanager
def both(kind: str, text: str, port: int, upstream: Upstream, folder: Path) -> Iterator[tuple[Address, Address]]:
    """Addresses of the original program and of relayd with the imported configuration."""
    (folder / "original").mkdir()
    source = folder / "source"
    source.write_text(text)
    with (
        program(PROGRAMS[kind](text, port, folder / "original"), port, folder / "original"),
        relay_of(imported(kind, [source], folder), folder / "relay", upstream.url) as relay,
    ):
        yield ("127.0.0.1", port), relay.address


def status_of(address: Address, upstream: Upstream, script: Callable[[Peer, Message], None]) -> tuple[int, bool]:
    """Status of a request, and whether it has reached the back-end."""
    upstream.fresh()
    upstream.script = script
    with Client(address) as client:
        client.send(request(b"/x", b"Connection: close", host=HOST.encode()))
        reply = client.answer_or_none(b"GET")
    return (0 if reply is None else reply.status), bool(upstream.heads)


def hello(peer: Peer, message: Message) -> None:
    peer.whole(message)
    peer.send(answer(b"hello"))


def echo(peer: Peer, message: Message) -> None:
    """Switch to a protocol that sends back what it gets, in capitals."""
    peer.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
    while data := peer.read_some():
        peer.send(data.upper())


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pair, Pair]:
    folder = tmp_path_factory.mktemp("certificates")
    authority = made(folder, "authority", authority=True)
    return made(folder, "good", "127.0.0.1", "backend.example.org", issuer=authority), authority


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("trusted", [True, False, None])
def test_tls_to_the_back_end_is_verified_as_the_original_does(kind: str, trusted: bool | None, pairs: tuple[Pair, Pair], tmp_path: Path) -> None:
    """`trusted`: whether the configured authority has issued the back-end's certificate; None without verification."""
    good, authority = pairs
    other = made(tmp_path, "other", authority=True)
    ca = "" if trusted is None else str((authority if trusted else other).cert)
    port = free_port()
    with Upstream(tls=good.serving()) as upstream:
        text = TLS[kind](port, upstream.url.partition("://")[2], ca)
        with both(kind, text, port, upstream, tmp_path) as addresses:
            original, own = (status_of(address, upstream, hello) for address in addresses)
    if trusted is False:
        assert not original[1] and not own[1] and original[0] in (502, 503) and own[0] in (502, 503), (original, own)
    elif trusted is None and kind == "nginx":
        assert original == (200, True) and own == (502, False), "relayd verifies all the same, as the report says"
    else:
        assert original == own == (200, True)


@pytest.mark.parametrize("kind", KINDS)
def test_an_upgrade_becomes_a_tunnel_as_in_the_original(kind: str, tmp_path: Path) -> None:
    port = free_port()
    with Upstream() as upstream:
        with both(kind, PLAIN[kind](port, upstream.url.partition("://")[2]), port, upstream, tmp_path) as addresses:
            for address in addresses:
                upstream.fresh()
                upstream.script = echo
                with Client(address) as client:
                    client.send(request(b"/ws", *UPGRADE, host=HOST.encode()))
                    assert client.head_of_answer().status == 101
                    for word in (b"hello", b"again"):
                        client.send(word)
                        assert client.take_until(word.upper())
                assert upstream.heads[0].get("upgrade") == b"echo"


@pytest.mark.parametrize("kind", KINDS)
def test_a_back_end_that_refuses_connections_costs_no_request_as_in_the_original(kind: str, tmp_path: Path) -> None:
    port, closed = free_port(), free_port()
    with Upstream() as upstream:
        text = BREAKER[kind](port, f"127.0.0.1:{closed}", upstream.url.partition("://")[2])
        with both(kind, text, port, upstream, tmp_path) as addresses:
            for address in addresses:
                assert [status_of(address, upstream, hello) for _ in range(6)] == [(200, True)] * 6, address
