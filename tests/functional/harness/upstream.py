"""An upstream that plays what a test scripted, and remembers every byte that it was sent."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from tests.functional.harness.message import PATIENCE_S, Closed, Message, Wire, answer, reset_on_close

Script = Callable[["Peer", Message], None]


class Peer(Wire):
    """One connection from relayd; owned by its thread, which plays the script once per request.

    A script gets the head; it reads the body with `whole()`, or as it likes. When it returns, the connection waits for
    the next request, unless it was closed.
    """

    def __init__(self, sock: socket.socket, upstream: Upstream) -> None:
        super().__init__(sock)
        self.upstream = upstream
        self.accepted = time.monotonic()
        self.ended_at = 0.0
        self.open = True
        self.served = threading.Event()  # its thread has closed it

    def whole(self, message: Message) -> Message:
        """Read the body too."""
        self.body(message, until_close=False)
        return message

    def wait_gone(self, timeout_s: float = PATIENCE_S) -> bool:
        """Wait until relayd leaves; `ended_at` says when, and the upstream's `left` is set."""
        gone = self.ended(timeout_s)
        if gone:
            self.ended_at = time.monotonic()
            self.upstream.left.put(self.ended_at)
        return gone

    def close(self) -> None:
        self.open = False
        super().close()


def hello(peer: Peer, message: Message) -> None:
    """The default script."""
    peer.whole(message)
    peer.send(answer())


def saying(data: bytes) -> Script:
    """A script that reads the whole request and sends these bytes."""

    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(data)

    return script


def saying_then_close(data: bytes, *, reset: bool = False) -> Script:
    def script(peer: Peer, message: Message) -> None:
        peer.whole(message)
        peer.send(data)
        if reset:
            time.sleep(0.02)  # a reset may overtake what was sent
            peer.reset()
        else:
            peer.close()

    return script


def linger(sock: socket.socket) -> None:
    """Close a connection so that the alert reaches the other side: unread bytes would make a reset of it."""
    with contextlib.suppress(OSError), socket.socket(fileno=sock.detach()) as plain:
        plain.settimeout(PATIENCE_S)
        plain.shutdown(socket.SHUT_WR)
        while plain.recv(65536):
            pass


def far_end(sock: socket.socket) -> tuple[str, str] | None:
    """The other side of a TCP connection as a pair of ports of `established`; None for others."""
    try:
        return f"{sock.getpeername()[1]:04X}", f"{sock.getsockname()[1]:04X}"
    except (OSError, IndexError, TypeError, ValueError):
        return None


def established() -> set[tuple[str, str]]:
    """The local and the remote port of each TCP connection of this machine whose end has not arrived, in hexadecimal."""
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return {(row[1].rpartition(":")[2], row[2].rpartition(":")[2]) for row in rows if row[3] == "01"}


class Upstream:
    """Listens on a loopback port or a Unix socket, one thread per connection. Use as a context manager."""

    def __init__(
        self, *, unix: str | None = None, tls: ssl.SSLContext | None = None, receive_buffer: int = 0, port: int = 0,
        host: str = "127.0.0.1",
    ) -> None:
        family = socket.AF_UNIX if unix else socket.AF_INET
        self.listener = socket.socket(family, socket.SOCK_STREAM)
        if receive_buffer:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if unix:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(unix)
            self.listener.bind(unix)
        else:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.listener.bind((host, port))
        self.listener.listen(1024)
        self.port: int = 0 if unix else self.listener.getsockname()[1]
        self.unix, self.tls, self.host = unix, tls, host
        self.lock = threading.Lock()
        self.peers: list[Peer] = []
        self.threads: list[threading.Thread] = []
        self.stopping = False
        self.fresh()

    def fresh(self) -> None:
        """Forget what was: every test begins with an empty record and the default script."""
        self.script: Script = hello
        self.requests: queue.Queue[Message] = queue.Queue()
        self.heads: list[Message] = []
        self.left: queue.Queue[float] = queue.Queue()
        self.faults: list[BaseException] = []
        self.connections = 0

    @property
    def url(self) -> str:
        if self.unix:
            return f"unix:{self.unix}"
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"

    def __enter__(self) -> Upstream:
        thread = threading.Thread(target=self.accept, daemon=True)
        thread.start()
        self.threads.append(thread)
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        self.stopping = True
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        with self.lock:
            for peer in self.peers:
                with contextlib.suppress(OSError):
                    peer.sock.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(60)
        for peer in self.peers:
            peer.close()

    def drop_idle(self, *, reset: bool = False) -> None:
        """Close every connection, as an upstream does whose keep-alive ended; afterwards they are closed, and relayd's kernel
        knows it: on a busy machine the end may arrive later than a request that was sent after it."""
        with self.lock:
            dropped = list(self.peers)
            ends = {one for peer in dropped if (one := far_end(peer.sock)) is not None}
            for peer in dropped:
                with contextlib.suppress(OSError):
                    if reset:
                        reset_on_close(peer.sock)  # its thread wakes up and closes
                    peer.sock.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)
        for peer in dropped:
            assert peer.served.wait(PATIENCE_S), "a connection that was to be idle is not"
        end = time.monotonic() + PATIENCE_S
        while ends & established():
            assert time.monotonic() < end, "the end of a connection has not arrived"
            time.sleep(0.001)

    def accept(self) -> None:
        while not self.stopping:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self.serve, args=(sock,), daemon=True)
            with self.lock:
                self.threads = [one for one in self.threads if one.is_alive()]
                self.threads.append(thread)
            thread.start()

    def serve(self, sock: socket.socket) -> None:
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.tls is not None:
            try:
                sock.settimeout(PATIENCE_S)
                sock = self.tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
                sock.do_handshake()
            except OSError:
                linger(sock)
                return
        peer = Peer(sock, self)
        with self.lock:
            self.connections += 1
            self.peers.append(peer)
        try:
            while peer.open and not self.stopping:
                peer.sock.settimeout(None)
                if not peer.buffer:
                    data = peer.sock.recv(262144)
                    if not data:
                        break
                    peer.buffer, peer.received = data, peer.received + len(data)
                message = peer.head()
                self.heads.append(message)
                self.requests.put(message)
                self.script(peer, message)
        except (Closed, OSError):
            pass
        except BaseException as fault:  # reported by the test that runs now
            self.faults.append(fault)
        finally:
            peer.close()
            with self.lock:
                self.peers.remove(peer)
            peer.served.set()

    def request(self, timeout_s: float = PATIENCE_S) -> Message:
        """The next request that arrived."""
        return self.requests.get(timeout=timeout_s)

    def nothing_came(self) -> bool:
        return not self.heads
