"""Reports of the store: log events, a gauge, counters."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from relayd.daemon.store_reports import StoreReports
from relayd.plan.plan import Plan
from relayd.proxy.gateway import Gateway
from relayd.stores.memory import Store as MemoryStore
from relayd.stores.redis import Store as RedisStore
from relayd.telemetry.names import METRICS
from relayd.telemetry.settings import TelemetrySettings
from relayd.telemetry.telemetry import Telemetry
from tests.aids.ports import free_port
from tests.functional.harness.redis import Redis, needs_redis
from tests.unit.stores.redis_aids import command, settings, until

PLAN = cast(Plan, None)


def rig(store: Any) -> tuple[StoreReports, io.StringIO, Telemetry, Any]:
    log = io.StringIO()
    telemetry = Telemetry.build(TelemetrySettings(access_format="off"), log)
    gateway = SimpleNamespace(store=store)
    reports = StoreReports(cast(Gateway, gateway), telemetry)
    reports.commit(PLAN)
    return reports, log, telemetry, gateway


def values(telemetry: Telemetry, name: str) -> dict[Any, float]:
    metric = next(one for one in METRICS if one.name == name)
    metrics = telemetry.metrics
    return dict(metrics.gauges(metric) if metric.kind == "gauge" else metrics.counters(metric))


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    with Redis(tmp_path / "redis") as server:
        yield server


def test_a_store_in_memory_is_available_and_has_no_events() -> None:
    reports, log, telemetry, _ = rig(MemoryStore(10, 1000, 60.0))
    reports.tick()
    reports.gauges()
    assert values(telemetry, "relayd.store.available") == {(): 1} and not log.getvalue()


@needs_redis()
async def test_each_cause_is_logged_once_and_the_return(redis: Redis) -> None:
    store = RedisStore(settings(redis.port), 10, 1 << 20, 60.0)
    reports, log, telemetry, gateway = rig(store)
    reports.tick()
    assert not log.getvalue(), "a connection that is being opened is no fault"
    await until(lambda: store.server.available)
    assert await command(store.server, "ECHO", "a") == b"a"
    redis.kill()
    await until(lambda: store.server.cause.cause == "connect" and not store.server.available)
    for _ in range(3):
        reports.tick()
    text = log.getvalue()
    assert text.count("redis_unreachable") == 1 and f"127.0.0.1:{redis.port}" in text and "redis_reachable" not in text
    reports.gauges()
    assert values(telemetry, "relayd.store.available") == {(): 0}
    assert values(telemetry, "relayd.store.operations") == {(): 1}
    assert ("connect",) in values(telemetry, "relayd.store.operations_failed")
    redis.start()
    await until(lambda: store.server.available)
    reports.tick()
    assert log.getvalue().count("redis_reachable") == 1
    gateway.store = MemoryStore(10, 1000, 60.0)  # a reload
    reports.commit(PLAN)
    store.close()
    reports.tick()
    reports.gauges()
    assert values(telemetry, "relayd.store.available") == {(): 1} and log.getvalue().count("redis_unreachable") == 1


@needs_redis()
async def test_a_server_that_is_missing_at_the_start_is_logged() -> None:
    store = RedisStore(settings(free_port()), 10, 1 << 20, 60.0)
    reports, log, _, _ = rig(store)
    await until(lambda: not store.server.is_new)
    reports.tick()
    assert "redis_unreachable" in log.getvalue() and "cause=connect" in log.getvalue().replace('"', "").replace(": ", "=")
    store.close()
