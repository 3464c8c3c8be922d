"""Endpoints that read a request body slowly: who goes on reading is at work, who stops is ended, and both hold little."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from pathlib import Path

import pycurl
import pytest

from tests.functional.harness.message import answer, request
from tests.functional.harness.relay import Relay

FIRST_BYTE_S = 2.0


class SlowEndpoint:
    """Reads a piece at each wake-up of its clock, and answers when it has `total` bytes; stops for good at `stops_at`."""

    def __init__(self, total: int, pieces: int, *, stops_at: int = 1 << 60) -> None:
        self.total, self.piece, self.stops_at = total, total // pieces, stops_at
        self.got = 0
        self.ended, self.closing = threading.Event(), threading.Event()
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(1)
        self.thread = threading.Thread(target=self.serve, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def serve(self) -> None:
        try:
            sock, _ = self.listener.accept()
        except OSError:
            return
        with sock:
            try:
                while self.got < self.total:
                    if self.got >= self.stops_at:
                        self.closing.wait(60)
                        return
                    wanted = self.got + self.piece
                    while self.got < min(wanted, self.total) and (data := sock.recv(min(16384, wanted - self.got))):
                        self.got += len(data)
                    self.closing.wait(0.25)
                sock.sendall(answer(b"taken", b"Connection: close"))
            except OSError:
                pass
            finally:
                self.ended.set()

    def __enter__(self) -> SlowEndpoint:
        self.thread.start()
        return self

    def __exit__(self, *fault: object) -> None:
        self.closing.set()
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)  # ends the thread's wait for a connection
        self.thread.join(60)
        self.listener.close()


def change(url: str) -> dict[str, object]:
    times = {"first_byte": f"{int(FIRST_BYTE_S * 1000)}ms"}
    return {
        "upstreams": {"up": {"endpoints": [url], "timeouts": times}},
        "routes": [{"name": "all", "upstream": "up", "body_limit": "100MiB"}],
    }


NAMES_NO_SOCKET = pycurl.version_info()[2] < 0x080000  # libcurl 7.88 does not tell the socket of a running transfer


@pytest.mark.parametrize("size", [
    pytest.param(200_000, marks=pytest.mark.skipif(NAMES_NO_SOCKET, reason="libcurl before 8: what the kernel holds is not known")),
    3_000_000,
])
def test_an_endpoint_that_takes_a_body_slowly_but_steadily_is_not_ended(tmp_path: Path, size: int) -> None:
    with SlowEndpoint(size, 24) as endpoint, Relay(tmp_path, endpoint.url, change(endpoint.url)) as relay:
        with relay.client() as client:
            client.send(request(method=b"POST", body=b"x" * size))
            assert client.answer().body == b"taken"
        assert relay.record(code="")["total_ms"] > FIRST_BYTE_S * 1000  # else it was not slow


def test_an_endpoint_that_stops_taking_a_body_is_ended(tmp_path: Path) -> None:
    with SlowEndpoint(3_000_000, 24, stops_at=200_000) as endpoint:
        with Relay(tmp_path, endpoint.url, change(endpoint.url)) as relay, relay.client() as client:
            threading.Thread(target=pushes, args=(client.sock, 3_000_000), daemon=True).start()
            assert client.answer().status == 504
            assert relay.record(path="/")["code"] == "first_byte_timeout"


def test_what_the_kernel_holds_for_a_slow_endpoint_is_bounded(tmp_path: Path) -> None:
    size = 12_000_000
    with SlowEndpoint(size, 24, stops_at=1) as endpoint:
        with Relay(tmp_path, endpoint.url, change(endpoint.url)) as relay, relay.client() as client:
            threading.Thread(target=pushes, args=(client.sock, size), daemon=True).start()
            port = int(endpoint.url.rpartition(":")[2])
            most = 0
            while not select.select([client.sock], [], [], 0.05)[0]:  # until the endpoint is given up
                most = max(most, held_for(relay.pid, port))
            assert client.answer().status == 504
            assert 0 < most < 1024 * 1024


def pushes(sock: socket.socket, size: int) -> None:
    try:
        sock.sendall(request(method=b"POST", body=b"x" * size))
    except OSError:
        pass


def held_for(pid: int, port: int) -> int:
    """Bytes in the send queue of the connection to this port."""
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[2].rpartition(":")[2], 16) == port and fields[3] == "01":
            return int(fields[4].partition(":")[0], 16)
    return 0
