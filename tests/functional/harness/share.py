"""How large a part of relayd's work is done in one turn of its loop: as long as that, everybody else waits.

Turns are measured in relayd, in CPU, so that a busy machine changes nothing: a client that looks at the clock, or at what
relayd has spent, may be late itself, and relayd goes on meanwhile.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.functional.harness.client import Client
from tests.functional.harness.message import request
from tests.functional.harness.relay import ROOT, Relay


def spent_ns(pid: int) -> int:
    """The CPU that a process has spent."""
    tasks = Path(f"/proc/{pid}/task")
    return sum(int((tasks / task / "schedstat").read_text().split()[0]) for task in os.listdir(tasks))


TRIES = 5


def least(measure: Callable[[], tuple[Any, float]], bound: float) -> tuple[Any, float]:
    """The least of some measurements, the first one below the bound at once. Other processes make a turn longer, none
    makes it shorter."""
    found = [measure()]
    while found[-1][1] >= bound and len(found) < TRIES:
        found.append(measure())
    return min(found, key=lambda one: one[1])


def watching(folder: Path) -> dict[str, str]:
    """The environment of a relayd in this folder that keeps the time of its longest turn in the file `turns`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(f"from tests.bench.turns import watch\nwatch({str(folder / 'turns')!r})\n")
    return {"PYTHONPATH": f"{folder}:{ROOT}"}


class Turns:
    """What a relayd with the environment `watching` does from now on."""

    def __init__(self, relay: Relay) -> None:
        self._relay, self._file = relay, relay.folder / "turns"
        with open(self._file, "r+b") as file:  # the file is mapped: it keeps its length
            file.write(bytes(8))
        self._begun_ns = spent_ns(relay.pid)

    def measured(self) -> tuple[float, float]:
        """The CPU seconds of the longest turn, and those of all the work."""
        with Client(self._relay.address) as client:  # the turns before this request's have been measured
            client.send(request(b"/nowhere"))
            client.answer()
        longest_s: float = struct.unpack("d", self._file.read_bytes())[0]
        return longest_s, (spent_ns(self._relay.pid) - self._begun_ns) / 1e9


def longest_share(relay: Relay, data: bytes, told: Callable[[Client], Any]) -> tuple[Any, float]:
    """What was answered, and the share of the work that was done in the longest turn."""
    with Client(relay.address) as client:
        client.wait_longer(300)
        turns = Turns(relay)
        client.send(data)
        answered = told(client)
        longest_s, whole_s = turns.measured()
        return answered, longest_s / whole_s
