"""Where upstreams live: https with and without trust, Unix sockets, client certificates, names."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import pytest

from tests.functional.harness.message import answer, request
from tests.functional.harness.relay import Relay
from tests.functional.harness.upstream import Upstream, saying
from tests.functional.test_listeners import make_certificate


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return make_certificate(tmp_path_factory.mktemp("certs"), "up.test")


def serving(certificate: tuple[str, str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


def test_an_https_upstream_that_nobody_vouches_for_is_502_and_gets_nothing(tmp_path: Path, certificate: tuple[str, str]) -> None:
    with Upstream(tls=serving(certificate)) as secure, Relay(tmp_path / "r", secure.url) as relay, relay.client() as client:
        message = client.ask(request(method=b"POST", body=b"{}"))
        assert message.status == 502 and json.loads(message.body)["code"] == "tls_failed"
        assert secure.nothing_came()


def test_an_own_authority_is_trusted_and_the_connection_kept(tmp_path: Path, certificate: tuple[str, str]) -> None:
    with Upstream(tls=serving(certificate)) as secure:
        change = {"upstreams": {"up": {"tls": {"ca": certificate[0]}}}}
        with Relay(tmp_path / "r", secure.url, change) as relay, relay.client() as client:
            for _ in range(5):
                assert client.ask(request(method=b"POST", body=b"{}")).body == b"hello"
            assert secure.connections == 1
            body = bytes(range(256)) * 8192
            secure.script = lambda peer, message: peer.send(answer(peer.whole(message).body))
            assert client.ask(request(method=b"POST", body=body)).body == body


def test_a_certificate_for_another_name_is_refused_unless_that_name_is_configured(tmp_path: Path, certificate: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("other")
    import subprocess

    cert, key = folder / "c.pem", folder / "k.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-keyout", str(key), "-out",
                    str(cert), "-subj", "/CN=elsewhere.test", "-addext", "subjectAltName=DNS:elsewhere.test"], check=True, capture_output=True)
    with Upstream(tls=serving((str(cert), str(key)))) as secure:
        change = {"upstreams": {"up": {"tls": {"ca": str(cert)}}, "named": {"endpoints": [secure.url], "tls": {"ca": str(cert), "server_name": "elsewhere.test"}}},
                  "routes": [{"name": "named", "match": {"prefix": "/named"}, "upstream": "named"}, {"name": "all", "upstream": "up"}]}
        with Relay(tmp_path / "r", secure.url, change) as relay, relay.client() as client:
            assert client.ask(request(b"/")).status == 502
            assert secure.nothing_came()
            assert client.ask(request(b"/named")).status == 200


def test_verification_can_be_switched_off_and_that_is_said_loudly(tmp_path: Path, certificate: tuple[str, str]) -> None:
    with Upstream(tls=serving(certificate)) as secure:
        change = {"upstreams": {"up": {"tls": {"verify": False}}}}
        with Relay(tmp_path / "r", secure.url, change) as relay, relay.client() as client:
            assert client.ask(request()).status == 200
            assert b"verif" in relay.output().lower()


def test_a_client_certificate_is_shown(tmp_path: Path, certificate: tuple[str, str]) -> None:
    context = serving(certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certificate[0])
    with Upstream(tls=context) as secure:
        tls = {"ca": certificate[0], "cert": certificate[0], "key": certificate[1]}
        with Relay(tmp_path / "r", secure.url, {"upstreams": {"up": {"tls": tls}}}) as relay, relay.client() as client:
            assert client.ask(request()).status == 200


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_certificate_that_is_missing_is_tls_failed(tmp_path: Path, certificate: tuple[str, str], version: ssl.TLSVersion) -> None:
    context = serving(certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certificate[0])
    context.minimum_version = context.maximum_version = version
    with Upstream(tls=context) as secure:
        with Relay(tmp_path / "r", secure.url, {"upstreams": {"up": {"tls": {"ca": certificate[0]}}}}) as relay, relay.client() as client:
            message = client.ask(request())
            assert message.status == 502 and json.loads(message.body)["code"] == "tls_failed"


def test_a_unix_socket_is_an_upstream(tmp_path: Path) -> None:
    with Upstream(unix=str(tmp_path / "up.sock")) as local, Relay(tmp_path / "r", local.url) as relay, relay.client() as client:
        for _ in range(3):
            assert client.ask(request(b"/a%2fb?c", method=b"POST", body=b"{}")).body == b"hello"
        assert local.heads[-1].target == b"/a%2fb?c" and local.connections == 1
        local.script = saying(answer(b"x" * 3_000_000))
        assert len(client.ask(request()).body) == 3_000_000


def test_an_upstream_that_starts_later_is_found(tmp_path: Path) -> None:
    path = str(tmp_path / "late.sock")
    with Relay(tmp_path / "r", f"unix:{path}") as relay, relay.client() as client:
        assert client.ask(request()).status == 502
        with Upstream(unix=path):
            assert client.ask(request()).status == 200
