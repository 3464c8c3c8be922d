"""`relayd status` as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from relayd.cli.commands.status import lines, row, state
from relayd.cli.main import main

EXCHANGE = {
    "id": "abc", "age_s": 75.2, "room": "transfer", "method": "POST", "path": "/v1/chat", "route": "llm", "upstream": "up",
    "endpoint": "a:1", "generation": 1, "buffered_bytes": 512,
}
ENDPOINT = {
    "endpoint": "a:1", "in_flight": 1, "state": "enabled", "breaker": "closed", "health": "unknown", "available": True,
}
CALM = {"active": False, "share": 0.0, "pressure": 0.1, "why": "", "below_priority": None, "refused": 0}


def status(**change: Any) -> dict[str, Any]:
    return {
        "version": "1.2.3", "pid": 7, "phase": "serving", "generation": 4, "uptime_s": 3700.0,
        "config": {"file": "/etc/relayd.yaml", "loaded_at": 0, "warnings": []}, "refused": None,
        "loop": {"lag_ms": 0.5, "worst_ms": 3},
        "listeners": [{"name": "public", "address": "127.0.0.1:1", "tls": True}], "routes": 1,
        "upstreams": [{"name": "up", "protocol": "plain", "in_flight": 1, "endpoints": [ENDPOINT]}],
        "gates": [], "overload": CALM,
        "in_flight": 1, "exchanges": [EXCHANGE], **change,
    }


def test_everything_that_matters_is_shown() -> None:
    shown = "\n".join(lines(status()))
    for word in ("relayd 1.2.3 serving", "pid 7", "up 1h01m", "generation 4", "127.0.0.1:1 TLS", "a:1", "POST /v1/chat", "1m15s", "512"):
        assert word in shown


def test_bodies_in_memory_are_shown_while_there_are_some() -> None:
    held = {"limit_bytes": 1 << 28, "used_bytes": 1 << 20, "peak_bytes": 0, "bodies": 2, "waiting": 1}
    assert "request buffers 1.0M of 256M, waiting for memory: 1" in "\n".join(lines(status(request_buffers=held)))
    assert "request buffers" not in "\n".join(lines(status(request_buffers={**held, "bodies": 0})))


def test_a_refused_reload_is_shown_with_its_findings() -> None:
    shown = list(lines(status(refused={"at": 0, "findings": ["x.yaml:1:1: error: no"]})))
    at = shown.index("the last reload was refused:")
    assert shown[at + 1] == "  x.yaml:1:1: error: no"


def test_many_exchanges_are_cut_and_counted() -> None:
    shown = list(lines(status(in_flight=2000, exchanges=[EXCHANGE] * 1000)))
    assert "2000 exchanges in flight" in shown
    assert sum("POST /v1/chat" in line for line in shown) == 50
    assert shown[-1].startswith("...")


def test_an_idle_relayd_shows_no_empty_tables() -> None:
    shown = list(lines(status(in_flight=0, exchanges=[], upstreams=[])))
    assert shown[-1] == "0 exchanges in flight"
    assert not any("UPSTREAM" in line for line in shown)


def test_bytes_of_a_client_cannot_move_the_cursor() -> None:
    assert row({**EXCHANGE, "path": "/\x1b[2J\x9b\n", "id": "a\rb"})[0] == "a?b"
    assert row({**EXCHANGE, "path": "/\x1b[2J\x9b\n"})[-1] == "POST /?[2J??"


@pytest.mark.parametrize(("change", "word"), [
    ({}, "available"), ({"available": False, "state": "draining"}, "draining"),
    ({"available": False, "health": "failing"}, "failing"), ({"available": False, "breaker": "open"}, "breaker open"),
    ({"available": False}, "cooling down"),
])
def test_an_unavailable_endpoint_shows_the_reason(change: dict[str, Any], word: str) -> None:
    assert state({**ENDPOINT, **change}) == word


def test_overload_is_shown_while_it_lasts() -> None:
    assert "overloaded" not in "\n".join(lines(status()))
    shown = list(lines(status(overload={**CALM, "active": True, "share": 0.15, "why": "memory"})))
    assert "overloaded (memory): 15% of the requests are rejected" in shown


def test_limits_are_shown_where_there_are_some() -> None:
    gate = {"name": "upstream up", "requests": 8, "in_flight": 8, "queue": 64, "depth": 3, "oldest_wait_s": 1.5}
    shown = "\n".join(lines(status(gates=[gate, {**gate, "requests": 0, "depth": 0}])))
    assert "upstream up  8 of 8     3 of 64, the oldest for 1.5s" in shown
    assert "8 of any   none" in shown


def test_a_missing_daemon_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--socket", str(tmp_path / "none.sock")]) == 1
    assert "none.sock" in capsys.readouterr().err
