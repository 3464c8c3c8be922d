"""Connections that end before a request are logged with listener, peer and reason, a bounded number of times."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from pathlib import Path

import pytest

from relayd import clock
from relayd.config.listener import Tls
from relayd.server.rejections import report_tls_failure, silence_tornado
from relayd.server.tls import make_context
from tests.unit.proxy.harness import Harness, get, running, until
from tests.unit.server.certificates import certificate

LIMITED = 'proxy_protocol: true, trusted_proxies: ["127.0.0.0/8"]'


def tls(tmp_path: Path) -> ssl.SSLContext:
    return make_context("public", Tls(certificates=(certificate(tmp_path, "one.example"),)))


def lines(harness: Harness, event: str) -> list[str]:
    return [line for line in harness.log_output.getvalue().splitlines() if f" {event} " in line]


@pytest.mark.parametrize(
    ("sent", "why"),
    [(get(), "the client sent plain HTTP to a TLS listener"), (b"\xff" * 50, "the client does not speak TLS, or an unsupported version")],
)
async def test_a_failed_handshake_is_logged_with_its_reason(tmp_path: Path, sent: bytes, why: str) -> None:
    async with running(tmp_path, context=tls(tmp_path)) as harness:
        for _ in range(3):
            side = await harness.connect()
            side.write(sent)
            await side.gone()
        await until(lambda: harness.listening.count == 0)
        (line,) = lines(harness, "handshake_failed")
        assert 'listener=public peer=127.0.0.1 why="' + why in line
        assert harness.telemetry.metrics.value("relayd.listener.tls_failed") == 3


async def test_a_client_that_does_not_trust_the_certificate_is_logged(tmp_path: Path) -> None:
    def connect(address: tuple[str, int]) -> None:
        with socket.create_connection(address) as plain, pytest.raises(ssl.SSLCertVerificationError):
            ssl.create_default_context().wrap_socket(plain, server_hostname="one.example")

    async with running(tmp_path, context=tls(tmp_path)) as harness:
        await asyncio.to_thread(connect, harness.address)
        await until(lambda: lines(harness, "handshake_failed"))
        assert "the client does not trust the issuer" in lines(harness, "handshake_failed")[0]


async def test_a_handshake_that_takes_too_long_is_logged(tmp_path: Path) -> None:
    async with running(tmp_path, context=tls(tmp_path), listener="timeouts: {handshake: 10s}") as harness:
        side = await harness.connect()
        await until(lambda: harness.listening.count == 1)
        harness.listening.sweep(clock.monotonic() + 11)
        await side.gone()
        assert "it took longer than timeouts.handshake" in lines(harness, "handshake_failed")[0]


async def test_a_check_of_a_load_balancer_is_not_logged(tmp_path: Path) -> None:
    """It connects and closes."""
    async with running(tmp_path, context=tls(tmp_path)) as harness:
        side = await harness.connect()
        await until(lambda: harness.listening.count == 1)
        side.close()
        await until(lambda: harness.listening.count == 0)
        assert harness.telemetry.metrics.value("relayd.listener.tls_failed") == 1
        assert not lines(harness, "handshake_failed")
        harness.telemetry.journal.configure("text", "debug")
        report_tls_failure(harness.telemetry, "other", "192.0.2.1", ssl.SSLEOFError(8, "EOF"))
        assert "the client closed the connection" in lines(harness, "handshake_failed")[0]


@pytest.mark.parametrize(("sent", "rule"), [(get(), "signature"), (b"PROXY TCP4 a b 1 2\r\n", "line"), (b"PROXY " + b"A" * 200, "length")])
async def test_an_invalid_proxy_header_is_logged_with_the_rule(tmp_path: Path, sent: bytes, rule: str) -> None:
    async with running(tmp_path, listener=LIMITED) as harness:
        side = await harness.connect()
        side.write(sent)
        await side.gone()
        assert f"listener=public peer=127.0.0.1 rule={rule}" in lines(harness, "proxy_header_refused")[0]
        assert harness.telemetry.metrics.value("relayd.listener.refused", reason="proxy_header") == 1


async def test_a_proxy_header_that_does_not_end_is_logged(tmp_path: Path) -> None:
    async with running(tmp_path, listener=LIMITED + ", timeouts: {handshake: 10s}") as harness:
        side = await harness.connect()
        side.write(b"PROXY ")
        await until(lambda: harness.listening.count == 1)
        harness.listening.sweep(clock.monotonic() + 11)
        await side.gone()
        assert "rule=timeout" in lines(harness, "proxy_header_refused")[0]


async def test_a_peer_outside_of_trusted_proxies_is_logged(tmp_path: Path) -> None:
    async with running(tmp_path, listener='proxy_protocol: true, trusted_proxies: ["192.0.2.0/24"]') as harness:
        side = await harness.connect()
        await side.gone()
        (line,) = lines(harness, "proxy_header_refused")
        assert "trusted_proxies do not contain the peer" in line and "peer=127.0.0.1" in line
        assert harness.telemetry.metrics.value("relayd.listener.refused", reason="untrusted") == 1


async def test_a_peer_with_too_many_tls_connections_is_logged(tmp_path: Path) -> None:
    """It gets no response, so there is no record in the access log."""
    async with running(tmp_path, context=tls(tmp_path), listener="limits: {connections_per_peer: 1}") as harness:
        first = await harness.connect()
        second = await harness.connect()
        await second.gone()
        assert "listener=public peer=127.0.0.1" in lines(harness, "peer_limited")[0]
        first.close()


def test_the_lines_of_tornado_about_handshakes_are_suppressed(caplog: pytest.LogCaptureFixture) -> None:
    silence_tornado()
    silence_tornado()
    general = logging.getLogger("tornado.general")
    general.warning("SSL Error on %s %s: %s", 1, "peer", "fault")
    general.warning("another message")
    assert [record.getMessage() for record in caplog.records] == ["another message"]
