"""`relayd capture` beside a running relayd: what it keeps, shows and exports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from types import TracebackType
from typing import Any

from tests.functional.harness.faults import until
from tests.functional.harness.relay import ROOT, Relay

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def cli(relay: Relay, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One command, until its end."""
    command = [sys.executable, "-m", "relayd", *arguments, "-c", str(relay.file)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=120)


def shown(relay: Relay, identity: str) -> dict[str, Any]:
    """A captured exchange as JSON."""
    result = cli(relay, "capture", "show", identity, "--json")
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


class Capture:
    """A `relayd capture` that is on. A context manager; its end is that of Ctrl-C, if it has not ended."""

    def __init__(self, relay: Relay, *arguments: str) -> None:
        self.relay = relay
        command = [sys.executable, "-m", "relayd", "capture", "--json", *arguments, "-c", str(relay.file)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
        assert self.process.stderr is not None
        first = self.process.stderr.readline()
        assert "capturing for" in first, first + self.process.stderr.read()

    def next(self) -> dict[str, Any]:
        """The next event."""
        assert self.process.stdout is not None
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def one(self) -> dict[str, Any]:
        """The next captured exchange, with everything."""
        return shown(self.relay, self.next()["id"])

    def ended(self) -> tuple[int, list[dict[str, Any]], str]:
        """Wait for the end: exit code, the other events, what it said."""
        told, errors = self.process.communicate(timeout=120)
        return self.process.returncode, [json.loads(line) for line in told.splitlines()], errors

    def interrupt(self) -> tuple[int, list[dict[str, Any]], str]:
        self.process.send_signal(signal.SIGINT)
        return self.ended()

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.communicate(timeout=60)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        until(lambda: not state(self.relay)["is_on"], what="the end of the capture")


def state(relay: Relay) -> dict[str, Any]:
    found: dict[str, Any] = relay.status()["capture"]
    return found


def text_of(message: dict[str, Any]) -> str:
    return str(message["body"].get("text", ""))
