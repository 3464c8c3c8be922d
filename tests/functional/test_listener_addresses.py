"""A listener's address changes to one that overlaps with what relayd listens on already: a reload is enough."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.aids.ports import free_port
from tests.functional.harness.faults import until
from tests.functional.harness.relay import ROOT, Relay, get

OWN = {"routes": [{"name": "all", "respond": {"body": "here"}}]}
FOUR, SIX = "127.0.0.1", "::1"

# The hosts of the listeners before and after on one port, and the loopback addresses that are answered then.
CHANGES = {
    "to all of IPv4": (["127.0.0.1"], ["0.0.0.0"], {FOUR}),
    "to all": (["127.0.0.1"], ["[::]"], {FOUR, SIX}),
    "from all of IPv4 to all": (["0.0.0.0"], ["[::]"], {FOUR, SIX}),
    "from all to all of IPv4": (["[::]"], ["0.0.0.0"], {FOUR}),
    "IPv4 on its own": (["[::]"], ["[::]", "0.0.0.0"], {FOUR, SIX}),
    "IPv4 no longer on its own": (["[::]", "0.0.0.0"], ["[::]"], {FOUR, SIX}),
    "back to loopback": (["0.0.0.0"], ["127.0.0.1"], {FOUR}),
}


def configure(relay: Relay, hosts: list[str], port: int) -> None:
    """`public` stays as it is: by its own port the harness sees that relayd is ready."""
    relay.write({"listeners": None})
    addresses = {"public": f"{FOUR}:{relay.port}"} | {f"n{n}": f"{host}:{port}" for n, host in enumerate(hosts)}
    relay.write({"listeners": {name: {"address": address} for name, address in addresses.items()}})


def sockets(port: int) -> int:
    """How many sockets listen on a port."""
    told = subprocess.run(["ss", "-Hltn", f"sport = :{port}"], capture_output=True, text=True, check=True)
    return len(told.stdout.splitlines())


@pytest.fixture
def kept(folder: Path) -> Iterator[Relay]:
    (folder / "state").mkdir()
    environment = {"STATE_DIRECTORY": str(folder / "state")}
    with Relay(folder, "http://127.0.0.1:1", OWN, verb="keep", environment=environment) as relay:
        yield relay


def reload(relay: Relay) -> None:
    words = [sys.executable, "-m", "relayd", "reload", "--socket", relay.admin_path]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def upgrade(relay: Relay) -> None:
    old = relay.status()["pid"]
    os.kill(relay.pid, signal.SIGUSR2)
    relay.wait_replaced(old)


def answered(port: int) -> set[str]:
    """The loopback addresses at which every one of some requests is answered: none is left in a queue of nobody's."""
    return {host for host in (FOUR, SIX) if all(get((host, port)) == 200 for _ in range(8))}


@pytest.mark.parametrize("way", ["reload", "upgrade"])
@pytest.mark.parametrize("change", CHANGES)
def test_an_address_that_overlaps_with_the_one_it_replaces(kept: Relay, change: str, way: str) -> None:
    before, after, there = CHANGES[change]
    port = free_port()
    configure(kept, before, port)
    reload(kept)
    assert get((SIX if before[0] == "[::]" else FOUR, port)) == 200
    configure(kept, after, port)
    if way == "reload":
        reload(kept)
    else:
        upgrade(kept)
    until(lambda: sockets(port) == len(after))
    assert answered(port) == there
    if way == "reload":
        upgrade(kept)  # what the keeper holds is what the configuration says
        assert answered(port) == there
    else:
        configure(kept, before, port)
        reload(kept)
        until(lambda: sockets(port) == len(before))
        assert answered(port) == ({SIX, FOUR} if "[::]" in before else {FOUR})


def test_a_refused_reload_leaves_the_sockets_as_they_were(kept: Relay) -> None:
    port = free_port()
    configure(kept, [FOUR], port)
    reload(kept)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        good = kept.file.read_text()
        kept.write({"listeners": {"n0": {"address": f"0.0.0.0:{port}"},
                                  "taken": {"address": f"127.0.0.1:{taken.getsockname()[1]}"}}})
        with pytest.raises(AssertionError, match="in use"):
            reload(kept)
        kept.file.write_text(good)
    assert sockets(port) == 1 and answered(port) == {FOUR}
    with contextlib.closing(socket.socket()) as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))


def test_an_address_that_another_process_has_is_still_refused(kept: Relay) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        configure(kept, ["0.0.0.0"], port)
        with pytest.raises(AssertionError, match="in use"):
            reload(kept)
