"""Ports for servers that bind them a moment later: nobody else is given them meanwhile.

A port that the kernel chose and that was closed again may be the next one that it gives to somebody else: to another
worker of the same tests, to a second run of them, or to an outgoing connection. Here ports come from below the range
that the kernel chooses from, in blocks; a process that draws from a block holds its lock, an abstract Unix socket,
which ends with the process.
"""

from __future__ import annotations

import contextlib
import os
import socket

FIRST, BLOCK, BLOCKS = 10_000, 100, 220
_blocks: dict[int, int] = {}  # by process, for a fork has its own: the first port of its block
_drawn = 0


def free_port(host: str = "127.0.0.1") -> int:
    """A port of this process's block that can be bound now; the same one again after a round of all."""
    global _drawn
    first = _block()
    for _ in range(BLOCK):
        port = first + _drawn % BLOCK
        _drawn += 1
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what only waits to be forgotten is free
            probe.bind((host, port))
            return port
    raise RuntimeError(f"every port from {first} to {first + BLOCK - 1} is in use")


def _block() -> int:
    if os.getpid() in _blocks:
        return _blocks[os.getpid()]
    for number in range(BLOCKS):
        place = (os.getpid() + number) % BLOCKS
        lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            lock.bind(f"\0relayd-tests-ports-{place}")
        except OSError:
            lock.close()
            continue
        lock.detach()  # held until the process ends
        return _blocks.setdefault(os.getpid(), FIRST + place * BLOCK)
    raise RuntimeError("every block of ports is taken by another process")
