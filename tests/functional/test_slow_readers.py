"""Clients that read slowly: who reads steadily is never let go, and what the kernel holds for one is little."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.aids.ports import free_port
from tests.functional.harness.client import connect
from tests.functional.harness.message import Message, answer, request
from tests.functional.harness.relay import Relay
from tests.functional.harness.share import least
from tests.functional.harness.upstream import Peer, Upstream
from tests.functional.test_listeners import make_certificate

SIZE = 24 << 20
FAST = 8 << 20
WRITE_S = 2.0
PIECE = 64 * 1024


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Relay, dict[str, tuple[str, int] | str]]]:
    folder = tmp_path_factory.mktemp("slow")
    cert, key = make_certificate(folder, "127.0.0.1")
    tls, unix = free_port(), f"{folder}/s.sock"
    write = {"timeouts": {"write": f"{WRITE_S:g}s"}}
    listeners = {
        "public": write, "unix": {"address": f"unix:{unix}", **write},
        "tls": {"address": f"127.0.0.1:{tls}", "tls": {"certificates": [{"cert": cert, "key": key}]}, **write},
    }

    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(answer(b"x" * (more_than_buffers() if b"/stopped" in message.start else SIZE)))

    with Upstream() as up, Relay(folder / "r", up.url, {"listeners": listeners}) as relay:
        up.script = script
        yield relay, {"tcp": relay.address, "tls": ("127.0.0.1", tls), "unix": unix}


def more_than_buffers() -> int:
    """An answer that the kernel cannot hold whole once FAST bytes were read: the largest buffers of both ends."""
    largest = [Path(f"/proc/sys/net/ipv4/{name}").read_text().split()[2] for name in ("tcp_rmem", "tcp_wmem")]
    return FAST + sum(map(int, largest)) + SIZE


def opened(address: tuple[str, int] | str, kind: str, receive_buffer: int = 0) -> socket.socket:
    sock = connect(address, receive_buffer=receive_buffer)
    if kind == "tls":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        sock = context.wrap_socket(sock)
    return sock


@pytest.mark.parametrize("kind", ["tcp", "tls", "unix"])
def test_a_client_that_reads_steadily_gets_everything(
    addresses: tuple[Relay, dict[str, tuple[str, int] | str]], kind: str
) -> None:
    relay, places = addresses
    # A large buffer would be acknowledged in steps of a sixteenth, which may be more than is read in the time.
    with opened(places[kind], kind, receive_buffer=PIECE) as sock:
        sock.sendall(request(b"/steady-" + kind.encode(), b"Connection: close"))
        got, begun = 0, time.monotonic()
        while time.monotonic() - begun < 4 * WRITE_S:  # slow for several times as long as one may read nothing
            size = 0
            while size < PIECE:
                data = sock.recv(PIECE - size)
                assert data, f"let go after {got} bytes"
                size += len(data)
            got += size
            time.sleep(WRITE_S / 4)
        assert got < SIZE
        while data := sock.recv(1 << 20):
            got += len(data)
    assert got > SIZE
    assert relay.record(path=f"/steady-{kind}")["code"] in ("", None)


@pytest.mark.parametrize("kind", ["tcp", "tls"])
def test_the_kernel_holds_little_for_a_client_that_has_stopped_reading(
    addresses: tuple[Relay, dict[str, tuple[str, int] | str]], kind: str
) -> None:
    relay, places = addresses

    def stopped() -> tuple[None, float]:
        with opened(places[kind], kind) as sock:
            sock.sendall(request(b"/stopped-" + kind.encode()))
            size = 0
            while size < FAST:  # fast at first: the kernel makes the buffers of a fast connection large
                size += len(sock.recv(1 << 20))
            port, own = sock.getpeername()[1], sock.getsockname()[1]
            held = 0
            while relay.exchanges():  # what was under way at first has arrived when it is let go
                held = queued(port, own) or held
                time.sleep(0.02)
            assert held
        assert relay.record(path=f"/stopped-{kind}")["code"] == "client_stalled"
        return None, held

    most = 1 << 20
    assert least(stopped, most)[1] < most  # a busy kernel drops what is under way, and then holds it too


def queued(port: int, peer: int) -> int:
    """What the kernel holds for a connection of relayd: bytes not sent or not acknowledged; 0 when it has gone."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        if local.endswith(f":{port:04X}") and remote.endswith(f":{peer:04X}"):
            return int(queues.partition(":")[0], 16)
    return 0
