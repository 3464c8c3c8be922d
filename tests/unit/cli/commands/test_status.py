"""`relayd status` as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from relayd import clock
from relayd.cli.commands.status import lines, row, state
from relayd.cli.main import main
from tests.unit.cli.admin_case import Admin

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


def test_warnings_of_the_configuration_are_shown() -> None:
    config = {"file": "/etc/relayd.yaml", "loaded_at": 0, "warnings": ["x.yaml:3:1: warning: old name"]}
    assert "  x.yaml:3:1: warning: old name" in list(lines(status(config=config)))


def test_issued_keys_are_counted_and_a_broken_key_store_is_shown() -> None:
    shown = list(lines(status(keys={"issued": 3, "fault": ""})))
    assert "3 keys of relayd keys" in shown and not any("cannot be read" in line for line in shown)
    shown = list(lines(status(keys={"issued": 0, "fault": "keys.json: Permission denied"})))
    assert "the key store cannot be read: keys.json: Permission denied" in shown
    assert not any("keys of relayd keys" in line for line in shown)


def test_spend_that_cannot_be_written_is_shown() -> None:
    spend = {"file": "/s/ledger.sqlite", "fault": "database or disk is full", "cure": "Free space."}
    assert "spend cannot be written to /s/ledger.sqlite: database or disk is full" in list(lines(status(spend=spend)))
    assert not any("spend" in line for line in lines(status(spend={**spend, "fault": ""})))


SHARED = {
    "kind": "redis", "server": "127.0.0.1:6379", "degraded": False, "on_failure": "open", "waiting": 2, "since": 0.0, "why": "",
}


def test_a_store_on_a_server_is_shown_with_the_changes_that_wait() -> None:
    assert "store redis 127.0.0.1:6379, changes that wait: 2" in list(lines(status(store=SHARED)))
    local = {"kind": "memory", "degraded": False, "waiting": 0}
    assert not any("store" in line for line in lines(status(store=local)))


def test_a_degraded_store_is_shown_with_its_cause_and_since_when() -> None:
    change = {"degraded": True, "why": "Connection\x1b[2J refused", "since": clock.wall() - 180.5}
    shown = list(lines(status(store={**SHARED, **change})))
    at = shown.index("the store redis is degraded: Connection?[2J refused")
    assert shown[at + 1].startswith("  127.0.0.1:6379, for 3m0") and shown[at + 1].endswith("s, on_failure: open, waiting: 2")
    assert not any("changes that wait" in line for line in shown)
    later = list(lines(status(store={**SHARED, **change, "since": clock.wall() + 60})))  # the daemon's clock is ahead
    assert "  127.0.0.1:6379, for 0.0s, on_failure: open, waiting: 2" in later
    shown = list(lines(status(store={"kind": "sqlite", "degraded": True, "why": "disk full"})))
    assert "the store sqlite is degraded: disk full" in shown and not any("on_failure" in line for line in shown)


def test_certificates_are_shown_with_their_time_left_or_their_warning() -> None:
    one = {"of": "listener", "name": "public", "left_s": 86400 * 30, "file": "/etc/a.pem", "warning": ""}
    shown = list(lines(status(certificates=[one, {**one, "left_s": -5}, {**one, "warning": "certificate of public ends soon"}])))
    for line in (
        "certificate of listener public: 30d0h left, /etc/a.pem", "certificate of listener public: 0.0s left, /etc/a.pem",
        "certificate of public ends soon",
    ):
        assert line in shown
    assert sum("/etc/a.pem" in line for line in shown) == 2


def test_an_upstream_without_endpoints_is_shown_as_empty_with_its_discovery() -> None:
    found = {"source": "dns a.example", "age_s": None, "changed_age_s": None, "note": "", "fault": "no such host"}
    empty = {"name": "far", "protocol": "plain", "in_flight": 4, "endpoints": [], "discovery": found}
    shown = list(lines(status(upstreams=[empty])))
    (at,) = [index for index, line in enumerate(shown) if line.startswith("UPSTREAM")]
    assert shown[at + 1].split() == ["far", "plain", "none", "4", "empty"]
    assert "far: dns a.example, not found yet; no such host" in shown


def test_rates_are_shown_with_what_is_used_of_them() -> None:
    rate = {
        "scope": "consumer team", "measure": "requests", "per": "1m", "value": "", "model": "gpt-*", "shadow": False,
        "limit": 60, "used": 45, "reserved": 2, "left": 15, "share": 0.75, "free_in_s": 12.0, "waiting": 0, "source": "x.yaml:1",
    }
    shown = list(lines(status(limits=[rate, {**rate, "scope": "group all", "free_in_s": None}])))
    (at,) = [index for index, line in enumerate(shown) if line.startswith("RATE, BUDGET")]
    assert [line.split() for line in shown[at + 1 : at + 3]] == [
        ["consumer", "team", "requests", "per", "1m", "model", "gpt-*", "45", "of", "60", "12.0s"],
        ["group", "all", "requests", "per", "1m", "model", "gpt-*", "45", "of", "60", "-"],
    ]
    assert not any("RATE, BUDGET" in line for line in lines(status(limits=[])))


def test_the_running_relayd_is_asked_for_its_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Admin(tmp_path, (200, status())) as admin:
        assert main(["status", *admin.options]) == 0
    assert admin.asked == ["GET /status"]
    assert capsys.readouterr().out.splitlines() == list(lines(status()))


def test_a_missing_daemon_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--socket", str(tmp_path / "none.sock")]) == 1
    assert "none.sock" in capsys.readouterr().err
