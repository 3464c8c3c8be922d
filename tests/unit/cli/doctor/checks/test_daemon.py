"""The running relayd: each state that an operator has to know of, from scripted pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from relayd import __version__
from relayd.cli.diagnosis import FAILURE, FINE, UNKNOWN, WARNING
from relayd.cli.doctor.checks import daemon
from relayd.cli.doctor.examination import Context
from tests.unit.cli.admin_case import Admin
from tests.unit.cli.doctor.cases import STATUS, context_of, findings, written

ENDPOINT = {
    "address": "a:1", "available": True, "state": "enabled", "health": "passing", "health_why": "", "breaker": "closed",
    "resting_for_s": 0, "last_fault": "",
}


@pytest.mark.parametrize(("change", "level", "cause"), [
    ({"phase": "draining"}, WARNING, "is draining"),
    ({"version": "0.0.1"}, WARNING, "version 0.0.1, installed is"),
    ({"refused": {"findings": ["a: bad", "b", "c"]}}, FAILURE, "generation 4 stays in force: a: bad; b"),
    ({"overload": {"active": True, "share": 0.25, "why": "loop lag"}}, FAILURE, "overloaded (loop lag): 25%"),
    ({"loop": {"lag_ms": 80, "worst_ms": 90}}, WARNING, "80 ms late"),
    ({"loop": {"lag_ms": 1, "worst_ms": 4000}}, WARNING, "once 4000 ms late"),
    ({"request_buffers": {"waiting": 3}}, WARNING, "3 request bodies wait"),
    ({"keys": {"issued": 1, "fault": "Permission denied"}}, FAILURE, "the key store cannot be read: Permission denied"),
    ({"store": {"kind": "sqlite", "degraded": True, "why": "disk full"}}, FAILURE, "the store sqlite is degraded: disk full"),
    ({"spend": {"file": "/s/l", "fault": "disk is full", "cure": "Free it."}}, FAILURE, "written to /s/l, and stays in memory: disk"),
])
def test_the_status(change: dict[str, Any], level: str, cause: str) -> None:
    (one,) = daemon.of_status({**STATUS, "version": __version__, **change})
    assert one.level == level and cause in one.cause and one.cure


@pytest.mark.parametrize(("change", "why"), [
    ({"state": "drained"}, "drained by an operator"), ({"health": "failing", "health_why": "status 500"}, "status 500"),
    ({"breaker": "open", "last_fault": "connect_failed"}, "the breaker is open, last fault connect_failed"),
    ({"resting_for_s": 3.0}, "cooling down for 3.0s"), ({}, "no reason known"),
])
def test_an_endpoint_that_is_not_used(change: dict[str, Any], why: str) -> None:
    away = {**ENDPOINT, "available": False, **change}
    (one,) = daemon.of_upstreams({"upstreams": [{"name": "up", "keys": [], "endpoints": [away, ENDPOINT]}]})
    assert one.level == WARNING and why in one.cause and "relayd probe up" in one.cure
    (one,) = daemon.of_upstreams({"upstreams": [{"name": "up", "keys": [], "endpoints": [away]}]})
    assert one.level == FAILURE


def test_a_key_that_is_set_aside_and_changes_that_are_not_in_force() -> None:
    keys = [{"source": "file /k", "state": "refused", "for_s": 60, "why": "401"}, {"state": "in_force"}]
    (one,) = daemon.of_upstreams({"upstreams": [{"name": "up", "keys": keys, "endpoints": [ENDPOINT]}]})
    assert "the key of file /k is refused for 1m00s: 401" in one.cause
    (one,) = daemon.of_diff({"changes": [f"~ {number}" for number in range(7)]})
    assert one.level == WARNING and "7 changes" in one.cause and one.cause.endswith("~ 4; ...")
    assert not list(daemon.of_diff({"changes": []})) and not list(daemon.of_diff({"findings": ["x"]}))


def asked(tmp_path: Path, *answers: tuple[int, object]) -> list[str]:
    with Admin(tmp_path, *answers) as admin:
        found = findings(daemon, context_of(written(tmp_path), socket=admin.path))
        return [one.level for one in found]


def test_the_pages_of_the_socket(tmp_path: Path) -> None:
    status = {**STATUS, "version": __version__}
    assert asked(tmp_path, (200, status), (200, {"upstreams": []}), (200, {"changes": []})) == [FINE]


def test_a_page_that_is_missing(tmp_path: Path) -> None:
    assert asked(tmp_path, (200, {**STATUS, "version": __version__}), (404, {})) == [UNKNOWN, UNKNOWN, FINE]


def test_no_relayd_and_one_that_is_stuck(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context: Context = context_of(written(tmp_path))
    (one,) = findings(daemon, context)
    assert one.level == UNKNOWN and "--socket" in one.cure
    import socket

    with socket.socket(socket.AF_UNIX) as stuck:
        stuck.bind(str(tmp_path / "admin.sock"))
        stuck.listen()
        monkeypatch.setattr("relayd.cli.doctor.examination.ADMIN_S", 0.1)
        (one,) = findings(daemon, context_of(written(tmp_path)))
        assert one.level == FAILURE and "does not respond" in one.cause
