"""A log that was rotated is opened again: by SIGUSR1, by SIGHUP and by `relayd reopen`; nothing else changes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.functional.harness.client import Client
from tests.functional.harness.faults import until
from tests.functional.harness.relay import ROOT, Relay

CONFIG = {"routes": [{"name": "all", "match": {"prefix": "/"}, "respond": {"body": "x"}}]}


def reopen(relay: Relay) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "relayd", "reopen", "--socket", relay.admin_path], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "ask", [lambda relay: os.kill(relay.pid, signal.SIGUSR1), reopen], ids=["SIGUSR1", "relayd reopen"]
)
def test_a_rotated_log_is_opened_again(folder: Path, ask: Callable[[Relay], None]) -> None:
    with Relay(folder, "http://127.0.0.1:1", CONFIG) as relay:
        get(relay, "/one")
        until(lambda: b"/one" in relay.access_file.read_bytes())
        old = folder / "access.log.1"
        relay.access_file.rename(old)
        relay.file.write_text("nonsense: [")  # a reload would complain
        ask(relay)
        until(relay.access_file.exists)
        get(relay, "/two")
        until(lambda: b"/two" in relay.access_file.read_bytes())
        assert b"/two" not in old.read_bytes()
        assert b"reload_refused" not in relay.output()


def test_sigusr2_without_a_keeper_ends_nothing(folder: Path) -> None:
    with Relay(folder, "http://127.0.0.1:1", CONFIG) as relay:
        os.kill(relay.pid, signal.SIGUSR2)
        until(lambda: b"upgrade_not_possible" in relay.output())
        get(relay, "/still")


def get(relay: Relay, path: str) -> None:
    with Client(relay.address) as client:
        assert client.ask(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path.encode()).status == 200
