"""A real HAProxy with the configuration that relayd ships (debian/examples/haproxy.cfg), before relays of a test."""

from __future__ import annotations

import contextlib
import csv
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.aids.ports import free_port
from tests.functional.harness.faults import until
from tests.functional.harness.relay import ROOT, Relay

SHIPPED = ROOT / "debian" / "examples" / "haproxy.cfg"


@dataclass(frozen=True)
class HaProxy:
    """One running HAProxy. `address` is where clients connect, `admin` the path of its runtime socket."""

    address: tuple[str, int]
    admin: str

    def command(self, text: str) -> str:
        """The response of the runtime API to a command."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(60)
            sock.connect(self.admin)
            sock.sendall(text.encode() + b"\n")
            said = b""
            while piece := sock.recv(65536):
                said += piece
        return said.decode()

    def state(self, server: str) -> str:
        """UP, DOWN, DRAIN ... as its statistics say it."""
        rows = csv.DictReader(self.command("show stat").removeprefix("# ").splitlines())
        return next(row["status"] for row in rows if row["svname"] == server)

    def is_up(self, server: str) -> bool:
        return self.state(server).startswith("UP")


def shipped(relays: Sequence[Relay], port: int, folder: Path) -> str:
    """The shipped configuration with the addresses, the check interval and the files of this test."""
    text = SHIPPED.read_text(encoding="utf-8")
    names = re.findall(r"(?m)^    server (\w+) ", text)
    assert len(names) == len(relays)
    for name, relay in zip(names, relays, strict=True):
        text = re.sub(rf"(?m)^    server {name} \S+", f"    server {name} 127.0.0.1:{relay.port}", text)
    text = re.sub(r"(?m)^    (log |user |group ).*\n", "", text)
    text = re.sub(r"bind :443 .*", f"bind 127.0.0.1:{port}", text)
    return text.replace("/run/haproxy/admin.sock", f"{folder}/haproxy.sock").replace("inter 1s", "inter 100ms").replace("check 5s", "check 60s")


@contextlib.contextmanager
def haproxy(relays: Sequence[Relay], folder: Path) -> Iterator[HaProxy]:
    """Run it until the end of the block, from the moment that all servers are up."""
    program = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        pytest.skip("haproxy is not installed")
    port, file = free_port(), folder / "haproxy.cfg"
    file.write_text(shipped(relays, port, folder))
    with open(folder / "haproxy.log", "wb") as log:
        process = subprocess.Popen([program, "-db", "-f", str(file)], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        running = HaProxy(("127.0.0.1", port), f"{folder}/haproxy.sock")

        def serves() -> bool:
            assert process.poll() is None, (folder / "haproxy.log").read_text()
            with contextlib.suppress(OSError):
                return running.is_up("one") and running.is_up("two")
            return False

        until(serves, what="HAProxy")
        yield running
    finally:
        process.terminate()
        process.wait(60)
