"""While a challenge of tls-alpn-01 is pending, the validator gets its certificate and every other client the usual one."""

from __future__ import annotations

import dataclasses
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from relayd import clock
from relayd.acme.keys import challenge_pem
from relayd.config.acme import Acme
from relayd.config.listener import Tls
from relayd.server.client_hello import ClientHelloReader
from relayd.server.tls import make_context
from tests.unit.proxy.harness import OK, Harness, get, running, saying, until
from tests.unit.server.certificates import certificate


@asynccontextmanager
async def challenged(folder: Path) -> AsyncIterator[Harness]:
    """A listener with a certificate for a.example, and a pending challenge for it."""
    tls = Tls(acme=Acme(domains=("a.example", "b.example")))
    async with running(folder, saying(OK)) as harness:
        harness.state.prepare()
        one = certificate(folder, "a.example")
        harness.state.write_certificate("a.example", Path(one.key).read_bytes() + Path(one.cert).read_bytes())
        harness.state.add_challenge("tls-alpn-01", "a.example", challenge_pem("a.example", b"token.thumb"))
        config = dataclasses.replace(harness.listening.config, tls=tls)
        harness.listening.configure(config, make_context("public", tls, harness.state))
        yield harness


def client(*protocols: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


async def test_only_the_validator_gets_the_certificate_of_the_challenge(tmp_path: Path) -> None:
    async with challenged(tmp_path) as harness:
        for protocols, challenge in (("acme-tls/1",), True), (("h2", "http/1.1"), False), ((), False):
            side = await harness.connect(ssl=client(*protocols), server_hostname="A.example")
            found = side.writer.get_extra_info("ssl_object")
            assert (b"ACME challenge" in found.getpeercert(binary_form=True)) is challenge
            assert found.selected_alpn_protocol() == ("acme-tls/1" if challenge else "http/1.1" if protocols else None)
            side.writer.close()
        side = await harness.connect(ssl=client(), server_hostname="a.example")
        side.write(get())
        assert (await side.message())[1] == b"ok"
        await harness.accounted(1)


async def test_a_challenge_for_another_name_or_path_is_not_answered(tmp_path: Path) -> None:
    async with challenged(tmp_path) as harness:
        for name in ("b.example", "c.example"):
            try:
                side = await harness.connect(ssl=client("acme-tls/1"), server_hostname=name)
            except ssl.SSLError:
                assert name == "b.example", "it has no certificate yet"
                continue
            found = side.writer.get_extra_info("ssl_object")
            assert b"ACME challenge" not in found.getpeercert(binary_form=True)
            side.writer.close()


class Timers:
    """The timers of ClientHelloReaders: how many the loop has called, and how many wait."""

    def __init__(self, harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
        self.expired = self.pending = 0
        self._schedule = harness.listening.loop.call_later
        monkeypatch.setattr(harness.listening.loop, "call_later", self._call_later)

    def _call_later(self, delay_s: float, callback: Callable[[], object]) -> object:
        if not isinstance(getattr(callback, "__self__", None), ClientHelloReader):
            return self._schedule(delay_s, callback)

        def call() -> None:
            callback()
            self.expired += 1
            self.pending -= 1

        self.pending += 1
        return self._schedule(delay_s, call)


async def test_what_is_no_hello_is_closed_and_slow_ones_are_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with challenged(tmp_path) as harness:
        timers = Timers(harness, monkeypatch)
        plain = await harness.connect()
        plain.write(get())
        await plain.gone()
        silent, slow, leaving = await harness.connect(), await harness.connect(), await harness.connect()
        slow.write(b"\x16\x03\x01")
        leaving.reset()
        await until(lambda: harness.listening.count == 2)
        await until(lambda: timers.expired >= 2 and timers.pending)  # the incomplete hello is read again by a timer
        harness.listening.sweep(clock.monotonic() + 9)
        assert harness.listening.count == 2
        harness.listening.sweep(clock.monotonic() + 11)
        for side in (silent, slow):
            await side.gone()
        assert harness.listening.count == 0
        await until(lambda: not timers.pending)  # the scheduled retry finds a closed socket


async def test_a_hello_in_pieces_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with challenged(tmp_path) as harness:
        timers = Timers(harness, monkeypatch)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = client("acme-tls/1").wrap_bio(incoming, outgoing, server_hostname="a.example")
        side = await harness.connect()
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        hello = outgoing.read()
        side.write(hello[:40])
        await until(lambda: timers.expired)  # the first piece has been read, and again
        side.write(hello[40:])
        while True:
            incoming.write(await side.reader.read(65536))
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                continue
        der = tls.getpeercert(binary_form=True)
        assert der is not None and b"ACME challenge" in der
