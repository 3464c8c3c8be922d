"""Server-side TLS: certificates by name, and unusable files."""

from __future__ import annotations

import asyncio
import dataclasses
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from relayd import clock
from relayd.config.listener import Certificate, Tls
from relayd.errors import ConfigError
from relayd.server.tls import make_context
from tests.aids.turns import turned
from tests.unit.proxy.harness import get, reset, running, saying, until
from tests.unit.server.certificates import certificate


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Certificate, Certificate]:
    folder = tmp_path_factory.mktemp("certificates")
    return certificate(folder, "one.example"), certificate(folder, "two.example", "*.two.example")


def trusting(*certificates: Certificate, host: bool = True) -> ssl.SSLContext:
    context = ssl.create_default_context()
    for one in certificates:
        context.load_verify_locations(one.cert)
    if not host:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@pytest.mark.parametrize(("server_name", "selected"), [
    ("one.example", "one.example"), ("two.example", "two.example"), ("TWO.example", "two.example"),
    ("a.two.example", "two.example"), ("a.b.two.example", "one.example"), ("other.example", "one.example"), (None, "one.example"),
])
async def test_the_name_that_is_asked_for_chooses_the_certificate(
    tmp_path: Path, certificates: tuple[Certificate, Certificate], server_name: str | None, selected: str
) -> None:
    context = make_context("public", Tls(certificates=certificates))
    client = trusting(*certificates)
    client.check_hostname = False
    async with running(tmp_path, context=context) as harness:
        side = await harness.connect(ssl=client, server_hostname=server_name or "")
        found = side.writer.get_extra_info("peercert")
        assert found["subject"][0][0][1] == selected
        side.write(get())
        assert (await side.message())[1] == b"ok"
        await harness.accounted(1)


async def test_requests_and_large_answers_go_over_tls(tmp_path: Path, certificates: tuple[Certificate, Certificate]) -> None:
    size = 24 << 20
    context = make_context("public", Tls(certificates=certificates))
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
    async with running(tmp_path, saying(answer), context=context) as harness:
        side = await harness.connect(ssl=trusting(*certificates), server_hostname="one.example")
        assert side.writer.get_extra_info("ssl_object").version() in ("TLSv1.2", "TLSv1.3")
        side.writer.transport.pause_reading()  # type: ignore[attr-defined]
        side.write(get("/x", "Content-Length: 300000", method="POST") + bytes(300000))
        await until(lambda: harness.listening.connections and harness.connection.buffered() > 0)
        side.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert len((await side.message())[1]) == size
        assert (await harness.accounted(1))[0].bytes_in == 300000


async def test_only_http_1_is_agreed_to(tmp_path: Path, certificates: tuple[Certificate, Certificate]) -> None:
    client = trusting(host=False)
    client.set_alpn_protocols(["h2", "http/1.1"])
    async with running(tmp_path, context=make_context("public", Tls(certificates=certificates))) as harness:
        side = await harness.connect(ssl=client, server_hostname="one.example")
        assert side.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"


async def test_an_old_version_is_not_spoken(tmp_path: Path, certificates: tuple[Certificate, Certificate]) -> None:
    client = trusting(host=False)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    async with running(tmp_path, context=make_context("public", Tls(certificates=certificates, min_version="1.3"))) as harness:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await harness.connect(ssl=client, server_hostname="one.example")
        await until(lambda: not harness.listening.connections)


async def test_a_handshake_has_a_limit_of_time_of_its_own(
    tmp_path: Path, certificates: tuple[Certificate, Certificate]
) -> None:
    context = make_context("public", Tls(certificates=certificates))
    async with running(tmp_path, context=context, listener="timeouts: {handshake: 10s, header: 0}") as harness:
        side = await harness.connect()
        await until(lambda: harness.listening.connections)
        harness.connection.enforce_timeouts(clock.monotonic() + 9)
        assert harness.listening.connections
        harness.connection.enforce_timeouts(clock.monotonic() + 11)
        await side.gone()
        await until(lambda: not harness.listening.connections)
        await harness.accounted(0)


async def test_garbage_and_resets_at_a_tls_port_affect_no_other_client(
    tmp_path: Path, certificates: tuple[Certificate, Certificate], caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, context=make_context("public", Tls(certificates=certificates))) as harness:
        harness.listening.pause()
        for _ in range(3):
            early = await harness.connect()
            early.write(b"\x16\x03\x01")
            await asyncio.sleep(0)
            reset(early.writer)
        await turned()
        harness.listening.accept()
        plain = await harness.connect()
        plain.write(get())
        await plain.gone()
        await until(lambda: not harness.listening.connections)
        side = await harness.connect(ssl=trusting(*certificates), server_hostname="one.example")
        side.write(get())
        assert (await side.message())[1] == b"ok"
        await harness.accounted(1)
    assert not [record for record in caplog.records if record.exc_info]


def test_the_certificate_library_is_loaded_only_for_several_certificates() -> None:
    script = (
        "import sys, relayd.server.listener, relayd.plan.compile, relayd.config.load\n"
        "assert 'relayd.server.tls' in sys.modules and 'cryptography' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_key_of_another_certificate_is_refused_with_its_place(certificates: tuple[Certificate, Certificate]) -> None:
    one, two = certificates
    with pytest.raises(ConfigError) as caught:
        make_context("public", Tls(certificates=(one, dataclasses.replace(one, key=two.key))))
    (finding,) = caught.value.findings
    assert finding.path == "listeners.public.tls.certificates[1]" and finding.file == one.cert and finding.hint


def test_missing_files_and_files_without_certificates_are_refused(
    tmp_path: Path, certificates: tuple[Certificate, Certificate]
) -> None:
    gone = dataclasses.replace(certificates[0], cert=str(tmp_path / "gone.pem"))
    keyless = dataclasses.replace(certificates[0], key=str(tmp_path / "gone.key"))
    (tmp_path / "empty.pem").write_text("")
    empty = dataclasses.replace(certificates[0], cert=str(tmp_path / "empty.pem"))
    for bad in (gone, keyless, empty):
        with pytest.raises(ConfigError):
            make_context("public", Tls(certificates=(bad,)))
