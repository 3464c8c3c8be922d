"""Where clients arrive: Unix sockets, IPv6, TLS with several names, the PROXY protocol, trusted proxies, limits."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import struct
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.aids.ports import free_port
from tests.functional.harness.client import Client, connect
from tests.functional.harness.faults import until
from tests.functional.harness.message import PATIENCE_S, Message, request
from tests.functional.harness.relay import Relay, get
from tests.functional.harness.upstream import Peer, Upstream, saying


def make_certificate(folder: Path, name: str, *, signer: str | None = None) -> tuple[str, str]:
    """A certificate for a name; signed by itself, or by the authority of another call."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-keyout", str(key),
               "-out", str(cert), "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name},DNS:localhost,IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    return str(cert), str(key)


def trusting(cert: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=cert)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, module_upstream: Upstream) -> Any:
    """One relayd with a listener of every kind."""
    folder = tmp_path_factory.mktemp("listeners")
    certs = [make_certificate(folder, name) for name in ("one.test", "two.test")]
    ports = {name: free_port() for name in ("tls", "proxy", "trusted", "few", "impatient_tls", "impatient_proxy")}
    v6 = free_port("::1")
    listeners: dict[str, dict[str, Any]] = {
        "unix": {"address": f"unix:{folder}/front.sock", "mode": "0600", "trusted_proxies": ["unix"]},
        "six": {"address": f"[::1]:{v6}"},
        "tls": {"address": f"127.0.0.1:{ports['tls']}", "tls": {"certificates": [{"cert": c, "key": k} for c, k in certs]}},
        "proxy": {"address": f"127.0.0.1:{ports['proxy']}", "proxy_protocol": True, "trusted_proxies": ["127.0.0.1"]},
        "trusted": {"address": f"127.0.0.1:{ports['trusted']}", "trusted_proxies": ["127.0.0.0/8", "10.0.0.0/8"]},
        "few": {"address": f"127.0.0.1:{ports['few']}", "limits": {"connections_per_peer": 3}},
    }
    for name in ("tls", "proxy"):  # where nobody makes a handshake, which a busy machine could delay
        address = f"127.0.0.1:{ports[f'impatient_{name}']}"
        listeners[f"impatient_{name}"] = {**listeners[name], "address": address, "timeouts": {"handshake": "500ms"}}
    with Relay(folder / "r", module_upstream.url, {"listeners": listeners}) as relay:
        yield relay, folder, {**ports, "six": v6}, certs


def test_a_unix_socket_serves_with_its_mode(house: Any, upstream: Upstream) -> None:
    _, folder, _, _ = house
    path = f"{folder}/front.sock"
    assert os.stat(path).st_mode & 0o777 == 0o600
    with Client(path) as client:
        assert client.ask(request(b"/u", b"X-Forwarded-For: 203.0.113.9")).status == 200
    assert upstream.heads[-1].get("x-forwarded-for") is not None
    assert (upstream.heads[-1].get("x-forwarded-for") or b"").startswith(b"203.0.113.9")


def test_ipv6_serves(house: Any, upstream: Upstream) -> None:
    _, _, ports, _ = house
    with Client(("::1", ports["six"])) as client:
        assert client.ask(request(b"/six")).status == 200
    assert upstream.heads[-1].get("x-forwarded-for") == b"::1"
    assert b'for="[::1]"' in (upstream.heads[-1].get("forwarded") or b"")


def test_the_name_chooses_the_certificate(house: Any, upstream: Upstream) -> None:
    _, _, ports, certs = house
    for (cert, _), name in zip(certs, ("one.test", "two.test"), strict=True):
        with Client(("127.0.0.1", ports["tls"]), tls=trusting(cert), server_name=name) as client:
            assert client.ask(request(b"/tls")).status == 200
        assert upstream.heads[-1].get("x-forwarded-proto") == b"https"


def test_an_unknown_name_gets_the_first_certificate(house: Any, upstream: Upstream) -> None:
    _, _, ports, certs = house
    context = trusting(certs[0][0])
    context.check_hostname = False
    with Client(("127.0.0.1", ports["tls"]), tls=context, server_name="three.test") as client:
        assert client.ask(request(b"/tls")).status == 200


def test_tls_1_1_is_refused(house: Any, upstream: Upstream) -> None:
    _, _, ports, _ = house
    done = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{ports['tls']}", "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"],
                          input=b"", capture_output=True, timeout=60, check=False)
    assert b"Cipher is (NONE)" in done.stdout or done.returncode != 0


def test_a_large_answer_passes_over_tls(house: Any, upstream: Upstream) -> None:
    from tests.functional.harness.message import answer

    body = bytes(range(256)) * 20000
    upstream.script = saying(answer(body))
    _, _, ports, certs = house
    with Client(("127.0.0.1", ports["tls"]), tls=trusting(certs[0][0]), server_name="one.test") as client:
        assert client.ask(request(b"/big")).body == body
        upstream.script = lambda peer, message: peer.send(answer(peer.whole(message).body))
        assert client.ask(request(b"/up", method=b"POST", body=body[:1_000_000])).body == body[:1_000_000]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(("data", "last"), [
    (request(b"/", b"Connection: close"), b"hello"), (request(b"/", version=b"HTTP/1.0"), b"hello"), (b"nonsense\r\n\r\n", b"}"),
    (request(b"/", b"Content-Length: 9", b"Transfer-Encoding: chunked", method=b"POST") + b"abc", b"}"),
], ids=["close", "until close", "refused", "refused with a body"])  # fmt: skip
def test_a_clean_end_of_a_tls_connection_is_announced(data: bytes, last: bytes, version: ssl.TLSVersion, house: Any, upstream: Upstream) -> None:
    """RFC 8446 6.1: without close_notify a client cannot distinguish it from a truncation."""
    upstream.script = saying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    _, _, ports, certs = house
    context = trusting(certs[0][0])
    context.maximum_version = version
    with connect(("127.0.0.1", ports["tls"])) as plain, context.wrap_socket(plain, server_hostname="one.test", suppress_ragged_eofs=False) as sock:
        sock.sendall(data)
        received = b""
        while piece := sock.recv(65536):  # raises an error at an end that is not announced
            received += piece
        assert last in received, received


def test_a_response_that_breaks_off_ends_without_an_announcement(house: Any, upstream: Upstream) -> None:
    arrived = threading.Event()

    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        arrived.wait(PATIENCE_S)
        peer.close()

    upstream.script = script
    _, _, ports, certs = house
    with connect(("127.0.0.1", ports["tls"])) as plain, trusting(certs[0][0]).wrap_socket(plain, server_hostname="one.test", suppress_ragged_eofs=False) as sock:
        sock.sendall(request(b"/", version=b"HTTP/1.0"))
        received = b""
        while b"hello" not in received:
            received += sock.recv(65536)
        arrived.set()
        with pytest.raises(OSError):
            while sock.recv(65536):
                pass


def test_plain_http_on_the_tls_port_and_silence_are_let_go(house: Any, upstream: Upstream) -> None:
    relay, _, ports, _ = house
    for data in (request(), b"", b"\x16\x03"):
        with Client(("127.0.0.1", ports["impatient_tls"])) as client:
            client.send(data)
            assert client.ended()
    assert upstream.nothing_came()
    until(lambda: b"plain HTTP to a TLS listener" in relay.error_file.read_bytes())
    assert b"SSL Error" not in relay.error_file.read_bytes()


def test_a_renewed_certificate_is_named_by_the_reload(tmp_path: Path, upstream: Upstream) -> None:
    cert, key = make_certificate(tmp_path, "one.test")
    listeners = {"public": {"tls": {"certificates": [{"cert": cert, "key": key}]}}}
    with Relay(tmp_path / "r", upstream.url, {"listeners": listeners}) as relay:
        make_certificate(tmp_path, "one.test")
        code, body = relay.admin("/reload", "POST")
        answer, where = json.loads(body), "~ listeners.public.tls.certificates[0]"
        assert (code, answer["generation"]) == (200, 2)
        assert answer["changes"] == [f"{where}.cert: {cert} changed", f"{where}.key: {key} changed"]
        assert json.loads(relay.admin("/reload", "POST")[1])["changes"] == []
        with relay.client(tls=trusting(cert), server_name="one.test") as client:
            assert client.ask(request(b"/new")).status == 200


def test_clients_that_leave_before_the_tls_handshake_are_no_event(house: Any, upstream: Upstream) -> None:
    _, _, ports, certs = house
    for number in range(60):
        client = Client(("127.0.0.1", ports["tls"]))
        if number % 3 == 1:
            client.send(b"\x16\x03")
        if number % 3 == 2:
            client.send(request())
        client.reset()
    with Client(("127.0.0.1", ports["tls"]), tls=trusting(certs[0][0]), server_name="one.test") as client:
        assert client.ask(request(b"/well")).status == 200


V2 = b"\r\n\r\n\x00\r\nQUIT\n"
PROXY_HEADS = {
    "v1": (b"PROXY TCP4 203.0.113.7 127.0.0.1 4711 80\r\n", b"203.0.113.7"),
    "v1_six": (b"PROXY TCP6 2001:db8::7 ::1 4711 80\r\n", b"2001:db8::7"),
    "v1_unknown": (b"PROXY UNKNOWN\r\n", b"127.0.0.1"),
    "v2": (V2 + b"\x21\x11" + struct.pack("!H", 12) + bytes([203, 0, 113, 8, 127, 0, 0, 1]) + struct.pack("!HH", 1, 2), b"203.0.113.8"),
    "v2_tlv": (V2 + b"\x21\x11" + struct.pack("!H", 17) + bytes([203, 0, 113, 9, 127, 0, 0, 1]) + struct.pack("!HH", 1, 2) + b"\x04\x00\x02hi", b"203.0.113.9"),
    "v2_six": (V2 + b"\x21\x21" + struct.pack("!H", 36) + socket.inet_pton(socket.AF_INET6, "2001:db8::8") + socket.inet_pton(socket.AF_INET6, "::1")
               + struct.pack("!HH", 1, 2), b"2001:db8::8"),
    "v2_local": (V2 + b"\x20\x00\x00\x00", b"127.0.0.1"),
}


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("name", PROXY_HEADS)
def test_the_proxy_protocol_tells_who_the_client_is(name: str, split: bool, house: Any, upstream: Upstream) -> None:
    _, _, ports, _ = house
    head, address = PROXY_HEADS[name]
    data = head + request(b"/p")
    with Client(("127.0.0.1", ports["proxy"])) as client:
        for piece in ([data[n : n + 5] for n in range(0, len(data), 5)] if split else [data]):
            client.send(piece)
        assert client.answer().status == 200
    assert upstream.heads[-1].get("x-forwarded-for") == address


@pytest.mark.parametrize("head", [b"", b"PROXY TCP4 1.2.3 4 5 6\r\n", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n", b"PROXY " + b"x" * 200, V2 + b"\x31\x11\x00\x0c" + bytes(12),
                                  V2 + b"\x21\x11\x00\x04" + bytes(4), b"PROXY TCP4 1.2.3.4 1.2.3.4 99999 1\r\n"])
def test_a_connection_without_a_valid_proxy_head_is_not_served(head: bytes, house: Any, upstream: Upstream) -> None:
    _, _, ports, _ = house
    with Client(("127.0.0.1", ports["impatient_proxy"])) as client:
        client.send(head + request(b"/p"))
        assert client.ended()
    assert upstream.nothing_came()


def test_a_proxy_head_that_never_comes_is_not_waited_for(house: Any, upstream: Upstream) -> None:
    _, _, ports, _ = house
    with Client(("127.0.0.1", ports["impatient_proxy"])) as client:
        assert client.ended()


def test_a_trusted_proxy_is_believed_up_to_the_first_stranger(house: Any, upstream: Upstream) -> None:
    relay, _, ports, _ = house
    with Client(("127.0.0.1", ports["trusted"])) as client:
        message = client.ask(request(b"/t", b"X-Forwarded-For: 6.6.6.6, 203.0.113.5, 10.1.2.3", b"X-Forwarded-Proto: https", b"X-Forwarded-Host: outer.test",
                                     b"X-Request-ID: outer-id.1"))
    seen = upstream.heads[-1]
    assert seen.get("x-forwarded-for") == b"6.6.6.6, 203.0.113.5, 10.1.2.3, 127.0.0.1"
    assert seen.get("x-forwarded-proto") == b"https" and seen.get("x-forwarded-host") == b"outer.test"
    assert seen.get("x-real-ip") == b"203.0.113.5"
    assert seen.get("x-request-id") == b"outer-id.1" == message.get("x-request-id")
    assert relay.record(id="outer-id.1")["client"] == "203.0.113.5"


@pytest.mark.parametrize("bad", [b"x" * 129, b"a b", b"a\"b", b"", b"<script>"])
def test_an_ill_formed_id_is_replaced_even_from_a_trusted_proxy(bad: bytes, house: Any, upstream: Upstream) -> None:
    _, _, ports, _ = house
    with Client(("127.0.0.1", ports["trusted"])) as client:
        assert (client.ask(request(b"/t", b"X-Request-ID: " + bad)).get("x-request-id") or b"") not in (bad, b"")


def test_too_many_connections_of_one_address_get_503(house: Any, upstream: Upstream) -> None:
    _, _, ports, _ = house
    open_ones = [Client(("127.0.0.1", ports["few"])) for _ in range(3)]
    try:
        for client in open_ones:
            assert client.ask(request()).status == 200
        with Client(("127.0.0.1", ports["few"])) as fourth:
            try:
                fourth.send(request())
            except OSError:
                pass
            message = fourth.answer_or_none()
            assert message is None or message.status == 503
    finally:
        for client in open_ones:
            client.close()
    until(lambda: get(("127.0.0.1", ports["few"])) == 200)


def test_out_of_descriptors_it_stops_accepting_without_spinning_and_recovers(tmp_path: Path, upstream: Upstream) -> None:
    with Relay(tmp_path / "r", upstream.url, nofile=96) as relay:
        kept = relay.client()
        assert kept.ask(request()).status == 200
        hoard: list[socket.socket] = []
        try:
            for _ in range(200):
                hoard.append(connect(relay.address))
            until(lambda: b"listener_paused" in relay.output())
            before, began, waits = relay.cpu_s(), time.monotonic(), relay.waits()
            until(lambda: relay.waits() >= waits + 20, what="a loop that waits for events")
            assert relay.cpu_s() - before < 0.25 * (time.monotonic() - began), "it spins"
            assert kept.ask(request(b"/still")).status == 200
            assert relay.admin("/health")[0] == 200
        finally:
            for sock in hoard:
                sock.close()
        until(lambda: get(relay.address) == 200, what="recovery")
        kept.close()


def test_five_hundred_idle_connections_do_not_disturb(tmp_path: Path, upstream: Upstream) -> None:
    with Relay(tmp_path / "r", upstream.url) as relay:
        hoard = [connect(relay.address) for _ in range(500)]
        try:
            with relay.client() as client:
                for _ in range(20):
                    assert client.ask(request()).status == 200
        finally:
            for sock in hoard:
                sock.close()


def test_out_of_descriptors_the_admin_socket_does_not_spin(tmp_path: Path, upstream: Upstream) -> None:
    """Its clients wait, as those of a listener."""
    with Relay(tmp_path / "r", upstream.url, nofile=64) as relay:
        with contextlib.ExitStack() as hoard:
            for _ in range(200):
                hoard.enter_context(connect(relay.address))
            for _ in range(60):
                hoard.enter_context(connect(relay.admin_path))
            until(lambda: relay.descriptors() == 64)
            before, began, waits = relay.cpu_s(), time.monotonic(), relay.waits()
            until(lambda: relay.waits() >= waits + 20, what="a loop that waits for events")
            assert relay.cpu_s() - before < 0.25 * (time.monotonic() - began), "it spins"
        until(lambda: relay.admin("/health")[0] == 200, what="recovery")
