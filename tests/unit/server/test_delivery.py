"""Progress of a client: bytes acknowledged by its kernel, not bytes added for it."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from relayd.server.delivery import Delivery
from relayd.upstream.transport.kernel_buffer import UNSENT_BYTES, bound_kernel_buffer, unacknowledged


class Waiting:
    """A stream with a real socket that is full, and a backlog."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket, self.bytes = sock, 1000

    def backlog(self) -> int:
        return self.bytes


@pytest.fixture(params=["tcp", "unix"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    if request.param == "unix":
        ours, theirs = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as server:
            bound_kernel_buffer(server)
            theirs = socket.create_connection(server.getsockname())
            ours, _ = server.accept()
    with ours, theirs:
        ours.setblocking(False)
        theirs.settimeout(60)
        fill(ours)
        yield ours, theirs


def fill(sock: socket.socket) -> int:
    size = 0
    try:
        while True:
            size += sock.send(b"x" * 65536)
    except BlockingIOError:
        return size


def test_a_client_that_takes_nothing_is_stalled_however_much_is_added(pair: tuple[socket.socket, socket.socket]) -> None:
    stream = Waiting(pair[0])
    while (before := unacknowledged(pair[0])) != unacknowledged(pair[0]):
        assert before
    delivery = Delivery(stream)
    assert delivery.stalled_s(1000.0) == 0.0
    stream.bytes += 500
    assert delivery.stalled_s(1010.0) == 10.0
    stream.bytes += 500
    assert delivery.stalled_s(1070.0) == 70.0


def test_a_client_that_takes_a_little_is_not(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    delivery = Delivery(Waiting(ours))
    delivery.stalled_s(1000.0)
    held = unacknowledged(ours)
    while unacknowledged(ours) == held:  # a window reopens in steps
        assert theirs.recv(65536)
    assert delivery.stalled_s(1070.0) == 0.0
    assert delivery.stalled_s(1080.0) == 10.0 or unacknowledged(ours) != held


def test_bytes_that_the_kernel_takes_are_progress(pair: tuple[socket.socket, socket.socket]) -> None:
    stream = Waiting(pair[0])
    delivery = Delivery(stream)
    delivery.stalled_s(1000.0)
    stream.bytes -= 1
    assert delivery.stalled_s(1070.0) == 0.0


def test_the_kernel_holds_little_for_an_accepted_connection(pair: tuple[socket.socket, socket.socket]) -> None:
    if pair[0].family != socket.AF_UNIX:
        assert pair[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == UNSENT_BYTES


def test_an_unsupported_socket_has_no_unacknowledged_bytes() -> None:
    with open("/dev/null", "rb") as null:
        assert unacknowledged(null) == 0  # type: ignore[arg-type]
