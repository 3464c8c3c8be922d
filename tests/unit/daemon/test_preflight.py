"""Checks of the machine before a start."""

from __future__ import annotations

from pathlib import Path

import pytest

from relayd import clock
from relayd.config.load import load_text
from relayd.daemon.preflight import DAY_S, Expiry, preflight, remaining, write_fault
from relayd.daemon.unit import Unit
from tests.unit.server.certificates import certificate

LEAST = "listeners: {a: {address: '127.0.0.1:1'}}\nroutes: [{name: r, respond: 200}]\n"
SANDBOX = Unit("relayd.service", {"ProtectSystem": ["strict"], "LogsDirectory": ["relayd"], "ProtectHome": ["yes"]})


@pytest.mark.parametrize(
    ("days", "expected"),
    [(31, ""), (29, "the certificate expires in 28 days"), (6, "EXPIRES SOON, in 5 days"), (0.5, "in 11 hours"), (-1, "HAS EXPIRED")],
)
def test_the_warning_grows(days: float, expected: str) -> None:
    warning = Expiry("listener", "a", "p", "/x.pem", clock.wall() + days * DAY_S - 60).warning()
    assert expected in warning if expected else not warning
    assert remaining(3 * DAY_S) == "in 3 days"


def test_a_plain_configuration_has_nothing_to_ask() -> None:
    assert preflight(load_text(LEAST, "c").config).findings == []


def test_an_expiry_is_a_warning_at_the_certificate_s_key(tmp_path: Path) -> None:
    one = certificate(tmp_path, "one.example")
    text = LEAST.replace("'}}", f"', tls: {{certificates: [{{cert: {one.cert}, key: {one.key}}}]}}}}}}")
    result = preflight(load_text(text, "c").config)
    assert result.faults == [] and result.findings[0].path == "listeners.a.tls.certificates[0]"
    assert [(one.kind, one.name) for one in result.expiries] == [("listener", "a")]


def test_a_log_that_is_off_is_not_checked() -> None:
    text = LEAST + "telemetry: {access_log: {format: off, file: /no/such/folder/log}}\n"
    assert preflight(load_text(text, "c").config).faults == []


def test_the_sandbox_decides_where_a_file_may_be_written() -> None:
    fault = write_fault("/opt/access.log", SANDBOX)
    assert fault is not None and "ProtectSystem=strict" in fault[0] and "/var/log/relayd" in fault[1]
    assert write_fault("/var/log/relayd/access.log", SANDBOX) is None, "systemd makes the folder before a start"
