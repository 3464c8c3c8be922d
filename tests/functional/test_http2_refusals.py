"""HTTP/2 endpoints that refuse a request before processing it on it (RFC 9113 8.7): it goes again; anything else does not."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.aids.ports import free_port
from tests.functional.harness.client import connect
from tests.functional.harness.message import Message, answer, request
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Peer, Upstream
from tests.functional.test_listeners import make_certificate

pytest.importorskip("h2")
from tests.functional.harness.http2 import Http2

Certificate = tuple[str, str]
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certs"), "127.0.0.1")


def relay_for(tmp_path: Path, url: str, **more: object) -> Relay:
    return Relay(tmp_path / "r", url, {"upstreams": {"up": {"http": "2", "tls": {"verify": False}, **more}}})


def post(path: bytes, body: bytes = b"x" * 1000) -> bytes:
    return request(path, method=b"POST", body=body)


def arrived(up: Http2, path: bytes) -> list[int]:
    """The connections on which a path was asked for."""
    return [seen.connection for seen in up.seen if seen.headers[":path"] == path.decode()]


@pytest.mark.parametrize("kept", [True, False], ids=["kept connection", "new connection"])
@pytest.mark.parametrize("path", [b"/refuse?1", b"/goaway?1"])
def test_a_post_that_was_refused_goes_again(tmp_path: Path, certificate: Certificate, path: bytes, kept: bool) -> None:
    with Http2(certificate) as up, relay_for(tmp_path, up.url) as relay, relay.client() as client:
        if kept:
            assert client.ask(post(b"/echo")).status == 200
        message = client.ask(post(path, b"the body"))
        assert message.status == 200 and message.body == b"the body"
        assert len(arrived(up, path)) == 2
        assert relay.record(path=path.decode().partition("?")[0])["attempts"] == 2
        [endpoint] = json.loads(relay.admin("/upstreams")[1])["upstreams"][0]["endpoints"]
        assert not endpoint["failures"], "the end of a connection is no fault of the endpoint"


def test_a_post_that_was_refused_twice_takes_a_new_connection(tmp_path: Path, certificate: Certificate) -> None:
    with Http2(certificate) as up, relay_for(tmp_path, up.url) as relay, relay.client() as client:
        message = client.ask(post(b"/refuse?2", b"the body"))
        assert message.status == 200 and message.body == b"the body"
        assert len(set(arrived(up, b"/refuse?2"))) > 1


def test_a_refusal_that_lasts_is_a_503_that_says_so(tmp_path: Path, certificate: Certificate) -> None:
    with Http2(certificate) as up, relay_for(tmp_path, up.url) as relay, relay.client() as client:
        message = client.ask(post(b"/refuse?99"))
        assert message.status == 503 and b"before processing it" in message.body
        assert relay.record(path="/refuse")["code"] == "upstream_unprocessed"
        assert len(arrived(up, b"/refuse?99")) == 3


def test_a_streamed_body_that_was_begun_is_a_503_that_says_so(tmp_path: Path, certificate: Certificate) -> None:
    with Http2(certificate) as up, relay_for(tmp_path, up.url) as relay, relay.client() as client:
        assert client.ask(post(b"/echo")).status == 200
        client.send(b"POST /begun/refuse?9 HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n" + b"x" * 1_000_000)
        message = client.answer(b"POST")
        assert message.status == 503 and b"before processing it" in message.body
        assert len(arrived(up, b"/begun/refuse?9")) == 1


@pytest.mark.parametrize("path", [b"/reset?INTERNAL_ERROR", b"/reset?CANCEL", b"/reset?NO_ERROR", b"/last"])
@pytest.mark.parametrize("kept", [True, False], ids=["kept connection", "new connection"])
def test_what_may_have_been_worked_on_does_not_go_again(
    tmp_path: Path, certificate: Certificate, path: bytes, kept: bool
) -> None:
    with Http2(certificate) as up, relay_for(tmp_path, up.url) as relay, relay.client() as client:
        if kept:
            assert client.ask(post(b"/echo")).status == 200
        assert client.ask(post(path)).status == 502
        assert len(arrived(up, path)) == 1


def test_an_endpoint_that_speaks_http_1_after_all_gets_a_post_once(tmp_path: Path, certificate: Certificate) -> None:
    """Over HTTP/1.1 libcurl tells an orderly close on a kept connection as it tells a refusal over HTTP/2."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    context.set_alpn_protocols(["http/1.1"])

    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        if message.target == b"/ends":
            assert isinstance(peer.sock, ssl.SSLSocket)
            peer.sock = peer.sock.unwrap()
            peer.close()
        else:
            peer.send(answer())

    with Upstream(tls=context) as up, relay_for(tmp_path, up.url) as relay, relay.client() as client:
        up.script = script
        assert client.ask(post(b"/first")).status == 200
        assert client.ask(post(b"/ends")).status == 502
        assert [head.target for head in up.heads].count(b"/ends") == 1


@contextmanager
def nginx(folder: Path, certificate: Certificate, behind: str) -> Iterator[str]:
    """nginx, which ends an HTTP/2 connection after ten requests; its address."""
    port = free_port()
    for name in ("body", "proxy", "fastcgi", "uwsgi", "scgi"):
        (folder / name).mkdir(parents=True)
    paths = "".join(f"{name}_temp_path {folder}/{name};" for name in ("proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(f"""
        daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;
        events {{ worker_connections 500; }}
        http {{
            access_log off; client_body_temp_path {folder}/body; {paths} keepalive_requests 10;
            server {{
                listen 127.0.0.1:{port} ssl http2; ssl_certificate {certificate[0]}; ssl_certificate_key {certificate[1]};
                location / {{ proxy_pass {behind}; proxy_http_version 1.1; proxy_set_header Connection ""; }}
            }}
        }}""")
    assert NGINX is not None
    process = subprocess.Popen(
        [NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    )
    try:
        while True:
            assert process.poll() is None, (folder / "error.log").read_text()
            try:
                connect(("127.0.0.1", port), timeout_s=1).close()
                break
            except OSError:
                time.sleep(0.01)
        yield f"https://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_nginx_that_ends_its_connections_costs_no_request_and_doubles_none(
    tmp_path: Path, certificate: Certificate
) -> None:
    bodies: Counter[bytes] = Counter()

    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        bodies[bytes(message.body)] += 1
        peer.send(answer(message.body))

    statuses: Counter[int] = Counter()

    def run(number: int, relay: Relay) -> None:
        with relay.client() as client:
            for turn in range(25):
                body = b"%d/%d " % (number, turn) * 100
                message = client.ask(post(b"/", body))
                statuses[message.status] += 1
                assert message.status != 200 or message.body == body

    with Upstream() as up:
        up.script = script
        with nginx(tmp_path / "nginx", certificate, up.url) as url, relay_for(tmp_path, url) as relay:
            threads = [threading.Thread(target=run, args=(number, relay)) for number in range(16)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert statuses == {200: 400}
    assert len(bodies) == 400 and set(bodies.values()) == {1}, "each was worked on once"
