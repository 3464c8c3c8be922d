"""Limits and reads how many bytes the kernel holds for a peer, which shows whether the peer still receives."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import termios

# Unsent bytes in the kernel, beyond the peer's window; a Unix socket's buffer is as small. With half of this limit a
# fast download over TLS took a fifth more CPU, because each wake-up moved fewer bytes.
UNSENT_BYTES = 256 * 1024


def bound_kernel_buffer(sock: socket.socket) -> None:
    """Limit the unsent bytes in the kernel for a peer. Sockets accepted by a listening socket inherit it."""
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)


def bound_new_connection(descriptor: int, purpose: int) -> int:
    """`bound_kernel_buffer` for a socket that libcurl is about to connect; its SOCKOPTFUNCTION."""
    sock = socket.socket(fileno=descriptor)
    try:
        bound_kernel_buffer(sock)
    finally:
        sock.detach()
    return 0


def unacknowledged(sock: socket.socket | int) -> int:
    """Bytes in the kernel that the peer has not acknowledged; of a Unix socket, that the peer has not read. 0 if the
    kernel does not report it."""
    try:  # TIOCOUTQ is Python's name for SIOCOUTQ
        return int(struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, struct.pack("i", 0)))[0])
    except OSError:
        return 0
