"""A restart on a file with faults: the service goes on with the configuration that was accepted last, and says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.functional.harness.client import Client
from tests.functional.harness.relay import ROOT, Relay

CONFIG = {"routes": [{"name": "all", "match": {"prefix": "/"}, "respond": {"body": "accepted"}}]}


def body(relay: Relay) -> bytes:
    with Client(relay.address) as client:
        return client.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").body


def status(relay: Relay) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", "relayd", "status", "--json", "--socket", relay.admin_path], cwd=ROOT, capture_output=True
    )
    told: dict[str, object] = json.loads(done.stdout)
    return told


@pytest.mark.parametrize("broken", ["nonsense: [", "tls", "routes: []\n"])
def test_a_restart_on_a_broken_file_serves_what_was_accepted_last(folder: Path, broken: str) -> None:
    (folder / "state").mkdir()
    relay = Relay(
        folder, "http://127.0.0.1:1", CONFIG, verb="keep", environment={"STATE_DIRECTORY": str(folder / "state")}
    )
    relay.start()
    good = relay.file.read_text()
    assert body(relay) == b"accepted" and relay.stop() == 0
    if broken == "tls":  # a fault that only the machine knows
        (folder / "empty.pem").write_bytes(b"")
        broken = json.dumps(json.loads(good) | {
            "upstreams": {"up": {"endpoints": ["https://127.0.0.1:1"], "tls": {"ca": str(folder / "empty.pem")}}}})
    relay.write = lambda change=None: None  # type: ignore[method-assign]
    relay.file.write_text(broken)
    relay.start()
    assert body(relay) == b"accepted"
    assert status(relay)["refused"] is not None
    told = relay.output().decode()
    assert "start_refused" in told and "config_refused" in told
    relay.file.write_text(good.replace('"accepted"', '"mended"'))
    done = subprocess.run(
        [sys.executable, "-m", "relayd", "reload", "--socket", relay.admin_path], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert body(relay) == b"mended" and status(relay)["refused"] is None
    assert relay.stop() == 0


def test_without_an_accepted_configuration_the_start_is_refused(folder: Path) -> None:
    (folder / "state").mkdir()
    relay = Relay(folder, "http://127.0.0.1:1", verb="keep", environment={"STATE_DIRECTORY": str(folder / "state")})
    relay.write = lambda change=None: None  # type: ignore[method-assign]
    relay.file.write_text("nonsense: [")
    with pytest.raises(AssertionError, match="ended with 78"):
        relay.start()
