"""Reports of rates and budgets."""

from __future__ import annotations

import io
from typing import Any

from relayd.daemon.rates import RateReports
from relayd.limits.counter import COST, REQUESTS, Rule
from relayd.limits.ledger import Ledger
from relayd.limits.window import Span
from relayd.proxy.gateway import Gateway
from relayd.telemetry.names import METRICS
from relayd.telemetry.settings import TelemetrySettings
from relayd.telemetry.telemetry import Telemetry
from relayd.upstream.transport.client import StreamClient


def rig() -> tuple[RateReports, Ledger, io.StringIO, Telemetry]:
    log = io.StringIO()
    telemetry = Telemetry.build(TelemetrySettings(access_format="off"), log)
    client = StreamClient(force_instance=True)
    gateway = Gateway(client, telemetry)
    return RateReports(gateway, client, telemetry), gateway.ledger, log, telemetry


def used(ledger: Ledger, rule: Rule, amount: int) -> Any:
    counter = ledger.counter(rule)
    ledger.apply([counter])
    counter.advance(ledger.now())
    counter.window.settle(counter.window.reserve(0), 0, amount)
    return counter


async def test_a_limit_without_room_is_logged_once_a_minute_and_always_counted() -> None:
    reports, ledger, log, telemetry = rig()
    counter = used(ledger, Rule("consumer team", REQUESTS, 60, Span.sliding(60)), 60)
    for _ in range(3):
        reports.exceeded(counter)
    assert log.getvalue().count("rate_exceeded") == 1
    assert all(part in log.getvalue() for part in ("consumer team", "60", "1m"))
    assert telemetry.metrics.value("relayd.limits.exceeded", limit="consumer team requests/60000ms") == 3


async def test_a_crossed_threshold_of_a_budget_is_a_warning_with_amounts_of_money() -> None:
    reports, ledger, log, _ = rig()
    reports.warned(used(ledger, Rule("group paying", COST, 10**11, Span.sliding(86400)), 8 * 10**10), 0.8)
    assert all(part in log.getvalue() for part in ("budget_warning", "80%", "group paying", "100", "1d"))


async def test_the_gauge_is_the_used_share_of_each_limit_of_the_plan() -> None:
    reports, ledger, _, telemetry = rig()
    used(ledger, Rule("consumer team", REQUESTS, 60, Span.sliding(60)), 45)
    ledger.counter_of(Rule("route r", REQUESTS, 60, Span.sliding(60), each="client"), "192.0.2.1")
    reports.gauges()
    (metric,) = (one for one in METRICS if one.name == "relayd.limits.used")
    assert list(telemetry.metrics.gauges(metric)) == [(("consumer team requests/60000ms",), 0.75)]


async def test_a_model_without_a_price_is_logged_once() -> None:
    reports, ledger, log, _ = rig()
    counter = used(ledger, Rule("group paying", COST, 10**11, Span.sliding(86400)), 0)
    for model in ("free", "free", "other"):
        reports.unpriced(counter, "up", model)
    assert log.getvalue().count("model_unpriced") == 2 and "group paying" in log.getvalue()
