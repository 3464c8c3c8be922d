"""Server-side TLS: certificates by name, and unusable files."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from relayd import clock
from relayd.acme.state import State
from relayd.config.acme import Acme
from relayd.config.listener import Certificate, Tls
from relayd.errors import ConfigError
from relayd.server.connection import PIPELINED
from relayd.server.tls import make_challenge_context, make_context
from tests.aids.certificates import made
from tests.aids.turns import turned
from tests.unit.proxy.harness import Side, get, reset, running, saying, until
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
    assert finding.path == "listeners.public.tls.certificates[1]" and finding.file == one.cert and finding.suggestion


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


def test_keys_that_cannot_be_used_are_refused_with_the_reason(certificates: tuple[Certificate, Certificate], tmp_path: Path) -> None:
    key = Path(certificates[0].key)
    sealed, other = tmp_path / "sealed.key", tmp_path / "other.key"
    subprocess.run(["openssl", "pkey", "-in", key, "-aes256", "-passout", "pass:x", "-out", sealed], check=True, capture_output=True)
    for file, text, reason in ((sealed, "", "encrypted"), (other, "none", "no private key"), (other, key.read_text()[:80], "damaged|cannot be used")):
        if text:
            file.write_text(text)
        with pytest.raises(ConfigError, match=reason):
            make_context("public", Tls(certificates=(dataclasses.replace(certificates[0], key=str(file)),)))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(("wanted", "presented", "served"), [
    ("optional", "", True), ("optional", "ours", True), ("optional", "theirs", False),
    ("required", "", False), ("required", "ours", True), ("required", "theirs", False),
])
async def test_a_client_certificate_is_verified_if_it_is_presented_and_may_be_required(
    wanted: Literal["optional", "required"], presented: str, served: bool, version: ssl.TLSVersion, tmp_path: Path, certificates: tuple[Certificate, Certificate]
) -> None:
    authority = made(tmp_path, "authority", authority=True)
    pairs = {"ours": made(tmp_path, "ours", issuer=authority), "theirs": made(tmp_path, "theirs")}
    context = make_context("public", Tls(certificates=certificates, client_ca=authority.cert, client_certificate=wanted))
    client = trusting(*certificates)
    client.minimum_version = client.maximum_version = version
    if presented:
        client.load_cert_chain(pairs[presented].cert, pairs[presented].key)
    async with running(tmp_path, context=context) as harness:
        for name in ("one.example", "two.example"):  # the second one's context is chosen by its name
            answered = b""
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                side = await harness.connect(ssl=client, server_hostname=name)
                side.write(get())
                answered = (await side.message())[1]
            assert answered == (b"ok" if served else b"")


@pytest.mark.parametrize("text", [None, "", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_file_of_authorities_that_cannot_be_used_is_refused_with_its_place(
    text: str | None, tmp_path: Path, certificates: tuple[Certificate, Certificate]
) -> None:
    file = tmp_path / "authorities.pem"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        make_context("public", Tls(certificates=certificates, client_ca=str(file)))
    (finding,) = caught.value.findings
    assert finding.path == "listeners.public.tls.client_ca" and finding.file == str(file) and str(file) in finding.message


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_pipelines_more_than_is_read_is_noticed_over_tls_when_it_leaves(how: str, tmp_path: Path) -> None:
    async def silent(side: Side) -> None:
        await side.message()
        await side.gone()

    certificates = (certificate(tmp_path, "relay.example"),)
    async with running(tmp_path, silent, context=make_context("public", Tls(certificates=certificates))) as harness:
        side = await harness.connect(ssl=trusting(certificates[0]), server_hostname="relay.example")
        side.write(get("/x") + get("/y", "X-Pad: " + "x" * 400) * (2 * PIPELINED // 400))
        await side.writer.drain()
        await until(lambda: harness.endpoint_sides and not harness.connection._stream.reading_enabled)
        # Not `close`, which waits for the other side's close_notify before it closes the connection.
        side.reset() if how == "reset" else side.writer.transport.abort()
        (record,) = await harness.accounted(1)
        assert record.code == "client_gone"


async def test_requests_beyond_the_buffer_are_all_answered_over_tls(tmp_path: Path) -> None:
    certificates = (certificate(tmp_path, "relay.example"),)
    context = make_context("public", Tls(certificates=certificates))
    async with running(tmp_path, context=context, listener="limits: {requests: 0}") as harness:
        side = await harness.connect(ssl=trusting(certificates[0]), server_hostname="relay.example")
        count = 3 * PIPELINED // 400
        side.write(get("/y", "X-Pad: " + "x" * 400) * count)
        for _ in range(count):
            assert (await side.message())[1] == b"ok"


@pytest.mark.parametrize(("server_name", "selected"), [
    ("a.example", "a.example"), ("x.w.example", "any.w.example"), ("one.example", "one.example"), ("other.example", "one.example"), (None, "one.example"),
    ("missing.example", ""),
])
async def test_certificates_from_acme_stand_beside_those_from_files(
    tmp_path: Path, certificates: tuple[Certificate, Certificate], server_name: str | None, selected: str
) -> None:
    state = State(str(tmp_path / "acme"))
    state.prepare()
    for name in ("a.example", "*.w.example"):
        one = certificate(tmp_path, name)
        state.write_certificate(name, Path(one.key).read_bytes() + Path(one.cert).read_bytes())
    state.write_certificate("broken.example", b"broken")
    acme = Acme(domains=("A.example", "*.w.example", "missing.example", "broken.example"))
    context = make_context("public", Tls(certificates=certificates[:1], acme=acme), state)
    async with running(tmp_path, context=context) as harness:
        if not selected:
            with pytest.raises(ssl.SSLError, match="INTERNAL_ERROR"):
                await harness.connect(ssl=trusting(host=False), server_hostname=server_name)
            return
        client = ssl.create_default_context()
        client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
        side = await harness.connect(ssl=client, server_hostname=server_name or "")
        der = side.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        assert selected.encode() in der


async def test_without_any_certificate_every_handshake_is_refused(tmp_path: Path) -> None:
    context = make_context("public", Tls(acme=Acme(domains=("a.example",))))
    async with running(tmp_path, context=context) as harness:
        for name in ("a.example", "b.example", ""):
            with pytest.raises(ssl.SSLError, match="INTERNAL_ERROR"):
                await harness.connect(ssl=trusting(host=False), server_hostname=name)


def test_a_challenge_that_is_not_pending_has_no_context(tmp_path: Path) -> None:
    assert make_challenge_context(str(tmp_path / "a.pem")) is None
