"""Warnings of certificates that expire: their level and how often they are repeated."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from relayd import clock
from relayd.config.load import load_text
from relayd.daemon.certificate_watch import CertificateWatch
from relayd.daemon.preflight import DAY_S, Expiry
from relayd.plan.compile import compile_plan
from relayd.telemetry.metrics import Labels
from relayd.telemetry.names import BY_NAME
from relayd.telemetry.settings import TelemetrySettings
from relayd.telemetry.telemetry import Telemetry

PLAN = compile_plan(
    load_text("routes: [{name: all, respond: {body: x}}]\nlisteners: {a: {address: '127.0.0.1:1'}}", "x").config, 1
)


@pytest.mark.parametrize(("days", "levels"), [(40, []), (20, ["warning"]), (3, ["error", "error"])])
def test_the_last_week_is_an_error_every_time(tmp_path: Path, days: int, levels: list[str]) -> None:
    written = io.StringIO()
    telemetry = Telemetry.build(TelemetrySettings(access_format="off", log_format="json"), written)
    one = Expiry("listener", "public", "listeners.public.tls", "/etc/a.pem", clock.wall() + days * DAY_S)
    watch = CertificateWatch(lambda: (one,), telemetry)
    watch.commit(PLAN)
    watch.commit(PLAN)
    assert [json.loads(line)["level"] for line in written.getvalue().splitlines()] == levels
    watch.gauges()
    left = telemetry.metrics.value("relayd.listener.certificate_left", listener="public", file="/etc/a.pem")
    assert left is not None and (days - 1) * DAY_S < left <= days * DAY_S
    watch.close()
    telemetry.close()


def test_a_renewed_certificate_that_has_expired_is_reported_at_once(tmp_path: Path) -> None:
    """The warning about the previous file of that name must not suppress it."""
    written = io.StringIO()
    telemetry = Telemetry.build(TelemetrySettings(access_format="off", log_format="json"), written)
    found = [Expiry("listener", "public", "listeners.public.tls", "/etc/a.pem", clock.wall() + days * DAY_S) for days in (20, -1, 5)]
    current: list[Expiry] = []
    watch = CertificateWatch(lambda: tuple(current), telemetry)
    for one in found:
        current[:] = [one]
        watch.commit(PLAN)
    assert [json.loads(line)["level"] for line in written.getvalue().splitlines()] == ["warning", "error", "error"]
    telemetry.close()


def test_the_gauge_of_a_removed_certificate_is_removed() -> None:
    telemetry = Telemetry.build(TelemetrySettings(access_format="off", log_format="json"), io.StringIO())
    current = [Expiry("upstream", name, f"upstreams.{name}.tls", f"/etc/{name}.pem", clock.wall() - DAY_S) for name in "ab"]
    watch = CertificateWatch(lambda: tuple(current), telemetry)
    watch.gauges()
    del current[0]
    watch.gauges()
    series = telemetry.metrics.gauges(BY_NAME["relayd.upstream.certificate_left"])
    assert [labels for labels, _ in series] == [("b", "/etc/b.pem")]
    telemetry.close()


def test_the_gauge_includes_certificates_that_relayd_had_issued() -> None:
    telemetry = Telemetry.build(TelemetrySettings(access_format="off", log_format="json"), io.StringIO())
    issued: dict[Labels, float] = {("web", "/issued.pem"): 100}
    watch = CertificateWatch(lambda: (), telemetry, lambda: dict(issued))
    watch.gauges()
    assert telemetry.metrics.value("relayd.listener.certificate_left", listener="web") == 100
    issued.clear()
    watch.gauges()
    assert list(telemetry.metrics.gauges(BY_NAME["relayd.listener.certificate_left"])) == []
    telemetry.close()


def test_an_authority_that_expires_is_told_as_one() -> None:
    written = io.StringIO()
    telemetry = Telemetry.build(TelemetrySettings(access_format="off", log_format="json"), written)
    path = "upstreams.a.tls.ca"
    watch = CertificateWatch(lambda: (Expiry("authority", path, path, "/etc/ca.pem", clock.wall() + 3 * DAY_S),), telemetry)
    watch.commit(PLAN)
    assert "AN AUTHORITY EXPIRES SOON, in 2 days" in written.getvalue()
    watch.gauges()
    left = telemetry.metrics.value("relayd.daemon.certificate_left", setting=path, file="/etc/ca.pem")
    assert 2 * DAY_S < left <= 3 * DAY_S
    telemetry.close()
