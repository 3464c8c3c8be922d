"""A bystander: a process of its own that asks relayd one request after the other, and reports how long it waited.

A thread of the test process would wait for the test's own threads too. Run as a program: `bystander.py HOST PORT TARGET`.
For every line that it reads it writes one JSON line about its waits since the line before; it ends with its input.
"""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from types import TracebackType


@dataclass(frozen=True)
class Waits:
    """What the bystander saw: how many answers it got, its longest waits in seconds, longest first, and when (on the
    monotonic clock, which all processes share) the longest one began."""

    answers: int
    longest: list[float]
    worst_began_s: float = 0.0

    @property
    def worst(self) -> float:
        return self.longest[0]


class Bystander:
    """Use as a context manager: it asks from the entry on."""

    def __init__(self, address: tuple[str, int], target: str) -> None:
        self._arguments = [sys.executable, __file__, address[0], str(address[1]), target]

    def __enter__(self) -> Bystander:
        self._process = subprocess.Popen(self._arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        while not self.waits().answers:
            pass
        return self

    def waits(self) -> Waits:
        """What it saw since it was asked last."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        found = json.loads(self._process.stdout.readline())
        return Waits(found["answers"], found["longest"], found["worst_began"])

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        self._process.communicate()
        assert self._process.returncode == 0


def main(host: str, port: int, target: str) -> None:
    sock = socket.create_connection((host, port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    request = f"GET {target} HTTP/1.1\r\nHost: bystander.test\r\n\r\n".encode()
    waits: list[tuple[float, float]] = []
    while True:
        if select.select([sys.stdin], [], [], 0)[0]:
            if not sys.stdin.readline():
                return
            longest = sorted(waits, reverse=True)[:100]
            told = {"answers": len(waits), "longest": [wait for wait, _ in longest], "worst_began": longest[0][1] if longest else 0}
            print(json.dumps(told), flush=True)
            waits.clear()
        began = time.monotonic()
        sock.sendall(request)
        answer = sock.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        waits.append((time.monotonic() - began, began))
        time.sleep(0.0005)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
