"""`relayd upstreams`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from relayd.cli.commands.upstreams import lines, note
from relayd.cli.main import main
from relayd.config.load import load_text
from relayd.plan.compile import compile_plan
from tests.unit.cli.admin_case import Admin

ENDPOINT: dict[str, Any] = {
    "address": "a:1", "state": "enabled", "breaker": "closed", "forced": False, "health": "unknown", "health_why": "",
    "available": True, "in_flight": 2, "limit": 8, "weight": 1, "effective_weight": 1.0, "priority": 0, "picked": 99,
    "failures": 0, "consecutive_failures": 0, "opened": 0, "retry_in_s": None, "resting_for_s": 0.0, "last_fault": "",
}


def page(open_to_all: bool = True, keys: tuple[dict[str, Any], ...] = (), **change: Any) -> dict[str, Any]:
    return {"upstreams": [{"name": "up", "available": open_to_all, "keys": keys, "endpoints": [{**ENDPOINT, **change}]}]}


def test_every_endpoint_has_a_line() -> None:
    head, line = lines(page())
    assert head.split()[:4] == ["UPSTREAM", "ENDPOINT", "AVAILABLE", "STATE"]
    assert line.split() == ["up", "a:1", "yes", "enabled", "closed", "unknown", "2", "of", "8", "1", "0", "99", "0"]


@pytest.mark.parametrize(("change", "text"), [
    ({"state": "draining", "in_flight": 0}, "no request is running"),
    ({"breaker": "open", "available": False, "retry_in_s": 12.0, "last_fault": "connect_failed"}, "probe in 12.0s, last fault: connect_failed"),
    ({"breaker": "open", "forced": True}, "opened by hand"), ({"resting_for_s": 90.0}, "cooling down for 1m30s"),
    ({"health": "failing", "health_why": "status 500"}, "status 500"), ({"last_fault": "old story"}, ""),
])
def test_the_note_gives_the_reasons_of_the_state(change: dict[str, Any], text: str) -> None:
    assert note({**ENDPOINT, **change}) == text


def test_a_slow_start_shows_both_weights() -> None:
    assert "0.5 of 4" in "\n".join(lines(page(weight=4, effective_weight=0.5)))


def test_unavailable_upstreams_and_keys_are_listed_below() -> None:
    key = {"source": "file /k", "state": "aside", "for_s": 60.0, "used": 3, "refused": 1, "why": "401 from a:1"}
    shown = list(lines(page(False, (key,), available=False)))
    assert shown[2:] == ["up: no endpoint is available", "up: key of file /k aside for 1m00s: 401 from a:1"]


def test_without_upstreams_a_line_is_shown() -> None:
    assert list(lines({"upstreams": []})) == ["there are no upstreams"]


def test_the_description_of_an_upstream_can_be_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The keys of Upstream.describe match those read by the command."""
    text = """
        listeners: {public: {address: "127.0.0.1:8282"}}
        upstreams: {up: {endpoints: ["http://127.0.0.1:9001", "http://127.0.0.1:9002"], limits: 4}}
        routes: [{name: all, upstream: up}]
    """
    upstream = compile_plan(load_text(text, "c.yaml").config, 1).upstreams["up"]
    upstream.set_state(upstream.endpoints[0].label, "draining")
    with Admin(tmp_path, (200, {"upstreams": [upstream.describe()]})) as admin:
        assert main(["upstreams", *admin.options]) == 0
    assert admin.asked == ["GET /upstreams"]
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 3
    assert "draining" in shown[1]
