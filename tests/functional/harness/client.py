"""A client that sends exactly the bytes it is told to, and reads answers without repairing them."""

from __future__ import annotations

import socket
import ssl
from types import TracebackType

from tests.functional.harness.message import PATIENCE_S, Closed, Message, Wire


def connect(address: tuple[str, int] | str, *, receive_buffer: int = 0, timeout_s: float = PATIENCE_S) -> socket.socket:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout_s)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.connect(address)
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return sock


class Client(Wire):
    """One connection to relayd. Use as a context manager."""

    def __init__(
        self, address: tuple[str, int] | str, *, receive_buffer: int = 0, tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
    ) -> None:
        sock = connect(address, receive_buffer=receive_buffer)
        if tls is not None:
            try:
                sock = tls.wrap_socket(sock, server_hostname=server_name)
            except BaseException:
                sock.close()
                raise
        super().__init__(sock)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def head_of_answer(self) -> Message:
        """The final head, with the interim ones that came before it."""
        interim: list[Message] = []
        while True:
            message = self.head()
            if message.status >= 200 or message.status == 101:
                message.interim = interim
                return message
            interim.append(message)

    def answer(self, method: bytes = b"GET") -> Message:
        """A whole response; `complete` is False when it broke off. Raises Closed when no head came."""
        message = self.head_of_answer()
        if method == b"HEAD" or message.status in (101, 204, 304):
            message.complete = True
            return message
        self.body(message, until_close=True)
        return message

    def ask(self, data: bytes) -> Message:
        self.send(data)
        return self.answer(data.split(b" ", 1)[0])

    def answer_or_none(self, method: bytes = b"GET") -> Message | None:
        """None when the connection ended without an answer."""
        try:
            return self.answer(method)
        except Closed:
            return None
