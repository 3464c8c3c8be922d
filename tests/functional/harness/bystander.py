"""A bystander: a process of its own that asks relayd one request after the other, and reports how long it waited.

A thread of the test process would wait for the test's own threads too. Run as a program: `bystander.py HOST PORT TARGET`.
It writes one line when its first answer has come, and one JSON line with all waits when its input ends.
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
    """What the bystander saw: how many answers it got, and its longest waits in seconds, longest first."""

    answers: int
    longest: list[float]

    @property
    def worst(self) -> float:
        return self.longest[0]


class Bystander:
    """Use as a context manager: it asks from the entry on; `leave` ends it."""

    def __init__(self, address: tuple[str, int], target: str) -> None:
        self._arguments = [sys.executable, __file__, address[0], str(address[1]), target]

    def __enter__(self) -> Bystander:
        self._process = subprocess.Popen(self._arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"asking\n"
        return self

    def leave(self) -> Waits:
        out, _ = self._process.communicate()
        assert self._process.returncode == 0
        found = json.loads(out)
        return Waits(found["answers"], found["longest"])

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        if self._process.poll() is None:
            self._process.communicate()


def main(host: str, port: int, target: str) -> None:
    sock = socket.create_connection((host, port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    request = f"GET {target} HTTP/1.1\r\nHost: bystander.test\r\n\r\n".encode()
    waits: list[float] = []
    answers = 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        began = time.perf_counter()
        sock.sendall(request)
        answer = sock.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        waits.append(time.perf_counter() - began)
        answers += 1
        if answers == 1:
            print("asking", flush=True)
        if len(waits) > 10_000:
            waits = sorted(waits, reverse=True)[:100]
        time.sleep(0.0005)
    print(json.dumps({"answers": answers, "longest": sorted(waits, reverse=True)[:100]}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
