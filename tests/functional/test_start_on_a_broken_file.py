"""A restart on a file with faults: the service goes on with the configuration that was accepted last, and says so."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.functional.harness.client import Client
from tests.functional.harness.relay import ROOT, Relay, merged

CONFIG = {"routes": [{"name": "all", "match": {"prefix": "/"}, "respond": {"body": "accepted"}}]}


def body(relay: Relay) -> bytes:
    with Client(relay.address) as client:
        return client.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").body


def status(relay: Relay) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "relayd", "status", "--json", "--socket", relay.admin_path], cwd=ROOT, capture_output=True
    )
    told: dict[str, Any] = json.loads(done.stdout)
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


@pytest.mark.parametrize("fault", ["in use", "no such folder", "admin", "unknown owner"])
def test_a_restart_serves_what_was_accepted_last_where_only_binding_finds_the_fault(folder: Path, fault: str) -> None:
    (folder / "state").mkdir()
    relay = Relay(
        folder, "http://127.0.0.1:1", CONFIG, verb="keep", environment={"STATE_DIRECTORY": str(folder / "state")}
    )
    relay.start()
    good: dict[str, Any] = json.loads(relay.file.read_text())
    assert relay.stop() == 0
    with socket.create_server(("127.0.0.1", 0)) as taken:
        faults: dict[str, dict[str, Any]] = {
            "in use": {"listeners": {"other": {"address": f"127.0.0.1:{taken.getsockname()[1]}"}}},
            "no such folder": {"listeners": {"other": {"address": f"unix:{folder}/none/a.sock"}}},
            "admin": {"admin": {"address": f"unix:{relay.file}/admin.sock"}},
            "unknown owner": {"listeners": {"other": {"address": f"unix:{folder}/a.sock", "owner": "no-such-user"}}},
        }
        relay.write = lambda change=None: None  # type: ignore[method-assign]
        relay.file.write_text(json.dumps(merged(good, faults[fault])))
        relay.start()
        assert body(relay) == b"accepted"
        (why,) = status(relay)["refused"]["findings"]
        assert ("admin.address" if fault == "admin" else "listeners.other.address") in why
        assert "start_refused" in relay.output().decode()
    relay.file.write_text(json.dumps(merged(good, {"routes": [{"name": "all", "respond": {"body": "mended"}}]})))
    done = subprocess.run([sys.executable, "-m", "relayd", "reload", "--socket", relay.admin_path], cwd=ROOT)
    assert done.returncode == 0
    assert body(relay) == b"mended" and status(relay)["refused"] is None
    assert relay.stop() == 0


def test_where_the_accepted_configuration_cannot_be_bound_either_the_start_fails_with_the_reasons_of_the_file(
    folder: Path
) -> None:
    (folder / "state").mkdir()
    relay = Relay(
        folder, "http://127.0.0.1:1", CONFIG, verb="keep", environment={"STATE_DIRECTORY": str(folder / "state")}
    )
    relay.start()
    assert relay.stop() == 0
    with socket.create_server(("127.0.0.1", relay.port)), pytest.raises(AssertionError, match="ended with 1"):
        relay.config = merged(relay.config, {"listeners": {"other": {"address": f"unix:{folder}/none/a.sock"}}})
        relay.start()
    assert "held by" in relay.output().decode()


def test_without_an_accepted_configuration_the_start_is_refused(folder: Path) -> None:
    (folder / "state").mkdir()
    relay = Relay(folder, "http://127.0.0.1:1", verb="keep", environment={"STATE_DIRECTORY": str(folder / "state")})
    relay.write = lambda change=None: None  # type: ignore[method-assign]
    relay.file.write_text("nonsense: [")
    with pytest.raises(AssertionError, match="ended with 78"):
        relay.start()
